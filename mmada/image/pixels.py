"""Images to tensors and tensors to images. No other module does this.

load_image   path, bytes, data: address or PIL image -> upright RGB
fit          RGB -> RGB of exactly (height, width), by one of three published ways (drawn at `FitMode`)
to_pixels    RGB images -> (B, 3, H, W) float32 in [-1, 1], or in another range
to_images    (B, 3, H, W) in that range -> RGB images
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal, TypeAlias, get_args
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from mmada.errors import ImageError, InputError, suggest

__all__ = ["MAX_PIXELS", "FitMode", "ImageSource", "check_pixels", "fit", "fit_mask", "load_image", "psnr", "to_images", "to_pixels"]

ImageSource: TypeAlias = str | Path | bytes | Image.Image

FitMode = Literal["crop", "squash", "pad"]
"""How an image of another shape is fitted to the target. A wide image in a square target:

    crop    |..[######]..|  scale until the target is just covered, keep the middle      (default of the published model)
    squash  [############]  scale each side by itself                                     (diagrams and documents)
    pad     [--########--]  white bars, then scale; keeps the whole image                  (geometry)
"""

MAX_PIXELS = 2**26
"""Largest area that is decoded or created in between (67 million pixels, 200 MB as RGB)."""

_SHOWN = 200
"""Characters of a source that an error repeats."""


def load_image(source: ImageSource) -> Image.Image:
    """Read an image as upright RGB. Applies EXIF orientation, puts white behind transparency, takes the first frame of an animation.

    A data: address is read; no other address is fetched.
    Raises ImageError if the source is missing, is no image, is truncated or corrupt, or has more than MAX_PIXELS pixels.
    """
    if isinstance(source, Image.Image):
        name, opened = f"image of {source.width}x{source.height} pixels", source
    elif isinstance(source, (bytes, str, Path)):
        name = f"image of {len(source)} bytes" if isinstance(source, bytes) else f"image={_shown(str(source))!r}"
        opened = _open(source if isinstance(source, bytes) else _read(source), name)
    else:
        raise InputError(f"image is of type {type(source).__name__}; give {_remedy(source)}")
    _check_area(opened.width, opened.height, f"{name} has", "give a smaller one")
    if opened.mode in ("I", "F"):
        raise ImageError(f"{name} has mode {opened.mode!r}, whose range of values is open; convert it to 8 or 16 bits")
    if isinstance(source, Image.Image):
        _check_open(source, name)
    try:
        return _to_rgb(ImageOps.exif_transpose(opened))
    except Exception as error:  # a corrupt file may raise any type in a decoder
        raise ImageError(f"{name} is truncated or corrupt ({_reason(error)}); save or download it again") from error


def _remedy(source: object) -> str:
    """What to give instead of something that is no source of an image."""
    if isinstance(getattr(source, "image", None), Image.Image):
        return "its .image"
    usual = "a path, the bytes of a file or a PIL image"
    return f"{usual}, such as PIL.Image.fromarray of it" if hasattr(source, "__array__") else usual


def fit(image: Image.Image, *, height: int, width: int, mode: FitMode) -> Image.Image:
    """Bring an RGB image to exactly (height, width) with PIL's antialiased bicubic filter.

    Rounding follows the published preprocessing: the longer side is truncated, a crop's offset is rounded half to even, a
    pad's offset is rounded down. Source: reference model, docs/parity.md.
    Raises InputError on an unknown mode, an empty target or an image that is not RGB.
    Raises ImageError if the intermediate picture would have more than MAX_PIXELS pixels, as between shapes that are far apart.
    """
    if mode not in get_args(FitMode):
        raise InputError(f"mode={mode!r} is unknown; {suggest(mode, get_args(FitMode))}")
    if height < 1 or width < 1:
        raise InputError(f"height={height} and width={width} must be positive")
    _check_rgb(image)
    if mode == "pad":
        image = _pad(image, height, width)
    if mode == "crop":
        return _crop(image, height, width)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def fit_mask(mask: Image.Image, *, height: int, width: int) -> Tensor:
    """(height, width) bool: the light (marked) part of a mask, fitted by "crop" like its image.

    A pixel counts as marked if any part of it was, so that a thin line outlives being scaled down.
    """
    light = np.asarray(mask.convert("L")) > 127
    scaled = _crop(Image.fromarray(light.astype(np.float32)), height, width, Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(scaled) > 0)


def psnr(image: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB images of one size, in dB; equal images have 100. Raises InputError if their sizes differ."""
    if image.size != other.size:
        raise InputError(f"images of {image.size} and {other.size} cannot be compared; fit them to one size")
    error = np.square(np.asarray(image, dtype=np.float64) - np.asarray(other, dtype=np.float64)).mean()
    return float(min(100.0, 10 * np.log10(255**2 / max(error, 1e-12))))


def to_pixels(images: Sequence[Image.Image], *, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """RGB images of one size -> (B, 3, H, W) float32 in `value_range`, the values of black and white.

    Raises InputError if there are none or one is not RGB, ImageError if their sizes differ.
    """
    if not images:
        raise InputError("images is empty; give at least one")
    for image in images:
        _check_rgb(image)
    sizes = sorted({(image.height, image.width) for image in images})
    if len(sizes) > 1:
        raise ImageError(
            f"images of one batch have {len(sizes)} sizes (height, width), {sizes[0]} and {sizes[-1]} among them; fit them to one"
        )
    levels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))  # (B, H, W, 3) uint8
    black, white = value_range
    return levels.permute(0, 3, 1, 2).float().div(255).mul(white - black).add(black).contiguous()


def to_images(pixels: Tensor, *, value_range: tuple[float, float] = (-1.0, 1.0), rounds: bool = False) -> list[Image.Image]:
    """(B, 3, H, W) in `value_range` -> RGB images; values outside are clamped.

    rounds  False: levels are truncated to 8 bits, as MAGVIT-v2 is published; True: rounded, half to even
    Truncation costs up to one level: an image that goes through `to_pixels` and back may be darker by 1 in places.
    Raises InputError if the tensor has another shape or is not floating point.
    """
    check_pixels(pixels, value_range=value_range)
    black, white = value_range
    levels = pixels.detach().float().sub(black).div(white - black).clamp(0, 1).mul(255)
    levels = (levels.round() if rounds else levels).to(torch.uint8)
    return [Image.fromarray(image) for image in levels.permute(0, 2, 3, 1).cpu().numpy()]


def check_pixels(pixels: Tensor, *, value_range: tuple[float, float] = (-1.0, 1.0)) -> None:
    """Raise InputError unless the tensor is floating point of shape (B, 3, H, W); the range is only named."""
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
        black, white = value_range
        raise InputError(
            f"pixels is {tuple(pixels.shape)} {pixels.dtype}; give floating point (B, 3, H, W) in [{black:g}, {white:g}], see to_pixels"
        )


_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
"""Of two letters at least: one letter is a drive."""


def _read(source: str | Path) -> bytes:
    """Bytes of a file, or of a data: address."""
    text = str(source)
    if text[:5].lower() == "data:":
        return _data(text)
    if (found := _ADDRESS.match(text)) and not Path(source).exists():
        remedy = (
            f"give the path {unquote(urlsplit(text).path)}" if found[1].lower() == "file" else "download it and give the path of the file"
        )
        raise ImageError(f"image={_shown(text)!r} is an address, and addresses are not fetched; {remedy}")
    try:
        return Path(source).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL in the name; RuntimeError: ~ of an unknown user
        reason = getattr(error, "strerror", None) or _reason(error)
        raise ImageError(f"image={_shown(text)!r} cannot be read ({reason}); check the path") from error


def _data(address: str) -> bytes:
    """What follows the comma of data:[type][;base64], (RFC 2397)."""
    head, comma, body = address.partition(",")
    try:
        if not comma:
            raise ValueError("there is no comma in it")
        body = unquote(body)
        return b64decode("".join(body.split()), validate=True) if head.lower().endswith(";base64") else body.encode("latin-1")
    except ValueError as error:
        raise ImageError(
            f"image={_shown(address)!r} is no data address that can be read ({error}); write data:image/png;base64,…"
        ) from error


def _check_open(image: Image.Image, name: str) -> None:
    """Raise ImageError for a picture of a file that was closed before its pixels were read."""
    try:
        image.load()
    except Exception as error:
        is_closed = isinstance(image, ImageFile.ImageFile) and getattr(image.fp, "closed", True)
        if is_closed:
            message = f"{name}: its file was closed before its pixels were read; read them inside of the with block (Image.load), or give the path"
        else:
            message = f"{name} is truncated or corrupt ({_reason(error)}); give another"
        raise ImageError(message) from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _shown(text: str) -> str:
    """A source as it was given; of a long one, the beginning."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} has more than {MAX_PIXELS} pixels; give a smaller one") from error
    except Exception as error:  # as in load_image
        raise ImageError(f"{name} is empty, corrupt or not an image; give a PNG, JPEG or another format that PIL reads") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # PIL would clip everything above 255 to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    paper = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(paper, layer).convert("RGB")


def _crop(image: Image.Image, height: int, width: int, by: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """The middle of the image, at the smallest scale that covers the target."""
    covering = max(width, height * image.width // image.height), max(height, width * image.height // image.width)
    _check_area(*covering, f"an image of {image.height}x{image.width} scaled to cover {height}x{width} has", "use mode 'pad' or 'squash'")
    left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
    return image.resize(covering, by).crop((left, top, left + width, top + height))


def _pad(image: Image.Image, height: int, width: int) -> Image.Image:
    """The image, centered on the smallest white background with the target's shape."""
    canvas = max(image.width, -(-image.height * width // height)), max(image.height, -(-image.width * height // width))
    _check_area(
        *canvas, f"an image of {image.height}x{image.width} padded to the shape of {height}x{width} has", "use mode 'crop' or 'squash'"
    )
    paper = Image.new("RGB", canvas, "white")
    paper.paste(image, ((canvas[0] - image.width) // 2, (canvas[1] - image.height) // 2))
    return paper


def _check_area(width: int, height: int, subject: str, remedy: str) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"{subject} {height}x{width} pixels, where 1 to {MAX_PIXELS} are allowed; {remedy}")


def _check_rgb(image: Image.Image) -> None:
    if image.mode != "RGB":
        raise InputError(f"image has mode {image.mode!r}, expected 'RGB'; pass it through load_image")
