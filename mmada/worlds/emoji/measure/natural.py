"""Drawing requests in ordinary English as a benchmark: what is drawn, what is said not to be known, and what noise does.

natural     hand-written requests (natural.txt) for what the world has, drawn and judged
unknown     requests for what it lacks: is it said so (`missed` where not), and the same of requests that it can fulfill (`refused`)
perturbed   the natural requests under each surface noise
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

import numpy as np

from mmada.data.world import Measured, SuiteSettings
from mmada.eval.exact import run_requests
from mmada.eval.metrics import Share
from mmada.generation.requests import Drawing, DrawRequest
from mmada.worlds.emoji.chooser import Chooser
from mmada.worlds.emoji.grammar import parse
from mmada.worlds.emoji.measure.judge import the_judge
from mmada.worlds.emoji.natural.lists import unknown_words
from mmada.worlds.emoji.natural.noise import NOISES, apply
from mmada.worlds.emoji.objects import article
from mmada.worlds.emoji.spec import SceneSpec, satisfies

__all__ = ["Natural", "Wish", "drawn", "is_honest", "wishes"]

STRANGE = (
    "any chance of {a}?", "{a}", "my nephew asks for {a}", "one {word}, quickly", "a portrait of {a}", "I fancy {a}", "{a} would be great",
    "what about a nice {word}", "a {word} in a garden", "could we see {a}",
)  # fmt: skip
"""Requests for a word that no training request has."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A request, what must be drawn (None: nothing), and a word that must be named as unknown."""

    prompt: str
    spec: SceneSpec | None
    unknown: str | None = None


@cache
def wishes() -> tuple[Wish, ...]:
    """The hand-written requests."""
    found = []
    for line in files(__package__).joinpath("natural.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        prompt, _, demand = line.rpartition(" => ")
        plain, _, unknown = demand.partition(" ! ")
        spec = parse(plain)
        assert spec is not None or plain == "nothing", line
        found.append(Wish(prompt, spec, unknown or None))
    return tuple(found)


def strange(num: int, seed: int) -> tuple[Wish, ...]:
    """Requests for nouns of the held-out half of the words that the world lacks."""
    c = Chooser(np.random.default_rng([seed, 26]))
    words = [c.pick(unknown_words("nouns", "test")) for _ in range(num)]
    return tuple(Wish(c.pick(STRANGE).format(word=word, a=f"{article(word)} {word}"), None) for word in words)


class Natural:
    """`mmada eval` of requests in ordinary English: the right picture, and what the world lacks said. Rows by kind and by noise."""

    options: ClassVar[tuple[str, ...]] = ("model", "num", "seed", "image_tokenizer", "batch", "device", "dtype")
    needs_model: ClassVar[bool] = True

    def run(self, model: Any, settings: SuiteSettings, on_step: Callable[[float, str], None]) -> Measured:
        """Raises nothing of its own: what is refused counts as such."""
        rows: list[dict[str, Any]] = []
        misses: dict[str, list[str]] = {}

        def add(kind: str, asked: Sequence[Wish], judged: Callable[[Wish, Drawing, bool], bool]) -> None:
            on_step(len(rows) / (3 + len(NOISES)), kind)
            right = [judged(*found) for found in drawn(model, asked, settings)]
            misses[kind] = [wish.prompt for wish, is_right in zip(asked, right, strict=True) if not is_right]
            rows.append({"kind": kind, "mode": "think", **Share(sum(right), len(right)).to_dict()})

        known = [wish for wish in wishes() if wish.spec is not None and wish.unknown is None]
        add("natural_draw", known, lambda wish, drawing, shows: shows)
        add("natural_unknown", [wish for wish in wishes() if wish not in known], is_honest)
        add("unknown_words", strange(settings.num, settings.seed), is_honest)
        add("false_refusal", known, lambda wish, drawing, shows: not drawing.problem and not drawing.unknown)
        for noise in NOISES:
            c = Chooser(np.random.default_rng([settings.seed, NOISES.index(noise)]))
            add(f"perturbed_{noise}", [Wish(apply(c, noise, wish.prompt), wish.spec) for wish in known], lambda wish, drawing, shows: shows)
        lines = [f"{row['kind']:<28} {row['value']:>7.3f}   {row['low']:.3f} - {row['high']:.3f}   n {row['total']}" for row in rows]
        return Measured(
            values={"model": settings.model, "num": settings.num, "seed": settings.seed, "outcomes": rows, "misses": misses}, lines=lines
        )


def drawn(model: Any, asked: Sequence[Wish], settings: SuiteSettings) -> list[tuple[Wish, Drawing, bool]]:
    """Each request with its drawing, and whether the picture shows what must be drawn."""
    found: list[tuple[Wish, Drawing, bool]] = []
    for start in range(0, len(asked), settings.batch):
        chunk = asked[start : start + settings.batch]
        results = run_requests(model, [DrawRequest(wish.prompt, seed=settings.seed + start + i) for i, wish in enumerate(chunk)])
        drawings = [result for result in results if isinstance(result, Drawing)]
        seen = the_judge().look(np.stack([np.asarray(drawing.image) for drawing in drawings]))
        for wish, drawing, look in zip(chunk, drawings, seen, strict=True):
            shows = wish.spec is not None and not drawing.problem and satisfies(wish.spec, look.cells, background=look.background)
            found.append((wish, drawing, shows))
    return found


def is_honest(wish: Wish, drawing: Drawing, shows: bool) -> bool:
    """Nothing is drawn where nothing can be; and what is unknown of the rest is named. A word beside others may be drawn around."""
    if wish.spec is None:
        return drawing.problem is not None or bool(drawing.unknown)
    return shows and wish.unknown is not None and any(wish.unknown in phrase for phrase in drawing.unknown)
