"""Misspelled words: what is read as a taught word, and what stays as it is written."""

import pytest

from mmada.errors import InputError
from mmada.generation.lexicon import Lexicon
from mmada.generation.requests import ChatRequest, DrawRequest, NotDrawnError
from mmada.generation.speller import Speller, corrections_said, edit_of
from mmada.pipeline import MMaDA

TAUGHT = {"apples": 90, "kitten": 30, "draw": 200, "train": 30, "same": 40, "forty": 5, "five": 50, "thing": 60, "thank": 60, "cats": 90}
SPELLER = Speller(TAUGHT, {"kitchen", "cars", "rain", "a", "has", "and", "please"})


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("two aples", "two apples"),
        ("Darw a kiitten.", "Draw a kitten."),
        ("a tain. Thnig!", "a train. Thing!"),
        ("fotry-fvie", "forty-five"),
        ("the kiten's toy", "the kitten's toy"),
    ],
)
def test_what_is_misspelled_is_read(text, read):
    said, corrections = SPELLER.read(text)
    assert said == read
    for written, taught in corrections:
        text = text.replace(written, taught)
    assert text == read


@pytest.mark.parametrize(
    "text",
    [
        "a kitchen",  # known, though it is no taught word
        "two cars",  # never cats
        "a zeppelin",  # not known, and near nothing
        "Sama has apples",  # a name: any letter may differ
        "I met Aples, and he has a cat",  # a name inside a sentence
        "cta and dgo",  # too short
        "see http://aples.com, me@aples.com and aples_2",
        "it's and whats't",
        "ein rotes auto bitte zeichnen aples",  # another language
    ],
)
def test_what_stays(text):
    assert SPELLER.read(text) == (text, ())


def test_of_several_candidates_one_must_be_clearly_best():
    speller = Speller({"think": 50, "thank": 45, "three": 500, "there": 50}, ())
    assert speller.read("thnk")[0] == "thnk"
    assert speller.read("thre")[0] == "three"
    assert Speller({"thank": 45}, {"thunk"}).read("thnk")[0] == "thank"
    assert Speller({"musical": 2}, {"musician"}).read("musican")[0] == "musican"  # which the world lacks


@pytest.mark.parametrize(
    ("written", "meant", "is_one"),
    [
        ("aple", "apple", 0),
        ("appple", "apple", 0),
        ("paple", "apple", 0),
        ("apxle", "apple", 1),
        ("axpple", "apple", 1),
        ("appel", "apple", 0),
    ],
)
def test_a_slip(written, meant, is_one):
    assert (edit_of(written, meant) or 0) > 0 if is_one else edit_of(written, meant) == 0


def test_more_than_a_slip_is_none():
    assert [edit_of(*pair) for pair in (("apple", "apple"), ("a", "apple"), ("plape", "apple"), ("abble", "apple"))] == [None] * 4


def test_nothing_is_corrected_without_words_that_were_taught():
    lexicon = Lexicon(("kitten",), ("a",))
    assert lexicon.speller.read("a kiten") == ("a kiten", ())


def test_what_was_read_is_said():
    assert corrections_said(()) is None
    assert corrections_said((("aples", "apples"), ("tain", "train"))) == 'I read "aples" as "apples", "tain" as "train".'
    assert corrections_said(tuple((f"a{i}", "a") for i in range(9))).endswith('"a5" as "a", and 3 more.')


@pytest.fixture(scope="module")
def chat():
    return MMaDA.from_pretrained("mmada-emoji-chat")


def test_answers_say_what_was_read(chat):
    answer = chat.chat("What's twwice 32?")
    assert (answer.text, answer.corrections, answer.warning) == ("64", (("twwice", "twice"),), 'I read "twwice" as "twice".')
    earlier = [
        {"role": "user", "content": "helllo"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "What's twice 32?"},
    ]
    assert chat.chat(earlier).corrections == ()  # it was said then
    assert chat.chat("What's twice 32?", strict=True).warning is None


def test_strict_requests_are_read_as_they_are_written(chat):
    canvas = chat.planner.chat_canvas
    plain = canvas(ChatRequest("twwice 32"), 8, (), chat.planner.text_params())
    strict = canvas(ChatRequest("twwice 32", strict=True), 8, (), chat.planner.text_params())
    assert len(plain) < len(strict)
    with pytest.raises(InputError, match="I cannot draw: riight"):
        chat.draw("a dog on the riight", strict=True)


def test_drawings_say_what_was_read(chat):
    assert chat.draw("an elefant", steps=2).corrections == (("elefant", "elephant"),)  # by rule
    with pytest.raises(InputError, match="I cannot draw: elefant"):
        chat.draw("an elefant", strict=True)
    drawing = chat.draw("a dog on the riight", steps=2)
    assert (drawing.corrections, drawing.unknown) == ((("riight", "right"),), ())
    assert drawing.warning == 'I read "riight" as "right".'
    with pytest.raises(
        NotDrawnError, match=r'prompt=.a truk and six doggs. cannot be drawn: .*I read "truk" as "truck", "doggs" as "dogs"\.'
    ):
        chat.run([DrawRequest("a truk and six doggs")])
