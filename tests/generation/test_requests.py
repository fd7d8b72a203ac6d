"""How results show themselves, in a terminal and in a notebook."""

from io import BytesIO

from PIL import Image, ImageChops

from mmada.generation.requests import Answer


def test_a_drawing_shows_its_picture_in_a_notebook(debug):
    drawing = debug.draw("a cat", seed=3, steps=1)
    shown = Image.open(BytesIO(drawing._repr_png_()))
    assert shown.format == "PNG"
    assert ImageChops.difference(shown, drawing.image).getbbox() is None
    assert repr(drawing) == f"Drawing('a cat', size=32x32, seed=3, num_forwards={drawing.num_forwards})"


def test_an_answer_shows_its_text_and_quotes_its_thinking():
    answer = Answer("**7**", "3 + 4\nis 7", "stop", (1, 2, 3), 2)
    assert answer._repr_markdown_() == "> 3 + 4\n> is 7\n\n**7**"
    assert Answer("7", None, "stop", (1,), 1)._repr_markdown_() == "7"
    assert repr(answer) == "Answer('**7**', thinking='3 + 4\\nis 7', finish_reason='stop', num_tokens=3, num_forwards=2)"


def test_an_empty_answer_shows_why():
    empty = Answer("", None, "stop", (1,), 1)
    assert empty._repr_markdown_() == f"*{empty.problem}*"


def test_a_long_text_has_a_short_repr():
    assert len(repr(Answer("word " * 500, "thought " * 500, "length", tuple(range(900)), 40))) < 250
