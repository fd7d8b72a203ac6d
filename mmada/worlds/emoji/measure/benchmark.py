"""The emoji world as a benchmark: held-out examples of every kind, answered and drawn, judged exactly.

    for each kind, with and without thinking:  sample test examples -> requests -> MMaDA.run -> verify
        text, understand     the answer, by worlds/emoji/verify.py
        draw, reason_draw    what the judge sees in the drawing must satisfy the example's spec
    beside it: the judge's own accuracy on real, reconstructed and spoilt pictures, and a feature distance to real pictures

Every test example contains a combination that training never has (worlds/emoji/split.py).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mmada.errors import InputError, suggest
from mmada.eval.exact import run_requests
from mmada.eval.metrics import Share, frechet_distance
from mmada.generation.requests import Answer, ChatRequest, Drawing, DrawRequest, Request, Result
from mmada.pipeline import MMaDA
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.measure.judge import EMPTY, REJECT, Finding, Judge, boxes, labels_of, random_scene
from mmada.worlds.emoji.measure.spoil import SPOILERS
from mmada.worlds.emoji.objects import SHAPES, objects
from mmada.worlds.emoji.scenes import BOXES, SCENE_SIZE, as_encoded, render
from mmada.worlds.emoji.spec import satisfies
from mmada.worlds.emoji.split import is_held_out, scene_combinations
from mmada.worlds.emoji.tasks import KINDS, picture, sample
from mmada.worlds.emoji.verify import is_correct

__all__ = ["Outcome", "Settings", "check_judge", "contact_sheet", "distance_of_drawings", "diversity", "run"]

DRAWN = ("draw", "reason_draw")
OPEN_PLACES = ("draw_two", "draw_count", "draw_counts")
"""Kinds whose prompts do not say where things are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is measured. Raises InputError for an unknown kind or a number below 1."""

    num: int = 50
    """examples of each kind and mode"""
    kinds: tuple[str, ...] = tuple(KINDS)
    modes: tuple[str, ...] = ("direct", "think")
    image_steps: int | None = None
    guidance_scale: float | None = None
    best_of: int = 1
    """drawings of which the model keeps the likeliest"""
    seed: int = 0
    batch: int = 32
    """requests that share forward passes"""

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise InputError(f"kind={kind!r} is unknown: {suggest(kind, KINDS)}")
        for mode in self.modes:
            if mode not in ("direct", "think"):
                raise InputError(f"mode={mode!r} must be direct or think")
        if min(self.num, self.batch, self.best_of) < 1:
            raise InputError(f"num={self.num}, batch={self.batch} and best_of={self.best_of} must be at least 1")


@dataclass(slots=True)
class Outcome:
    """One kind in one mode: how many were right, by type of what was held out, and what it cost."""

    kind: str
    mode: str
    right: list[bool] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    num_forwards: list[int] = field(default_factory=list)
    seconds: float = 0.0
    samples: list[tuple[Example, Result, bool]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; shares by type of what was held out, mean passes and seconds of an example."""
        types = Counter(self.held_out)
        return {
            "kind": self.kind,
            "task": KINDS[self.kind].task,
            "mode": self.mode,
            **Share(sum(self.right), len(self.right)).to_dict(),
            "held_out": {
                name: Share(sum(r for r, h in zip(self.right, self.held_out, strict=True) if h == name), count).to_dict()
                for name, count in sorted(types.items())
            },
            "mean_forwards": round(float(np.mean(self.num_forwards)), 2),
            "seconds_each": round(self.seconds / len(self.right), 4),
        }


def run(model: MMaDA, judge: Judge, settings: Settings, *, on_step: Callable[[float, str], None] | None = None) -> list[Outcome]:
    """Measure a model. on_step(share done, what is being done) is called before each kind and mode."""
    plan = [(kind, mode) for kind in settings.kinds for mode in settings.modes]
    outcomes = []
    for i, (kind, mode) in enumerate(plan):
        if on_step is not None:
            on_step(i / len(plan), f"{kind} {mode}")
        # The same examples with and without thinking.
        rng = np.random.default_rng([settings.seed, list(KINDS).index(kind)])
        examples = [sample(kind, rng, "test") for _ in range(settings.num)]
        outcomes.append(_measure(model, judge, settings, kind, mode, examples))
    return outcomes


def _measure(model: MMaDA, judge: Judge, settings: Settings, kind: str, mode: str, examples: Sequence[Example]) -> Outcome:
    outcome = Outcome(kind, mode)
    for start in range(0, len(examples), settings.batch):
        chunk = examples[start : start + settings.batch]
        requests = [
            _request(example, mode == "think", settings, settings.seed + start + i, model.image_tokenizer.upscale)
            for i, example in enumerate(chunk)
        ]
        begin = time.perf_counter()
        results = run_requests(model, requests)
        outcome.seconds += time.perf_counter() - begin
        right = _judged(judge, chunk, results)
        outcome.right += right
        outcome.held_out += [example.meta.held_out[0][0] for example in chunk]  # all of one type
        outcome.num_forwards += [result.num_forwards for result in results]
        outcome.samples += list(zip(chunk, results, right, strict=True))
    return outcome


def _request(example: Example, think: bool, settings: Settings, seed: int, upscale: int) -> Request:
    if example.task in DRAWN:
        return DrawRequest(
            example.prompt,
            size=(upscale * SCENE_SIZE, upscale * SCENE_SIZE),
            think=think,
            steps=settings.image_steps,
            guidance_scale=settings.guidance_scale,
            seed=seed,
            best_of=settings.best_of,
        )
    images = [Image.fromarray(render(example.scene))] if example.scene is not None else []
    return ChatRequest(example.prompt, images=images, think=think, seed=seed)


def _judged(judge: Judge, examples: Sequence[Example], results: Sequence[Result]) -> list[bool]:
    drawings = [np.asarray(result.image) for result in results if isinstance(result, Drawing)]
    findings = iter(judge.look(np.stack(drawings)) if drawings else [])
    right = []
    for example, result in zip(examples, results, strict=True):
        if isinstance(result, Answer):
            right.append(is_correct(example, result.text))
        else:
            right.append(_shows(example, next(findings)))
    return right


def _shows(example: Example, finding: Finding) -> bool:
    return example.spec is not None and satisfies(example.spec, finding.cells, background=finding.background)


def check_judge(judge: Judge, model: MMaDA | None, *, num: int = 400, seed: int = 1) -> dict[str, Any]:
    """The judge's own accuracy: held-out scenes read exactly, and spoilt objects refused, small and large ones; with a model, also its reconstructions.

    Also the feature distance of the reconstructions to other real pictures, and that of real pictures among themselves.
    """
    rng = np.random.default_rng(seed)
    scenes = [picture(rng, "test") for _ in range(num)]
    pictures = np.stack([render(scene) for scene in scenes])
    others = _real_pictures(num, seed)
    found: dict[str, Any] = {"real": _read(judge, scenes, pictures)}
    found |= {"refused": _refused(judge, rng, num, 32), "refused_single": _refused(judge, rng, num, SCENE_SIZE)}
    found["distance_real"] = _distance(judge, pictures, others)
    if model is not None:
        codes = model.image_tokenizer.encode_images([Image.fromarray(p) for p in pictures])
        rebuilt = np.stack([np.asarray(image) for image in model.image_tokenizer.restore_images(codes)])
        error = np.square(rebuilt.astype(float) - pictures).mean((1, 2, 3))
        psnr = 10 * np.log10(255**2 / np.maximum(error, 1e-9))
        single = np.array([scene.layout == "single" for scene in scenes])
        unseen = np.array([any(c[0] == "style" and is_held_out(c) for c in scene_combinations(scene)) for scene in scenes])
        found |= {
            "reconstructed": _read(judge, scenes, rebuilt),
            "distance_reconstructed": _distance(judge, rebuilt, others),
            "psnr": round(float(psnr[~unseen].mean()), 2),
            "psnr_single": round(float(psnr[single & ~unseen].mean()), 2),
            "psnr_unseen_style": round(float(psnr[unseen].mean()), 2),
            "codes_in_use": int(torch.unique(codes).numel()),
        }
    return found


def distance_of_drawings(judge: Judge, outcomes: Sequence[Outcome], *, seed: int = 1) -> float | None:
    """Feature distance of all drawings to as many real pictures; None for one or none.

    The fewer pictures, the larger it is: compare it with another model's of as many drawings. Those of check_judge are of other numbers.
    """
    drawn = [np.asarray(result.image) for outcome in outcomes for _, result, _ in outcome.samples if isinstance(result, Drawing)]
    return _distance(judge, as_encoded(np.stack(drawn)), _real_pictures(len(drawn), seed)) if len(drawn) > 1 else None


def diversity(model: MMaDA, judge: Judge, *, num: int, seeds: int = 8, seed: int = 1, think: bool | None = None) -> dict[str, float]:
    """How different the drawings of one prompt are, which a model that was rewarded for a few of them alone would show.

    num       prompts that leave places open: held-out examples of OPEN_PLACES in turn
    seeds     drawings of each
    think     whether they are thought about; None: as the model usually draws
    scenes    different scenes among the drawings of a prompt, as the judge reads them, those it refuses aside; mean over prompts
    distance  Euclidean, between the judge's features of two drawings of a prompt; mean over pairs and prompts
    Raises InputError for fewer than one prompt or two seeds.
    """
    if min(num, seeds - 1) < 1:
        raise InputError(f"num={num} prompts with seeds={seeds} each leave nothing to compare; give at least one prompt and two seeds")
    scenes, distances = [], []
    for i in range(num):
        example = sample(OPEN_PLACES[i % len(OPEN_PLACES)], np.random.default_rng([seed, i]), "test")
        drawn = model.run([DrawRequest(example.prompt, think=think, seed=s) for s in range(seeds)])
        pictures = as_encoded(np.stack([np.asarray(drawing.image) for drawing in drawn if isinstance(drawing, Drawing)]))
        read = [tuple(sorted(f.cells.items())) for f in judge.look(pictures) if REJECT not in f.cells.values()]
        scenes.append(len(set(read)))
        distances.append(float(torch.pdist(_features(judge, pictures)).mean()))
    return {"scenes": round(float(np.mean(scenes)), 2), "distance": round(float(np.mean(distances)), 2), "prompts": num, "seeds": seeds}


def _real_pictures(num: int, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng([seed, 1])
    return np.stack([render(picture(rng, "test")) for _ in range(num)])


def _read(judge: Judge, scenes: Sequence[Any], pictures: NDArray[np.uint8]) -> dict[str, float | int]:
    findings = judge.look(pictures)
    return Share(sum(f.cells == s.cells for f, s in zip(findings, scenes, strict=True)), len(scenes)).to_dict()


def _refused(judge: Judge, rng: np.random.Generator, num: int, cell_side: int) -> dict[str, dict[str, float | int]]:
    """Share of spoilt objects (no plain shapes) that the judge takes for no object, by kind of spoiling; of cells of so many pixels."""
    plain = {name for name, thing in objects().items() if thing.category in SHAPES}
    crops: list[tuple[NDArray[np.uint8], str]] = []
    while len(crops) < num:
        scene = random_scene(rng)
        pixels = render(scene)
        for cell, label in labels_of(scene, pixels).items():
            left, top, side = BOXES[cell]
            if label not in (EMPTY, REJECT) and label not in plain and side == cell_side:
                crops.append((pixels[top : top + side, left : left + side], label))
    refused = {}
    for name, spoil in SPOILERS.items():
        spoilt = np.stack([spoil(crop, crops[i - 1][0], rng) for i, (crop, _) in enumerate(crops[:num])])
        stacked = torch.from_numpy(spoilt.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
        seen = [judge.classes[i] for i in judge.probabilities(stacked).argmax(-1).tolist()]
        refused[name] = Share(sum(s in (EMPTY, REJECT) for s in seen), len(seen)).to_dict()
    return refused


def _distance(judge: Judge, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    return round(frechet_distance(_features(judge, first), _features(judge, second)), 4)


@torch.inference_mode()
def _features(judge: Judge, pictures: NDArray[np.uint8]) -> torch.Tensor:
    return judge.eval().features(boxes(pictures)["center"])


def contact_sheet(samples: Sequence[tuple[Example, Result, bool]], *, columns: int = 8, side: int = 128) -> Image.Image:
    """Drawings with their prompts below; a red frame where the judge disagrees."""
    drawn = [(example, result, right) for example, result, right in samples if isinstance(result, Drawing)]
    if not drawn:
        raise InputError("samples hold no drawing; give those of a draw kind")
    rows = -(-len(drawn) // columns)
    sheet = Image.new("RGB", (columns * (side + 8), rows * (side + 44)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (example, result, right) in enumerate(drawn):
        x, y = i % columns * (side + 8) + 4, i // columns * (side + 44) + 4
        way = Image.Resampling.NEAREST if result.image.width <= side else Image.Resampling.BOX
        sheet.paste(result.image.resize((side, side), way), (x, y))
        pen.rectangle((x - 2, y - 2, x + side + 1, y + side + 1), outline="green" if right else "red", width=2)
        words, lines = example.prompt.split(), [""]
        for word in words:
            lines = [*lines, word] if len(lines[-1]) + len(word) > 21 else [*lines[:-1], f"{lines[-1]} {word}".strip()]
        pen.multiline_text((x, y + side + 3), "\n".join(lines[:3]), fill="black", spacing=0)
    return sheet
