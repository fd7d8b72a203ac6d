"""Limits and secrets of one server."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mmada.errors import InputError
from mmada.generation.engine import MAX_LOGITS

__all__ = ["ServeConfig"]

_HOST = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:.]+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Settings of a server. Raises InputError for a value that cannot be used."""

    name: str = "mmada"
    """the model's id in /v1/models and in requests"""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """any of them opens the server; none: no key is asked for"""
    max_queue: int = 128
    """generations that may wait for their turn; more are answered with 429"""
    max_num_batched_tokens: int = 16384
    """tokens that one round evaluates, which bounds memory and the time of a round; a single longer request still runs, alone"""
    max_num_batched_logits: int = MAX_LOGITS
    """numbers that one round is told, a vocabulary slice for each position in question: with max_num_batched_tokens, what bounds memory"""
    max_cache_bytes: int = 4 * 2**30
    """keys and values that generations with a cache keep between their rounds; one that needs more than is left begins later"""
    request_timeout: float = 600.0
    """seconds from arrival until a request is given up with 504"""
    body_timeout: float = 60.0
    """seconds in which a body must have arrived, else 408"""
    header_timeout: float = 20.0
    """seconds in which a connection must have sent the headers of a request; it is closed otherwise"""
    write_timeout: float = 60.0
    """seconds in which a client must have read what waits for it, or at least 16 KiB of that; the connection is cut otherwise"""
    max_body_bytes: int = 20 * 2**20
    max_image_pixels: int = 2**24
    """of all images of a request together; sizes are read from the headers before anything is decoded"""
    max_images: int = 16
    """images in one request"""
    max_image_scans: int = 32
    """how often a progressive JPEG may paint itself over"""
    max_image_parts: int = 16384
    """chunks, blocks and segments of the file of an image"""
    decode_timeout: float = 10.0
    """seconds from arrival until the images of a request must be decoded"""
    num_decoders: int = 0
    """images that are decoded at a time, each by a process of its own; 0: one for each core"""
    max_prompt_chars: int = 65536
    """characters of all texts of a request; the model's context is a closer limit"""
    max_messages: int = 1024
    """messages of one conversation"""
    max_parts: int = 1024
    """parts of all messages of a conversation together"""
    max_stop_chars: int = 4096
    """characters of all stop strings of a request together"""
    max_n: int = 10
    """generations of one request"""
    max_steps: int = 1024
    """denoising steps, and model evaluations, of one generation"""
    max_partial_images: int = 64
    allow_remote_images: bool = False
    """whether http(s) addresses of images are fetched; private addresses never are"""
    allowed_hosts: tuple[str, ...] = ("*",)
    """names that the server answers to, besides addresses (hosts.py); "*.example.com" stands for those below it, "*" for all"""
    allow_origins: tuple[str, ...] = ()
    """other sites whose pages may call the server, such as https://example.com; "*" is every site"""

    def __post_init__(self) -> None:
        for name in (
            "max_queue",
            "max_num_batched_tokens",
            "max_num_batched_logits",
            "max_cache_bytes",
            "max_body_bytes",
            "max_image_pixels",
            "max_images",
            "max_image_scans",
            "max_image_parts",
            "max_prompt_chars",
            "max_messages",
            "max_parts",
            "max_stop_chars",
            "max_n",
            "max_steps",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("request_timeout", "body_timeout", "header_timeout", "write_timeout", "decode_timeout"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)} must be above 0 seconds")
        if self.num_decoders < 0:
            raise InputError(f"num_decoders={self.num_decoders} must be at least 1, or 0 for one a core")
        if self.max_n > self.max_queue:
            raise InputError(f"max_n={self.max_n} is above max_queue={self.max_queue}: such a request could never be taken; lower max_n")
        for origin in self.allow_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise InputError(f"allow_origins={origin!r} must be scheme://host or scheme://host:port, as browsers send it, or '*'")
        for host in self.allowed_hosts:
            if not _HOST.fullmatch(host):
                raise InputError(
                    f"allowed_hosts={host!r} must be a name such as example.com, without scheme and port, *.example.com, or '*'"
                )
        if any(not key.strip() for key in self.api_keys):
            raise InputError("api_keys has an empty key, which would open the server to everybody; leave it out, or give a key")
        if any(key != key.strip() or not key.isascii() or not key.isprintable() for key in self.api_keys):
            raise InputError("api_keys has a key that no client can send in a header; give printable ASCII, without spaces at its ends")
