"""A conversation in the terminal: text grows as it becomes final, thinking is dim, pictures come from and go to files."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mmada.canvas import Message, split_thinking
from mmada.cli.session import printable, report, save
from mmada.errors import InputError, MMaDAError, suggest

if TYPE_CHECKING:
    from mmada.image import ImageSource
    from mmada.pipeline import MMaDA, Progress
    from mmada.sampling import SamplingParams

__all__ = ["Terminal"]

HELP = """\
/image FILE           look at a picture; the next questions are about it
/draw PROMPT          draw a picture into a file
/think on | off       think before answering and drawing
/seed N               the same seed gives the same answer
/reset                forget the conversation and the picture
/quit                 leave (or Ctrl-D)"""


class Terminal:
    """Reads lines, answers them, remembers the turns."""

    def __init__(
        self,
        pipeline: MMaDA,
        *,
        think: bool | None,
        seed: int,
        max_new_tokens: int | None,
        params: SamplingParams | None = None,
        strict: bool = False,
        calculator: bool | None = None,
        console: Console | None = None,
    ) -> None:
        self.pipeline, self.think, self.seed = pipeline, think, seed
        self.max_new_tokens, self.params, self.strict, self.calculator = max_new_tokens, params, strict, calculator
        self.draws_thinking: bool | None = think
        """None: as the checkpoint does by default, until /think says otherwise"""
        self.console = console or Console(highlight=False, markup=False, emoji=False)
        self.is_shown = self.console.is_terminal
        """whether somebody looks; lines from a pipe get nothing but answers"""
        self.messages: list[Message] = []
        self.images: list[ImageSource] = []
        self.num_failed = 0
        """lines that were answered with an error"""
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: self.console.print(HELP),
            "image": self._image,
            "draw": self._draw,
            "think": self._think,
            "seed": self._seed,
            "reset": self._reset,
        }

    def run(self, stream: TextIO) -> None:
        """Until /quit or the end of the stream. An error is said, and the conversation goes on."""
        self._remark("/help for commands, /quit to leave")
        while True:
            try:
                if self.is_shown:
                    self.console.print(Text("you> ", style="bold"), end="")
                line = self._line(stream)
                if not line or line.strip() == "/quit":
                    if self.is_shown:
                        self.console.print()
                    return
                self.take(line.strip())
            except KeyboardInterrupt:
                self._remark("stopped; /quit to leave")
            except MMaDAError as error:
                self.num_failed += 1
                if self.is_shown:
                    self.console.print(Text(str(error), style="red"))
                else:
                    report(error)

    @staticmethod
    def _line(stream: TextIO) -> str:
        try:
            return stream.readline()
        except UnicodeDecodeError as error:
            raise InputError(f"the line is no UTF-8 ({error.reason}); save the text as UTF-8") from error

    def _remark(self, text: str) -> None:
        if self.is_shown:
            self.console.print(Text(text, style="dim"))

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(Text(printable(text), style=style), soft_wrap=not self.is_shown)

    def take(self, line: str) -> None:
        """One line of the user. Raises the package's errors."""
        if line.startswith("/"):
            name, _, rest = line[1:].partition(" ")
            if name not in self._commands:
                raise InputError(f"command /{name} is unknown: {suggest(name, [*self._commands, 'quit'])}")
            self._commands[name](rest.strip())
        elif line:
            self._answer(line)

    def _answer(self, line: str) -> None:
        turns = [*self.messages, Message("user", line)]
        with Live(console=self.console, transient=True, refresh_per_second=12) as live:
            answer = self.pipeline.chat(
                turns,
                images=self.images,
                think=self.think,
                seed=self.seed,
                max_new_tokens=self.max_new_tokens,
                params=self.params,
                strict=self.strict,
                calculator=self.calculator,
                on_step=lambda progress: live.update(self._look(progress)),
            )
        if answer.thinking and self.is_shown:
            self._say(answer.thinking, "dim")
        self._say(answer.text)
        if answer.warning:
            self._remark(answer.warning)
        self.messages = [*turns, Message("assistant", answer.text)]
        if answer.wants_picture and self.is_shown:
            self._remark("drawing it, as /draw does")
            self._draw(line)

    def _look(self, progress: Progress) -> Text:
        """What is final so far, thinking dim, then a bar of how much is left."""
        thought = split_thinking(printable(progress.text()))
        share = Text(f" {progress.fraction:.0%}", style="cyan dim")
        return Text.assemble((f"{thought.thinking or ''}\n" if thought.thinking else "", "dim"), thought.answer, share)

    def _image(self, rest: str) -> None:
        from mmada.image import load_image

        path = Path(rest)
        if not path.is_file():  # perhaps quoted, as a terminal writes a file that is dropped on it
            try:
                paths = shlex.split(rest)
            except ValueError as error:
                raise InputError(f"/image {rest} cannot be read ({error}); write the file's name without quotes") from error
            if len(paths) != 1:
                raise InputError(f"/image takes one file, got {len(paths)}; try /image photo.png")
            path = Path(paths[0])
        picture = load_image(path)
        self.images, self.messages = [picture], []
        self._remark(f"looking at {path} ({picture.width}x{picture.height})")

    def _draw(self, rest: str) -> None:
        with self.console.status("drawing"):
            drawing = self.pipeline.draw(rest, think=self.draws_thinking, seed=self.seed)
        if drawing.thinking and self.is_shown:
            self._say(drawing.thinking, "dim")
        if drawing.warning:
            self._remark(drawing.warning)
        names = (Path(f"drawing-{number}.png") for number in count(1))
        save(drawing.image, next(path for path in names if not path.exists()))

    def _think(self, rest: str) -> None:
        if rest not in ("on", "off"):
            raise InputError(f"/think={rest!r} must be on or off")
        self.think = self.draws_thinking = rest == "on"

    def _seed(self, rest: str) -> None:
        if not rest.isdecimal():
            raise InputError(f"/seed={rest!r} must be a whole number; try /seed 1")
        self.seed = int(rest)

    def _reset(self, rest: str) -> None:
        self.messages, self.images = [], []
        self._remark("forgotten")
