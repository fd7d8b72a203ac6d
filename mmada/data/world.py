"""A world: a source of samples with exact answers, which a model is trained on and measured by.

    class Sums(World):
        name, tasks = "sums", ("text",)

        def sample(self, key: SampleKey) -> WorldSample:
            a, b = key.rng().integers(10, size=2)
            return WorldSample(f"{a} + {b}?", answer=str(a + b))

`sample` is all that a world must have. Everything else has a default and adds a skill:

    image_size, picture     pictures, for training and for an image tokenizer
    large_picture           the same pictures in larger, for its upscaler
    kinds                   kinds of a task, which a run may narrow down to
    verify                  whether an answer is right: then `mmada eval NAME` and the reward `correct` work
    asked, is_asked_for     what of a drawing prompt asks for something to be seen
    with_commas             commas of lists, in what a chat is asked
    completed, doubt_of     what of a thought is certain by rule, and what looks wrong
    check_plan, restated    a look at plans before they are drawn, for checkpoints whose mmada.json names the world
    showcase, limits        what visitors of the studio may try with one click, and what a model of the world cannot do
    rewards, suites         rewards and measurements of its own
    recipes                 stages of training, as YAML files
    corpus                  texts that a new text tokenizer learns its merges from

A world is found by its name (data/find_world.py). docs/worlds.md is the tutorial.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmada.data.seeds import generator, uniforms
from mmada.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from mmada.canvas import Message

__all__ = ["Measured", "Pixels", "SampleKey", "Showpiece", "Split", "Suite", "SuiteSettings", "World", "WorldReward", "WorldSample"]

Split: TypeAlias = Literal["train", "test"]
Pixels: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) RGB, square, `image_size` pixels along a side."""
WorldReward: TypeAlias = Callable[[Sequence[Any]], Sequence[float | None]]
"""A reward, as rl/rewards/combine.py has it: samples (rl.records.Sample) -> one value each, None where it does not apply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleKey:
    """Which sample is asked for. All that is random about the sample is drawn from the key, so it is the same on every machine.

    stream  first word of the random stream, so that prompts of reinforcement learning are not the samples of training
    kinds   only these kinds of the task; empty: any
    """

    task: str
    split: Split
    seed: int
    index: int
    stream: str
    kinds: tuple[str, ...] = ()

    def rng(self, name: str = "") -> np.random.Generator:
        """The sample's own generator. Another `name` gives an independent one, which leaves the first as it is."""
        if name:
            return generator(name, self.task, self.seed, self.index)
        return generator(self.stream, self.task, self.split, self.seed, self.index)

    def uniform(self, name: str) -> float:
        """One number in [0, 1), independent of every generator."""
        return uniforms(1, name, self.task, self.seed, self.index)[0]


@dataclass(frozen=True, slots=True, eq=False)
class WorldSample:
    """What is said, thought, answered and shown. WorldSample("how many?", answer="2", seen=(pixels,)) is a question about a picture.

    texts, questions   messages (seen)  -> think, answer
    drawings           messages         -> drawn
    thought drawings   messages         -> think, answer (a plain drawing prompt), drawn
    gaps               pieces           -> every second one
    """

    messages: str | Sequence[Message] = ()
    """the user's question, or a conversation that ends with one; empty: the answer is a text that is learned as it is"""
    _: KW_ONLY
    think: str | None = None
    """reasoning that leads to the answer, without tags"""
    answer: str = ""
    seen: tuple[Pixels, ...] = ()
    """pictures that are given"""
    drawn: Pixels | None = None
    """the picture to be made"""
    pieces: tuple[str, ...] = ()
    """of a text with gaps: given and learned pieces in turn (layout infill)"""
    origin: Any = None
    """what `verify` and rewards know of the sample; the engine only passes it on"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Showpiece:
    """Something that a model of a world can do, as an example to click on."""

    ability: str
    """in a few words, such as "Draw\""""
    text: str
    """what is typed; of an edit: its title"""
    kind: Literal["draw", "chat", "edit"]
    think: bool = False
    picture: Pixels | None = None
    """that is asked about, or edited"""
    large: Pixels | None = None
    """of an edit: the picture as a model with an upscaler draws it, larger by a whole factor"""
    prompt: str = ""
    """of an edit: what the picture shows in the end"""
    at: tuple[int, int] | None = None
    """of an edit: x and y of a pixel of the thing that is drawn anew"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteSettings:
    """The options of `mmada eval`, as a suite reads them. None is the checkpoint's own value."""

    num: int = 50
    """examples of each kind and mode"""
    kinds: tuple[str, ...] = ()
    """only these; empty: all"""
    modes: tuple[str, ...] = ("direct", "think")
    seed: int = 0
    steps: int | None = None
    guidance_scale: float | None = None
    best_of: int = 1
    threshold: float | None = None
    """of texts"""
    image_threshold: float | None = None
    cache: str | None = None
    batch: int = 32
    """requests that share forward passes"""
    model: str = ""
    """name or directory of the checkpoint"""
    device: str | None = None
    dtype: str = "auto"
    detailed: bool = False
    """a result file is written: also measure what only the file shows"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a suite found."""

    values: Mapping[str, Any]
    """for the result file; JSON"""
    lines: Sequence[str] = ()
    """for the terminal"""
    sheets: Mapping[str, Callable[[], Image.Image]] = field(default_factory=dict)
    """file stem -> a contact sheet of drawings, made when it is asked for"""


class Suite(Protocol):
    """What `mmada eval NAME` runs.

    options      of the command that it takes; a given option that is not among them is refused
    needs_model  whether `run` is given a loaded pipeline; otherwise it gets None
    """

    @property
    def options(self) -> Sequence[str]: ...
    @property
    def needs_model(self) -> bool: ...
    def run(self, model: Any, settings: SuiteSettings, on_step: Callable[[float, str], None]) -> Measured:
        """Measure. on_step(share done, what is being done) reports progress."""
        ...


class World(ABC):
    """A source of samples with exact answers. Subclasses may be dataclasses: their fields are what `data.options` sets."""

    name: ClassVar[str]
    """also the first word of the random stream of its samples"""
    tasks: ClassVar[tuple[str, ...]]
    """names of tasks. The words text, understand, draw and reason_draw are what published and general stages ask for"""
    gap_tasks: ClassVar[tuple[str, ...]] = ()
    """tasks whose samples are `pieces`"""
    image_size: ClassVar[int] = 0
    """pixels along a side of its pictures; 0: it has none"""

    limits: ClassVar[str] = ""
    """what a model of the world cannot do, in sentences for visitors"""

    @abstractmethod
    def sample(self, key: SampleKey) -> WorldSample:
        """The sample of a key. The same key gives the same sample; no test sample may be a training sample."""

    def picture(self, rng: np.random.Generator, split: Split) -> Pixels:
        """A picture for an image tokenizer. Raises InputError in a world without pictures."""
        raise InputError(f"world {self.name!r} has no pictures to train an image tokenizer on; use another data.world")

    def large_picture(self, rng: np.random.Generator, split: Split, *, scale: int) -> Pixels:
        """The `picture` of the same generator, `scale` times as large, for an upscaler. Raises InputError in a world that has no larger ones."""
        raise InputError(f"world {self.name!r} has no pictures of {scale} times its size to train an upscaler on; use another data.world")

    @property
    def kinds(self) -> Mapping[str, tuple[str, ...]]:
        """Task -> names of its kinds."""
        return {}

    @property
    def verifies(self) -> bool:
        """Whether `verify` is there."""
        return type(self).verify is not World.verify

    def verify(self, origin: Any, answer: str | Pixels) -> bool:
        """Whether a text without its thoughts, or a drawing, is right.

        origin  that of the sample which was asked
        answer  a drawing has `image_size`, or any multiple of it where there is a `large_picture`
        """
        raise InputError(f"world {self.name!r} does not verify answers; reward something else")

    def pixels_of(self, drawn: Image.Image) -> Pixels:
        """A drawing as `verify` takes it: made smaller if the model draws larger pictures than this world has."""
        drawn = drawn.convert("RGB")
        knows_larger = type(self).large_picture is not World.large_picture
        if self.image_size and not knows_larger and drawn.size != (self.image_size, self.image_size):
            drawn = drawn.resize((self.image_size, self.image_size))
        return np.asarray(drawn)

    def check_plan(self, prompt: str, plan: str | None) -> str | None:
        """Why a drawing cannot be made of a prompt, in half a sentence; None if it can.

        plan  the plain prompt that thinking made of it; None: only the prompt is known yet
        """
        return None

    def asked(self, prompt: str) -> str:
        """The part of a drawing prompt that asks for something to be seen, without what is told beside it; by default all of it."""
        return prompt

    def is_asked_for(self, prompt: str, phrase: str) -> bool:
        """Whether a phrase of a prompt that is not known surely asks for something to be seen. False: the plan decides, where plans name such phrases."""
        return False

    def restated(self, prompt: str) -> str | None:
        """What a drawing prompt asks for, in words that a model of this world was taught; None where that cannot be told."""
        return None

    def completed(self, turns: Sequence[str], thought: str, is_closed: bool) -> tuple[str, str | None] | None:
        """What of a thought is certain by rule, such as the result of a sum that it has set up; None: nothing is.

        turns      what was said so far; the last one is thought about
        is_closed  whether the thought has ended
        Returns the thought from its beginning with what was wrong in it put right, nothing behind that, and what follows for certain. Also the
        answer, if the thought is complete; None: it may go on.
        """
        return None

    def doubt_of(self, prompt: str, thought: str) -> str | None:
        """Why an answer with this thought may be wrong, as a sentence for its warning; None: nothing is known against it."""
        return None

    def with_commas(self, text: str) -> str:
        """A turn of a chat with the commas that a list of things lacks; by default as it is."""
        return text

    def showcase(self) -> Sequence[Showpiece]:
        """What visitors of a model may try."""
        return ()

    def is_plain(self, prompt: str) -> bool:
        """Whether `restated` says all that a prompt asks for of what is known, so that its words serve better than those of a stranger."""
        return False

    def rewards(self) -> Mapping[str, WorldReward]:
        """Name -> reward. A name of a general reward takes its place."""
        return {}

    def suites(self) -> Mapping[str, Suite]:
        """Name -> suite. A world that verifies and has no suite of its own name gets the general one (eval/exact.py)."""
        return {}

    @property
    def recipes(self) -> Path | None:
        """Folder of stages, one YAML file each."""
        return None

    def corpus(self, num: int) -> Iterator[str]:
        """About `num` samples as texts, for a new text tokenizer; by default training samples of every task alike."""
        tasks = [task for task in self.tasks if task not in self.gap_tasks]
        for task in tasks:
            for index in range(num // len(tasks)):
                sample = self.sample(SampleKey(task=task, split="train", seed=0, index=index, stream="corpus"))
                yield from _texts(sample)


def _texts(sample: WorldSample) -> Iterator[str]:
    """Everything that is said in a sample, thoughts as the model writes them."""
    yield from [sample.messages] if isinstance(sample.messages, str) else (message.content for message in sample.messages)
    yield sample.answer
    if sample.think:
        yield f"<think> {sample.think}</think> {sample.answer}"
