"""Pictures that strangers send: addresses -> bytes -> images, within limits, before anything large is decoded."""

from __future__ import annotations

import base64
import binascii
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO

from PIL import Image, ImageOps

from mmada.errors import ImageError
from mmada.serve.config import ServeConfig

__all__ = ["Pictures", "data_url", "remote_addresses", "transparent_part"]

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def remote_addresses(urls: Sequence[str], config: ServeConfig) -> list[str]:
    """Those that must be fetched before `Pictures` can read them. Raises ImageError if a request may not have so many images."""
    if len(urls) > config.max_images:
        raise _too_many(config)
    return [url for url in urls if config.allow_remote_images and _scheme(url) in ("http", "https")]


class Pictures:
    """The pictures of one request; together they keep to the server's limits.

    fetched  what `remote_addresses` of the request hold
    """

    def __init__(self, config: ServeConfig, fetched: Mapping[str, bytes] | None = None) -> None:
        self._config, self._fetched = config, fetched or {}
        self._num_pixels = self._num_images = 0

    def from_address(self, url: str) -> Image.Image:
        """A data: URL, or what an http(s) address holds if the server fetches those. Raises ImageError."""
        scheme = _scheme(url)
        if scheme == "data":
            return self.from_bytes(_data(url.partition(":")[2]))
        if scheme in ("http", "https") and self._config.allow_remote_images:
            return self.from_bytes(self._fetched[url])
        if scheme in ("http", "https"):
            raise ImageError("this server does not fetch images; send the image as a data: URL (data:image/png;base64,...)")
        raise ImageError(f"the image address {url[:40]!r} is no data: URL; send data:image/png;base64,...")

    def from_bytes(self, data: bytes) -> Image.Image:
        """An upright image in its own mode. Raises ImageError for what is no image, is damaged, or is above a limit."""
        self._num_images += 1
        if self._num_images > self._config.max_images:
            raise _too_many(self._config)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # we have a limit of our own, which is lower
                image = Image.open(BytesIO(data), formats=_FORMATS)
        except Exception as error:  # decoders fail with whatever type a corrupt file happens to provoke
            raise ImageError(
                f"the image of {len(data)} bytes is empty, corrupt or not one of {', '.join(_FORMATS)}; send another"
            ) from error
        self._num_pixels += image.width * image.height
        if self._num_pixels > self._config.max_image_pixels:
            raise ImageError(
                f"the images of the request have {self._num_pixels} pixels or more, {self._config.max_image_pixels} are allowed; send smaller ones"
            )
        try:
            image.load()
            return ImageOps.exif_transpose(image)
        except Exception as error:  # as above
            raise ImageError(f"the image of {len(data)} bytes is truncated or corrupt; save or download it again") from error


def data_url(image: Image.Image) -> str:
    """An image as an address that holds all of it, as a PNG."""
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def transparent_part(image: Image.Image) -> Image.Image | None:
    """White where an image is transparent, black elsewhere, as mode L; None if it has no transparency at all."""
    if not image.has_transparency_data:
        return None
    return image.convert("RGBA").getchannel("A").point(lambda alpha: 255 if alpha < 128 else 0)


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


def _too_many(config: ServeConfig) -> ImageError:
    return ImageError(f"the request has more than {config.max_images} images; send fewer")


def _data(rest: str) -> bytes:
    """What follows "data:" in a base64 URL."""
    header, comma, body = rest.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise ImageError("the data: URL of an image must read data:image/png;base64,...")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the data: URL of an image is not valid base64 ({error}); encode it again") from error
