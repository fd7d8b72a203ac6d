"""Pictures of one request: addresses -> bytes -> images, within limits, before anything large is decoded."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO

from PIL import Image

from mmada.errors import ImageError
from mmada.serve.config import ServeConfig
from mmada.serve.picture_decoder import PictureDecoder, TooManyPixelsError

__all__ = ["Pictures", "data_url", "remote_addresses", "transparent_part"]


def remote_addresses(urls: Sequence[str], config: ServeConfig) -> list[str]:
    """Those that must be fetched before `Pictures` can read them. Raises ImageError if a request may not have so many images."""
    if len(urls) > config.max_images:
        raise _too_many(config)
    return [url for url in urls if config.allow_remote_images and _scheme(url) in ("http", "https")]


class Pictures:
    """The pictures of one request; together they keep to the server's limits, and to one deadline.

    arrived  when the request came (time.monotonic), from which its time to decode is counted
    fetched  what `remote_addresses` of the request hold
    """

    def __init__(self, config: ServeConfig, decoder: PictureDecoder, *, arrived: float, fetched: Mapping[str, bytes] | None = None) -> None:
        self._config, self._decoder, self._fetched = config, decoder, fetched or {}
        self._deadline = arrived + config.decode_timeout
        self._num_pixels = self._num_images = 0

    async def from_address(self, url: str) -> Image.Image:
        """A data: URL, or what an http(s) address holds if the server fetches those. Raises ImageError."""
        scheme = _scheme(url)
        if scheme == "data":
            return await self._decoded(_data(url.partition(":")[2]), is_base64=True)
        if scheme in ("http", "https") and self._config.allow_remote_images:
            return await self._decoded(self._fetched[url])
        if scheme in ("http", "https"):
            raise ImageError("this server does not fetch images; send the image as a data: URL (data:image/png;base64,...)")
        raise ImageError(f"the image address {url[:40]!r} is no data: URL; send data:image/png;base64,...")

    async def from_bytes(self, data: bytes) -> Image.Image:
        """An upright image. Raises ImageError for what is no image, is damaged, or is above a limit."""
        return await self._decoded(data)

    async def _decoded(self, data: bytes, *, is_base64: bool = False) -> Image.Image:
        self._num_images += 1
        if self._num_images > self._config.max_images:
            raise _too_many(self._config)
        left = self._config.max_image_pixels - self._num_pixels
        try:
            image = await self._decoder.decode(data, deadline=self._deadline, max_pixels=left, is_base64=is_base64)
        except TooManyPixelsError as error:
            raise ImageError(
                f"the images of the request have {self._num_pixels + error.num_pixels} pixels or more, "
                f"{self._config.max_image_pixels} are allowed; send smaller ones"
            ) from error
        self._num_pixels += image.width * image.height
        return image


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
    return url[:8].partition(":")[0].lower()


def _too_many(config: ServeConfig) -> ImageError:
    return ImageError(f"the request has more than {config.max_images} images; send fewer")


def _data(rest: str) -> bytes:
    """What follows "data:" in a base64 URL, still encoded."""
    header, comma, body = rest.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise ImageError("the data: URL of an image must read data:image/png;base64,...")
    return body.encode("utf-8", "replace")
