"""The public API as a typed program uses it: `mypy --strict` and pyright's strict mode check this file, and the tests run it.

python examples/typed_user.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from torch import Tensor

from mmada import (
    Answer,
    ChatRequest,
    Drawing,
    DrawRequest,
    EmptyAnswerError,
    FillRequest,
    GenerationConfig,
    Message,
    MMaDA,
    MMaDAError,
    SamplingParams,
    fast_text,
)
from mmada.pipeline import Progress


def text_of(model: MMaDA, messages: Sequence[Message]) -> str:
    """An answer, or why there is none."""
    try:
        answer: Answer = model.chat(messages, think=True, max_new_tokens=24, params=fast_text(threshold=0.8, block_length=8))
    except EmptyAnswerError as error:
        return f"{error}: {error.results}"
    thinking: str | None = answer.thinking
    return answer.text if thinking is None else f"({thinking}) {answer.text}"


def pictures_of(model: MMaDA, prompts: Sequence[str]) -> list[Image.Image]:
    """One picture for each prompt, drawn together, with the share that is done after each step."""
    shares: list[float] = []

    def on_step(progress: Progress) -> None:
        shares.append(progress.fraction)

    results: list[Answer | Drawing] = model.run([DrawRequest(prompt, steps=2) for prompt in prompts], on_step=on_step)
    assert shares == sorted(shares)
    return [result.image for result in results if isinstance(result, Drawing)]


def main() -> None:
    model: MMaDA = MMaDA.from_pretrained("debug")
    defaults: GenerationConfig = model.defaults
    params: SamplingParams = fast_text().with_(temperature=0.5)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "cat.png"
        drawing: Drawing = model.draw("a cat", size=(defaults.image_height, defaults.image_width), seed=3)
        drawing.image.save(file)
        codes: Tensor = drawing.codes
        (seen, filled) = model.run(
            [ChatRequest("What is this?", [file], max_new_tokens=8, params=params), FillRequest("The [MASK:2] sat.")]
        )
    try:
        model.draw(" ")
    except MMaDAError as error:
        refused: str = str(error)
    else:
        raise AssertionError("an empty prompt is refused")
    pictures = pictures_of(model, ["a cat", "a dog"])
    print(tuple(codes.shape), [picture.size for picture in pictures], refused, seen, filled, text_of(model, [Message("user", "Hello")]))


if __name__ == "__main__":
    main()
