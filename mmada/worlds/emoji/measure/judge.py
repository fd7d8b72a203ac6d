"""An independent judge of drawings: what stands in each cell, and whether a person would recognise it.

    picture 64 x 64 -> nine boxes (one of 64, eight of 32 pixels) -> network -> an object, "empty", or "reject" for each box
                    -> the layout whose boxes are all accepted, most surely, with nothing beside them -> Finding

The network is trained on artwork only, never on a generated picture. Accepted is every object in both styles at its usual sizes, also
slightly blurred, noisy and off-colour. Rejected are boxes that cut through objects, hold pieces, or were spoilt (spoil.py). It knows
nothing of the train/test split: all combinations are alike to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmada.errors import CheckpointError
from mmada.worlds.emoji.measure.spoil import HARMLESS_TO_SHAPES, SPOILERS
from mmada.worlds.emoji.objects import SHAPES, STYLES, objects
from mmada.worlds.emoji.scenes import BACKGROUNDS, BOXES, LAYOUTS, SCENE_SIZE, Item, Scene, as_encoded, jittered_item, render

__all__ = ["EMPTY", "REJECT", "Finding", "Judge", "boxes", "labels_of", "random_scene", "the_judge", "training_batches"]

EMPTY, REJECT = "empty", "reject"

REJECT_BIAS = -3.0
"""Added to the logit of "reject" when judging: a third of what it was trained on was spoilt, and pictures are not. With this
it reads all of 1,000 real scenes exactly, and takes 84 % or more of every kind of spoilt art for no object. Of large objects it is 77 %
(half erased ones, of which much is left) and 88 % or more of all other kinds (docs/results/judge.json)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a picture shows. `cells` holds a name outside the world, "reject", where something cannot be recognised."""

    layout: str
    cells: dict[str, str]
    background: str
    confidence: float
    """the least sure box of the layout, 0 to 1"""


def boxes(pictures: NDArray[np.uint8]) -> dict[str, Tensor]:
    """(B, 64, 64, 3) uint8 -> cell -> (B, 3, S, S) float32 in [-1, 1]."""
    pixels = torch.from_numpy(pictures.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    return {cell: pixels[:, :, top : top + side, left : left + side] for cell, (left, top, side) in BOXES.items()}


class _Residual(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.skip = nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class Judge(nn.Module):
    """(B, 3, S, S) in [-1, 1] -> (B, classes) logits; S is 32 or 64. A small residual network with global pooling."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.classes = (*objects(), EMPTY, REJECT)
        self.stem = nn.Conv2d(3, width, 5, 2, 2)
        self.body = nn.Sequential(_Residual(width, 2 * width, 2), _Residual(2 * width, 4 * width, 2), _Residual(4 * width, 6 * width, 1))
        # Large pictures of an object are described by their own last layer: same features, four times as many places.
        self.small = nn.Linear(12 * width, len(self.classes))
        self.large = nn.Linear(12 * width, len(self.classes))

    def features(self, x: Tensor) -> Tensor:
        """(B, 12 width): mean and largest value of each channel."""
        y = self.body(F.relu(self.stem(x)))
        return torch.cat([y.mean((2, 3)), y.amax((2, 3))], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = (self.large if x.shape[-1] == SCENE_SIZE else self.small)(self.features(x))
        return logits

    @torch.inference_mode()
    def probabilities(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, classes), with the bias against rejecting."""
        logits = self.eval()(x)
        logits[:, self.classes.index(REJECT)] += REJECT_BIAS
        probability: Tensor = logits.softmax(-1)
        return probability

    @torch.inference_mode()
    def look(self, pictures: NDArray[np.uint8]) -> list[Finding]:
        """(B, 64, 64, 3) uint8, or larger by a whole factor -> a finding for each picture."""
        pictures = as_encoded(pictures)
        best = {cell: self.probabilities(box).max(-1) for cell, box in boxes(pictures).items()}
        findings = []
        for row, picture in enumerate(pictures):
            options = []
            for layout, cells in LAYOUTS.items():
                seen = {cell: self.classes[int(best[cell].indices[row])] for cell in cells}
                sure = min(float(best[cell].values[row]) for cell in cells)
                filled = {cell: name for cell, name in seen.items() if name != EMPTY}
                is_whole = bool(filled) and (layout == "grid" or len(filled) == len(cells))
                accepted = is_whole and REJECT not in filled.values() and _is_bare(picture, layout)
                options.append((accepted, sure, layout, filled))
            accepted, sure, layout, filled = max(options, key=lambda option: option[:2])
            findings.append(Finding(layout, filled if accepted else {**filled, "": REJECT}, background_of(picture), sure))
        return findings

    def save(self, path: Path) -> None:
        """Write the weights as safetensors, numbers with 16 bits."""
        from safetensors.torch import save_file

        save_file(
            {name: tensor.contiguous().half() if tensor.is_floating_point() else tensor for name, tensor in self.state_dict().items()}, path
        )

    @classmethod
    def load(cls, path: Path) -> Judge:
        """A judge from such a file, in float32, ready to look."""
        from safetensors.torch import load_file

        tensors = load_file(path)
        judge = cls(width=len(tensors["stem.bias"]))
        judge.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
        return judge.eval()


@cache
def the_judge() -> Judge:
    """The judge that ships with the package (scripts/emoji/train_judge.py). Raises CheckpointError if its weights are missing."""
    path = Path(__file__).with_name("judge.safetensors")
    if not path.exists():
        raise CheckpointError(f"{path.name} is missing from the package; install it again, or run scripts/emoji/train_judge.py")
    return Judge.load(path)


def background_of(picture: NDArray[np.uint8]) -> str:
    """The named background nearest to the commonest colour along the border of a picture (64, 64, 3)."""
    ground = _ground(picture)
    return min(BACKGROUNDS, key=lambda name: float(np.abs(ground - np.array(BACKGROUNDS[name])).sum()))


def _ground(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(3,) the commonest colour along the border."""
    ground: NDArray[np.float64] = np.median(np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]), axis=0)
    return ground


@cache
def _beside(layout: str) -> NDArray[np.bool_]:
    """(64, 64) bool: what lies in no cell of a layout, half of the picture for two objects in a row or on top of each other."""
    beside = np.ones((SCENE_SIZE, SCENE_SIZE), dtype=np.bool_)
    for left, top, side in (BOXES[cell] for cell in LAYOUTS[layout]):
        beside[top : top + side, left : left + side] = False
    return beside


def _is_bare(picture: NDArray[np.uint8], layout: str) -> bool:
    """Whether a picture (64, 64, 3) shows nothing but its background beside the cells.

    Of 300 real scenes of two objects and of their reconstructions by the image tokenizer, none differs by more than 30 levels in 0.05 %
    of the picture; here it may be 0.5 %.
    """
    differs = np.abs(picture.astype(int) - _ground(picture)).max(-1) > 30
    return float((differs & _beside(layout)).mean()) < 0.005


_SIZES = {64: (46, 50), 32: (23, 25)}
"""Side of a cell -> smallest and largest side of an object, in pixels: about the world's own. With sizes of 24 to 30 the judge refused plain
squares, for a small one may be a larger one that was cut."""


def random_scene(rng: np.random.Generator) -> Scene:
    """Any objects in any cells, regardless of the split: in half of the scenes at the world's own places and size, else at any.

    Single objects often, for they have most detail; and squares, for they look like larger ones that were cut. With any places and sizes
    alone, small yellow, orange and red ones that stood as a cut one would were refused (docs/decisions.md).
    """
    names = [name for name, thing in objects().items() for _ in range(3 if thing.category == "square" else 1)]
    layout = str(rng.choice(list(LAYOUTS), p=[0.3, 0.15, 0.15, 0.4]))
    cells = LAYOUTS[layout]
    some = [cell for cell in cells if rng.random() < 0.7] or [str(rng.choice(cells))]
    filled = some if layout == "grid" else list(cells)
    style = str(rng.choice(STYLES))
    place = _anywhere if rng.random() < 0.5 else jittered_item
    items = tuple(place(names[int(rng.integers(len(names)))], style, cell, rng) for cell in filled)
    return Scene(layout, str(rng.choice(list(BACKGROUNDS))), items)


def _anywhere(name: str, style: str, cell: str, rng: np.random.Generator) -> Item:
    left, top, side = BOXES[cell]
    smallest, largest = _SIZES[side]
    size = smallest + int(rng.random() * (largest - smallest + 1))
    slack = side - size + 1
    return Item(name, style, cell, left + int(rng.random() * slack), top + int(rng.random() * slack), size)


def labels_of(scene: Scene, picture: NDArray[np.uint8]) -> dict[str, str]:
    """What each of the nine boxes holds: its object, nothing, or something that is cut or too small and must be rejected."""
    ground = np.array(BACKGROUNDS[scene.background])
    differs = np.abs(picture.astype(int) - ground).max(-1) > 12
    labels = {}
    for cell, (left, top, side) in BOXES.items():
        if cell in LAYOUTS[scene.layout]:
            labels[cell] = scene.cells.get(cell, EMPTY)
        else:
            labels[cell] = REJECT if differs[top : top + side, left : left + side].mean() > 0.01 else EMPTY
    return labels


def training_batches(size: int, *, seed: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Endless (pixels (size, 3, S, S), classes (size,), S) of S = 64 and 32 in turn."""
    rng = np.random.default_rng(seed)
    classes = {name: i for i, name in enumerate((*objects(), EMPTY, REJECT))}
    while True:
        for side, share in ((SCENE_SIZE, 1.0), (32, 0.45)):
            pictures: list[NDArray[np.uint8]] = []
            labels: list[str] = []
            while len(pictures) < size:
                scene = random_scene(rng)
                picture = render(scene)
                for cell, label in labels_of(scene, picture).items():
                    left, top, width = BOXES[cell]
                    # Boxes of other layouts are many and easy: a few of them do.
                    foreign = label in (EMPTY, REJECT)
                    if width == side and rng.random() < (0.25 if foreign else share):
                        pictures.append(picture[top : top + side, left : left + side])
                        labels.append(label)
            pictures, labels = _spoilt(pictures[:size], labels[:size], rng)
            pixels = torch.from_numpy(np.stack(pictures).astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
            yield _disturbed(pixels, rng), torch.tensor([classes[label] for label in labels]), side


def _spoilt(
    pictures: Sequence[NDArray[np.uint8]], labels: Sequence[str], rng: np.random.Generator
) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """The same boxes, but a third of the objects spoilt and labelled "reject"."""
    shaped = {name for name, thing in objects().items() if thing.category in SHAPES}
    new_pictures, new_labels = list(pictures), list(labels)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        if label not in (EMPTY, REJECT) and rng.random() < 0.33:
            name = str(rng.choice([n for n in SPOILERS if n not in HARMLESS_TO_SHAPES or label not in shaped]))
            new_pictures[i] = SPOILERS[name](picture, pictures[int(rng.integers(len(pictures)))], rng)
            new_labels[i] = REJECT
    return new_pictures, new_labels


def _disturbed(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """What a person would not mind: a little softness, noise, and a shift of brightness and colour."""
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = torch.from_numpy(rng.uniform(0, 0.8, size=(len(pixels), 1, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(rng.normal(size=pixels.shape).astype(np.float32))
    strength = torch.from_numpy(rng.uniform(0, 0.06, size=(len(pixels), 1, 1, 1)).astype(np.float32))
    shift = torch.from_numpy(rng.normal(scale=0.03, size=(len(pixels), 3, 1, 1)).astype(np.float32))
    return (pixels + amount * (soft - pixels) + strength * noise + shift).clamp(-1, 1)
