"""Prompts by a writer who saw neither the training sentences nor the rules: what comes back when strangers type what they like.

draw, unknown      drawing requests (strangers_draw.txt): the right picture; what the world lacks is said
look, facts        questions about pictures and about things, in the stranger's words (strangers.txt)
problems, sums     whole word problems and sums with their answers
talk               small talk and what cannot be done, by a fixed rubric: the answer belongs to an intention that fits
others_problems,   the same by two more writers, whom nobody is taught (others/): each sentence once, with numbers, people and things
others_sums,       of the held-out side
others_talk
noise_NAME         some of all these again, each surface noise alone, and none; texts also behind a system turn and behind earlier turns
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from typing import Any, ClassVar, TypeVar

import numpy as np
from PIL import Image

from mmada.canvas import Message
from mmada.data.world import Measured, SuiteSettings
from mmada.eval.exact import run_requests
from mmada.eval.metrics import Share
from mmada.generation.requests import Answer, ChatRequest
from mmada.worlds.emoji.chooser import Chooser, DeadEndError
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.knowledge import KNOWLEDGE
from mmada.worlds.emoji.measure.natural import Wish, drawn, is_honest
from mmada.worlds.emoji.natural.noise import NOISES, apply
from mmada.worlds.emoji.natural.problems import problem_of, sum_of
from mmada.worlds.emoji.natural.talk import ANSWERS
from mmada.worlds.emoji.natural.voice import read_sections, sections
from mmada.worlds.emoji.questions import QUESTIONS
from mmada.worlds.emoji.scenes import render
from mmada.worlds.emoji.spec import SceneSpec
from mmada.worlds.emoji.split import Templates
from mmada.worlds.emoji.verify import is_correct, normalize_answer

__all__ = ["FITTING", "Strangers", "asked_lines", "other_lines", "strangers_wishes"]

FITTING: Mapping[str, tuple[str, ...]] = {
    "greeting": ("greeting", "how_are_you"), "how_are_you": ("how_are_you", "greeting"), "thanks": ("thanks", "praise"), "bye": ("bye",),
    "who": ("who", "abilities"), "abilities": ("abilities", "who", "known", "help"), "help": ("help", "abilities", "who", "yes_no"),
    "praise": ("praise", "thanks"), "scold": ("scold", "sorry"), "sorry": ("sorry", "scold"), "known": ("known", "abilities"),
    "yes_no": ("yes_no", "greeting", "praise", "thanks", "sorry"), "out": ("out",), "nonsense": ("nonsense", "out", "yes_no"),
}  # fmt: skip
"""Intention of a prompt -> intentions whose answer is acceptable."""
_T = TypeVar("_T")
PROBES = 40
"""prompts under each noise"""
_BEFORE: Mapping[str, Callable[[str], tuple[Message, ...]]] = {
    "none": lambda text: (Message("user", text),),
    "system": lambda text: (Message("system", "Current date: 2026-11-29. You are a helpful assistant."), Message("user", text)),
    "earlier": lambda text: (Message("user", "hello"), Message("assistant", ANSWERS["greeting"][1]), Message("user", text)),
    "no_break_spaces": lambda text: (Message("user", text.replace(" ", "\u00a0")),),
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A chat request, and who says whether its answer is right."""

    request: ChatRequest
    is_right: Callable[[str], bool]

    @property
    def prompt(self) -> str:
        said = self.request.messages
        return said if isinstance(said, str) else str(said[-1])


class _Stranger(Chooser):
    """A chooser that speaks with the stranger's words."""

    def template(self, table: Templates) -> str:
        lines = asked_lines().get(table.name)
        return self.pick(lines) if lines else super().template(table)


@cache
def asked_lines() -> Mapping[str, tuple[str, ...]]:
    """Section -> what the stranger wrote, without what a training sentence happens to say in the same words."""
    written = read_sections(files(__package__).joinpath("strangers.txt").read_text(encoding="utf-8"))
    return {section: tuple(line for line in lines if _plain(line) not in _trained()) for section, lines in written.items()}


@cache
def _trained() -> frozenset[str]:
    return frozenset(_plain(line) for lines in sections().values() for line in lines)


def _plain(line: str) -> str:
    return line.lower().strip(" .!?")


@cache
def other_lines() -> Mapping[str, tuple[str, ...]]:
    """Section -> what two more writers wrote, without what a training sentence happens to say."""
    found: dict[str, list[str]] = {}
    for file in sorted(files(__package__).joinpath("others").iterdir(), key=lambda file: file.name):
        for section, lines in read_sections(file.read_text(encoding="utf-8")).items():
            found.setdefault(section, []).extend(line for line in lines if _plain(line) not in _trained())
    return {section: tuple(dict.fromkeys(lines)) for section, lines in found.items()}


@cache
def strangers_wishes() -> tuple[Wish, ...]:
    """The drawing requests, with what must be drawn or named."""
    found = []
    for line in files(__package__).joinpath("strangers_draw.txt").read_text(encoding="utf-8").splitlines():
        wanted, _, prompt = line.partition(" | ")
        parts = [part.strip() for part in wanted.replace(";", ",").split(",")]
        unknown = next((part.removeprefix("unknown: ") for part in parts if part.startswith("unknown: ")), None)
        found.append(Wish(prompt, _spec([part for part in parts if not part.startswith("unknown: ")]), unknown))
    return tuple(found)


def _spec(parts: Sequence[str]) -> SceneSpec | None:
    """Demands such as "dog 2", "cat 1 top left" and "background pink"."""
    background = next((part.removeprefix("background ") for part in parts if part.startswith("background ")), None)
    things = [part for part in parts if not part.startswith("background ")]
    counts: dict[str, int] = {}
    places: dict[str, str] = {}
    for part in things:
        words = part.split(" ")
        at = next(i for i, word in enumerate(words) if word.isdecimal())
        name, place = " ".join(words[:at]), " ".join(words[at + 1 :])
        counts[name] = counts.get(name, 0) + int(words[at])
        if place:
            places[place] = name
    if not counts:
        return None
    return SceneSpec.placed(places, background=background) if places else SceneSpec.of(counts, background=background)


def _written(section: str) -> list[tuple[str, str]]:
    """Pairs of prompt and answer."""
    return [(text, answer) for answer, _, text in (line.partition(" | ") for line in asked_lines()[section])]


def _chat(text: str, is_right: Callable[[str], bool], seed: int) -> _Asked:
    return _Asked(ChatRequest(text, seed=seed), is_right)


def _exact(answer: str) -> Callable[[str], bool]:
    return lambda said: normalize_answer(said) == answer


def _sampled(make: Callable[[Chooser], Example], num: int, seed: int) -> list[_Asked]:
    """Questions of the world in the stranger's words."""
    found: list[_Asked] = []
    rng = np.random.default_rng(seed)
    while len(found) < num:
        try:
            example = make(_Stranger(rng))
        except DeadEndError:
            continue
        pictures = () if example.scene is None else (Image.fromarray(render(example.scene)),)
        request = ChatRequest(example.prompt, images=pictures, seed=seed + len(found))
        found.append(_Asked(request, lambda said, example=example: is_correct(example, said)))  # type: ignore[misc]
    return found


def _talk(intention: str, seed: int, lines: Mapping[str, tuple[str, ...]]) -> list[_Asked]:
    fitting = {ANSWERS[name][1] for name in FITTING[intention]}
    return [_chat(text, lambda said: said in fitting, seed + i) for i, text in enumerate(lines[f"talk {intention}"])]


def _told(kind: str, make: Callable[[Chooser, str, Callable[[], str]], Example], seed: int) -> list[_Asked]:
    """Each problem or sum of the other writers, with numbers, people and things of the held-out side."""
    found: list[_Asked] = []
    c = Chooser(np.random.default_rng(seed))
    for section, lines in other_lines().items():
        for line in lines if section.startswith(f"{kind} ") else ():
            example = None
            while example is None:
                with suppress(DeadEndError):
                    example = make(c, section.removeprefix(f"{kind} "), partial(str, line))
            found.append(_chat(example.prompt, _exact(example.answer), seed + len(found)))
    return found


class Strangers:
    """`mmada eval` of a stranger's prompts; the rows are listed at the top."""

    options: ClassVar[tuple[str, ...]] = ("model", "num", "kinds", "seed", "image_tokenizer", "batch", "device", "dtype")
    needs_model: ClassVar[bool] = True

    def run(self, model: Any, settings: SuiteSettings, on_step: Callable[[float, str], None]) -> Measured:
        """num: questions about pictures and facts, of each kind. kinds: rows whose name begins so; all by default."""
        rows: list[dict[str, Any]] = []
        misses: dict[str, list[str]] = {}
        plan = self._plan(model, settings)
        for i, (name, judge) in enumerate(plan.items()):
            if settings.kinds and not name.startswith(tuple(settings.kinds)):
                continue
            on_step(i / len(plan), name)
            judged = judge()
            rows.append({"kind": name, "mode": "think", **Share(sum(right for _, right in judged), len(judged)).to_dict()})
            misses[name] = [prompt for prompt, right in judged if not right]
        lines = [f"{row['kind']:<28} {row['value']:>7.3f}   {row['low']:.3f} - {row['high']:.3f}   n {row['total']}" for row in rows]
        return Measured(
            values={"model": settings.model, "num": settings.num, "seed": settings.seed, "outcomes": rows, "misses": misses}, lines=lines
        )

    def _plan(self, model: Any, settings: SuiteSettings) -> dict[str, Callable[[], list[tuple[str, bool]]]]:
        """Row -> what measures it: prompts, and whether each was answered or drawn rightly."""
        seed, num = settings.seed, settings.num

        def asked(requests: Callable[[], list[_Asked]]) -> Callable[[], list[tuple[str, bool]]]:
            return lambda: _answered(model, requests(), settings.batch)

        def drawings(
            wishes: Callable[[], Sequence[Wish]], judged: Callable[[Wish, Any, bool], bool]
        ) -> Callable[[], list[tuple[str, bool]]]:
            return lambda: [(found[0].prompt, judged(*found)) for found in drawn(model, wishes(), settings)]

        known = [wish for wish in strangers_wishes() if wish.unknown is None]
        plan: dict[str, Callable[[], list[tuple[str, bool]]]] = {
            "draw": drawings(lambda: known, lambda wish, drawing, shows: shows),
            "draw_refused": drawings(lambda: known, lambda wish, drawing, shows: not drawing.problem and not drawing.unknown),
            "draw_unknown": drawings(lambda: [wish for wish in strangers_wishes() if wish.unknown], is_honest),
            "problems": asked(lambda: _PROBED["problems"](seed)),
            "sums": asked(lambda: _PROBED["sums"](seed)),
            "talk": asked(lambda: _PROBED["talk"](seed)),
        }
        plan |= {
            "others_problems": asked(lambda: _told("problem", lambda c, kind, line: problem_of(c, "test", kind, line), seed)),
            "others_sums": asked(lambda: _told("sum", sum_of, seed)),
            "others_talk": asked(lambda: [one for intention in FITTING for one in _talk(intention, seed, other_lines())]),
        }
        plan |= {f"look_{kind}": asked(lambda kind=kind: _sampled(QUESTIONS[kind], num, seed)) for kind in QUESTIONS}  # type: ignore[misc]
        plan |= {f"facts_{kind}": asked(lambda kind=kind: _sampled(KNOWLEDGE[kind], num, seed)) for kind in KNOWLEDGE}  # type: ignore[misc]
        for noise in ("none", *NOISES):
            plan[f"noise_{noise}_draw"] = drawings(
                lambda noise=noise: _noisy_wishes(noise, known, seed),  # type: ignore[misc]
                lambda wish, drawing, shows: shows,
            )
        for noise in (*_BEFORE, *NOISES):
            for part in _PROBED:
                plan[f"noise_{noise}_{part}"] = asked(lambda noise=noise, part=part: _noisy(noise, _PROBED[part](seed), seed))  # type: ignore[misc]
        return plan


def _texts(section: str) -> Callable[[int], list[_Asked]]:
    return lambda seed: [_chat(text, _exact(answer), seed + i) for i, (text, answer) in enumerate(_written(section))]


_PROBED: Mapping[str, Callable[[int], list[_Asked]]] = {
    "problems": _texts("whole problem"),
    "sums": _texts("whole sum"),
    "talk": lambda seed: [one for intention in FITTING for one in _talk(intention, seed, asked_lines())],
    "look": lambda seed: [one for kind in QUESTIONS for one in _sampled(QUESTIONS[kind], 4, seed)],
    "facts": lambda seed: [one for kind in KNOWLEDGE for one in _sampled(KNOWLEDGE[kind], 8, seed)],
}
"""What is asked under each noise besides drawings."""


def _some(found: Sequence[_T]) -> Sequence[_T]:
    """So many of them, evenly, so that all kinds are among them."""
    return [found[i * len(found) // PROBES] for i in range(PROBES)] if len(found) > PROBES else found


def _noisy(noise: str, asked: Sequence[_Asked], seed: int) -> list[_Asked]:
    """Some of the requests under a surface noise, or behind other turns."""
    c = Chooser(np.random.default_rng([seed, NOISES.index(noise)])) if noise in NOISES else None
    found = []
    for one in _some(asked):
        text = str(one.request.messages)
        said = _BEFORE[noise](text) if c is None else apply(c, noise, text)
        found.append(_Asked(replace(one.request, messages=said), one.is_right))
    return found


def _noisy_wishes(noise: str, wishes: Sequence[Wish], seed: int) -> Sequence[Wish]:
    if noise == "none":
        return _some(wishes)
    c = Chooser(np.random.default_rng([seed, NOISES.index(noise)]))
    return [replace(wish, prompt=apply(c, noise, wish.prompt)) for wish in _some(wishes)]


def _answered(model: Any, asked: Sequence[_Asked], batch: int) -> list[tuple[str, bool]]:
    """Each prompt, and whether its answer is right."""
    found: list[tuple[str, bool]] = []
    for start in range(0, len(asked), batch):
        chunk = asked[start : start + batch]
        results = run_requests(model, [one.request for one in chunk])
        for one, result in zip(chunk, results, strict=True):
            assert isinstance(result, Answer)
            said = "" if result.problem else result.text.strip()
            found.append((f"{one.prompt} => {said}", one.is_right(said)))
    return found
