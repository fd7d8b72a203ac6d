"""Artwork as other artists might have drawn it: the same object in other strokes, for looking at, never for drawing.

    shape    mirrored, turned, stretched and bent a little
    palette  flattened to a few colours, as in Twemoji
    colour   hue turned by at most MAX_HUE degrees, saturation and contrast changed
    light    brighter or darker, shaded or textured, as in Noto, with a dark or light rim

A model that saw each object in one artwork per style knows the artwork. What it is asked for here is the object: a person still
names it and its colour. All changes but those of shape are made or left out by chance, each by itself.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["MAX_HUE", "varied"]

MAX_HUE = 6.0
"""Degrees. Orange and yellow, the closest of the named colours, are about 20 apart."""

_TURN, _STRETCH, _SHEAR, _BEND = 12.0, 0.1, 0.1, 0.035
"""Largest turn (degrees), shrinking of either side and shear (shares); standard deviation by which a point of the mesh moves (share of a side)."""

_FLAT, _COLOUR, _SHADE, _TEXTURE, _RIM = 0.4, 0.7, 0.4, 0.3, 0.3
"""How often each change is made."""


def varied(sprite: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A variation of an RGBA sprite, of the same size; it depends on the sprite and the generator's state alone."""
    bent = _bent(sprite, rng)
    pixels = np.array(bent)  # (H, W, 4)
    is_inside = pixels[..., 3] > 0
    colours = pixels[is_inside, :3]  # (n, 3)
    if not len(colours):
        return bent
    if rng.random() < _FLAT:
        colours = _flattened(colours, int(rng.integers(4, 7)))
    rgb = colours.T.astype(np.float32)  # (3, n)
    if rng.random() < _COLOUR:
        rgb = _coloured(rgb, rng)
    rgb = _in_gamut(rgb * _light(bent, rng)[is_inside])
    pixels[is_inside, :3] = np.rint(rgb).T
    return Image.fromarray(pixels)


def _bent(sprite: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A sprite mirrored or not, and seen through a mesh of 2 x 2 quadrilaterals that is turned, stretched, sheared and uneven."""
    (width, height), turn = sprite.size, np.radians(rng.uniform(-_TURN, _TURN))
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0])
    shear = np.array([[1.0, rng.uniform(-_SHEAR, _SHEAR)], [0.0, 1.0]])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    # Where the mesh's points are in the sprite: some lie beyond its edges, which shrinks it.
    points = _grid(3, 3) @ (mirror @ rotation @ shear @ np.diag(1 + rng.uniform(0, _STRETCH, 2))).T  # (3, 3, 2)
    points = (points + rng.normal(0, 2 * _BEND, points.shape) + 1) / 2 * (width, height)
    x, y = (0, width // 2, width), (0, height // 2, height)
    mesh = [
        ((x[j], y[i], x[j + 1], y[i + 1]), (*points[i, j], *points[i + 1, j], *points[i + 1, j + 1], *points[i, j + 1]))
        for i, j in np.ndindex(2, 2)
    ]
    return sprite.transform(sprite.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _flattened(colours: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """(n, 3) colours, each replaced by one of `count` that stand for all of them."""
    row = Image.fromarray(colours[None]).quantize(count, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    flat: NDArray[np.uint8] = np.asarray(row.convert("RGB"))[0]
    return flat


def _coloured(rgb: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """(3, n) colours of other hue, saturation and contrast. The hue turns about the gray axis, which keeps means and distances from gray."""
    hue, saturation, contrast = np.radians(rng.uniform(-MAX_HUE, MAX_HUE)), rng.uniform(0.88, 1.15), rng.uniform(0.8, 1.2)
    along, across = np.cos(hue), np.sin(hue) / np.sqrt(3)  # Rodrigues, of vectors at right angles to the axis
    turn = np.array([[along, -across, across], [across, along, -across], [-across, across, along]]) * saturation
    gray = rgb.mean(0)
    middle = gray.mean()
    turned: NDArray[np.float32] = turn.astype(np.float32) @ (rgb - gray) + middle + (gray - middle) * np.float32(contrast)
    return turned


def _light(sprite: Image.Image, rng: np.random.Generator) -> NDArray[np.float32]:
    """(H, W) factors on brightness."""
    width, height = sprite.size
    light = np.full((height, width), rng.uniform(0.92, 1.1), dtype=np.float32)
    if rng.random() < _SHADE:  # from one side to the other
        angle = rng.uniform(0, 2 * np.pi)
        light += _grid(width, height) @ np.array([np.cos(angle), np.sin(angle)], np.float32) * np.float32(rng.uniform(0.08, 0.16))
    if rng.random() < _TEXTURE:  # patches of about four pixels
        noise = Image.fromarray(rng.standard_normal((-(-height // 4), -(-width // 4)), dtype=np.float32))
        light += np.asarray(noise.resize((width, height), Image.Resampling.BILINEAR)) * np.float32(rng.uniform(0.03, 0.06))
    if rng.random() < _RIM:
        alpha = sprite.getchannel("A")
        rim = np.asarray(alpha, np.float32) - np.asarray(alpha.filter(ImageFilter.MinFilter(3)), np.float32)
        light += rim / 255 * np.float32(rng.uniform(-0.45, -0.2) if rng.random() < 0.7 else rng.uniform(0.15, 0.3))
    return light


def _in_gamut(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, n) colours in [0, 255], paler where they must be: cutting off single channels would change the hue."""
    mean = rgb.mean(0)
    gray, chroma = mean.clip(0, 255), rgb - mean
    room = np.minimum((255 - gray) / np.maximum(chroma.max(0), 1e-3), gray / np.maximum(-chroma.min(0), 1e-3))
    fitting: NDArray[np.float32] = gray + chroma * np.minimum(room, 1)
    return fitting


@lru_cache(maxsize=16)
def _grid(width: int, height: int) -> NDArray[np.float32]:
    """(H, W, 2) x and y of points from edge to edge, in [-1, 1]."""
    return np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), -1).astype(np.float32)
