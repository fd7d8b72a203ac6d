"""The aMUSEd VQ-VAE: a code is the number of the nearest vector in a learned codebook.

    pixels in [0, 1]   encoder   quant_conv        latents (B, K, h, w)   nearest vector -> codes (B, h, w)
    pixels near [0, 1] decoder   post_quant_conv   vectors (B, K, h, w)   <- look up

Tensor names and config.json are those of diffusers' `VQModel`, so that `vqvae/` folders are read and written both ways without diffusers.
Of its options those are built that a published model of this family uses; a config.json that asks for another is refused by name.
Source: van den Oord et al. 2017; Patil et al. 2024 (aMUSEd), section 3; Lumina-DiMOO and MMaDA-Parallel-A use its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmada.errors import InputError
from mmada.image.base import BaseImageTokenizer, Reconstruction
from mmada.image.magvit2 import Downsample, Upsample

__all__ = ["COMMITMENT_WEIGHT", "VQVAE", "VQVAEConfig"]

COMMITMENT_WEIGHT = 0.25
"""of the loss that keeps latents near their vectors; van den Oord et al. 2017, section 3.2"""

_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"

# Options of diffusers' VQModel -> what is built here, and what an absent one means there.
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "act_fn": ("silu", "silu"),
    "norm_type": ("group", "group"),
    "mid_block_add_attention": (False, True),
    "lookup_from_codebook": (True, False),
}
# What the class carries and the networks never read; written for diffusers.
_UNUSED = {"sample_size": 32, "scaling_factor": 0.18215, "force_upcast": True}


@dataclass(frozen=True, kw_only=True)
class VQVAEConfig:
    """Sizes of a VQ-VAE, under the names of diffusers' `VQModel`; the defaults are the published aMUSEd conversion.

    Raises InputError if a size is not positive or the sizes do not fit together.
    """

    in_channels: int = 3
    """of the pixels that are encoded"""
    out_channels: int = 3
    """of the pixels that are decoded"""
    block_out_channels: tuple[int, ...] = (128, 256, 256, 512, 768)
    """channels of each level; all levels but the last one halve the sides"""
    layers_per_block: int = 2
    """residual blocks of a level in the encoder; the decoder has one more"""
    latent_channels: int = 64
    num_vq_embeddings: int = 8192
    """number of codes"""
    vq_embed_dim: int | None = None
    """channels of a codebook vector; None: latent_channels"""
    norm_num_groups: int = 32
    """groups of each group norm"""

    def __post_init__(self) -> None:
        for name in ("layers_per_block", "latent_channels", "num_vq_embeddings", "norm_num_groups", "embedding_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r} must be a positive whole number")
        if (self.in_channels, self.out_channels) != (3, 3):
            raise InputError(f"in_channels={self.in_channels} and out_channels={self.out_channels} must be 3: images are RGB")
        widths = self.block_out_channels
        if not widths or any(not isinstance(width, int) or width < 1 or width % self.norm_num_groups for width in widths):
            raise InputError(f"block_out_channels={widths} must be multiples of norm_num_groups={self.norm_num_groups}, at least one")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VQVAEConfig:
        """A config.json of diffusers as sizes. Raises InputError for options that are not built, with the ones that are."""
        # an absent one has the default of the class that wrote the file
        for name, (built, default) in _OPTIONS.items():
            if (found := values.get(name, default)) != built:
                raise InputError(f"{name}={found!r} is not supported; a VQ-VAE of this family has {name}={built!r}")
        for name, block in (("down_block_types", _DOWN), ("up_block_types", _UP)):
            if any(kind != block for kind in values.get(name, ())):
                raise InputError(f"{name}={values[name]!r} is not supported; every level must be {block!r}")
            if name in values and len(values[name]) != len(values.get("block_out_channels", ())):
                raise InputError(f"{name} has {len(values[name])} levels, block_out_channels={values.get('block_out_channels')}")
        missing = [one.name for one in fields(cls) if one.name not in values and one.name != "vq_embed_dim"]
        if missing:
            raise InputError(f"{', '.join(missing)} must be given: sizes are not guessed")
        # JSON brings lists
        own: dict[str, Any] = {one.name: tuple(v) if isinstance(v := values.get(one.name), list) else v for one in fields(cls)}
        return cls(**own)

    def to_dict(self) -> dict[str, Any]:
        """All that diffusers' `VQModel.from_config` reads."""
        levels = len(self.block_out_channels)
        types = {"down_block_types": [_DOWN] * levels, "up_block_types": [_UP] * levels}
        own = {**asdict(self), "block_out_channels": list(self.block_out_channels)}
        return {"_class_name": "VQModel", **own, **types, **{name: built for name, (built, _) in _OPTIONS.items()}, **_UNUSED}

    @property
    def factor(self) -> int:
        """Pixels along the side of the square that one code stands for."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @property
    def embedding_size(self) -> int:
        """Channels of a codebook vector."""
        return self.latent_channels if self.vq_embed_dim is None else self.vq_embed_dim


class ResnetBlock(nn.Module):
    """x + two 3x3 convolutions. Where the width changes, x passes a 1x1 convolution."""

    def __init__(self, width_in: int, width: int, num_groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(width_in, num_groups)
        self.conv1 = _conv3(width_in, width)
        self.norm2 = _norm(width, num_groups)
        self.conv2 = _conv3(width, width)
        self.conv_shortcut = nn.Conv2d(width_in, width, kernel_size=1) if width_in != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.conv_shortcut(x) + h  # type: ignore[no-any-return]


class Level(nn.Module):
    """Residual blocks at one image size, then an optional change of size. `downsamplers` and `upsamplers` hold one module or none."""

    def __init__(self, width_in: int, width: int, num_blocks: int, num_groups: int, *, downsample: bool = False, upsample: bool = False):
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(width if j else width_in, width, num_groups) for j in range(num_blocks))
        self.downsamplers = nn.ModuleList([Downsample(width)] if downsample else [])
        self.upsamplers = nn.ModuleList([Upsample(width)] if upsample else [])

    def forward(self, x: Tensor) -> Tensor:
        for part in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = part(x)
        return x


class Encoder(nn.Module):
    """(B, 3, H, W) in [0, 1] -> (B, latent_channels, H/f, W/f)."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        ends = zip((widths[0], *widths[:-1]), widths, strict=True)
        self.conv_in = _conv3(config.in_channels, widths[0])
        self.down_blocks = nn.ModuleList(
            Level(*pair, config.layers_per_block, groups, downsample=i + 1 < len(widths)) for i, pair in enumerate(ends)
        )
        self.mid_block = Level(widths[-1], widths[-1], 2, groups)
        self.conv_norm_out = _norm(widths[-1], groups)
        self.conv_out = _conv3(widths[-1], config.latent_channels)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(pixels)
        for level in (*self.down_blocks, self.mid_block):
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """(B, latent_channels, h, w) -> (B, 3, h f, w f), near [0, 1] but not bounded. Its levels are counted from the smallest image size."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        ends = zip((widths[0], *widths[:-1]), widths, strict=True)
        self.conv_in = _conv3(config.latent_channels, widths[0])
        self.mid_block = Level(widths[0], widths[0], 2, groups)
        self.up_blocks = nn.ModuleList(
            Level(*pair, config.layers_per_block + 1, groups, upsample=i + 1 < len(widths)) for i, pair in enumerate(ends)
        )
        self.conv_norm_out = _norm(widths[-1], groups)
        self.conv_out = _conv3(widths[-1], config.out_channels)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.conv_in(latent)
        for level in (self.mid_block, *self.up_blocks):
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))  # type: ignore[no-any-return]


class VectorQuantizer(nn.Module):
    """The codebook, and the search in it."""

    def __init__(self, num_codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, width)
        nn.init.uniform_(self.embedding.weight, -1 / num_codes, 1 / num_codes)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, h, w) int64: the nearest vector by Euclid, the lowest number on a tie.

        Image by image, so that an image has its codes in any batch and 8,192 distances a position are held for one image only.
        """
        rows = [z.movedim(0, -1).flatten(0, 1) for z in latent]  # (h w, K) each
        nearest = torch.stack([torch.cdist(row, self.embedding.weight).argmin(dim=1) for row in rows])
        return nearest.view(-1, *latent.shape[2:])

    def vectors(self, codes: Tensor) -> Tensor:
        """(B, h, w) codes -> (B, K, h, w)."""
        return self.embedding(codes).movedim(-1, 1)  # type: ignore[no-any-return]


class VQVAE(BaseImageTokenizer):
    """Pixels in [0, 1] <-> codes. Calling the object runs the training pass, see `forward`.

    Weights are random, from torch's generator; image/vqvae_files.py reads and writes directories.
    """

    pixel_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    rounds_pixels: ClassVar[bool] = True

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.embedding_size, kernel_size=1)
        self.quantize = VectorQuantizer(config.num_vq_embeddings, config.embedding_size)
        self.post_quant_conv = nn.Conv2d(config.embedding_size, config.latent_channels, kernel_size=1)
        self.decoder = Decoder(config)

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.config.num_vq_embeddings

    @property
    def factor(self) -> int:
        """Pixels along the side of the square that one code stands for."""
        return self.config.factor

    def encode_latent(self, pixels: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(pixels))  # type: ignore[no-any-return]

    def codes_of(self, latent: Tensor) -> Tensor:
        return self.quantize(latent)  # type: ignore[no-any-return]

    def decode_codes(self, codes: Tensor) -> Tensor:
        """`decode` of codes that have been checked: vectors of the codebook through the decoder."""
        return self.decoder(self.post_quant_conv(self.quantize.vectors(codes)))  # type: ignore[no-any-return]

    def encoding_tensors(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(("encoder.", "quant_conv.", "quantize."))}

    def forward(self, pixels: Tensor) -> Reconstruction:
        """The training pass: reconstruct pixels (B, 3, H, W) with gradients through the vectors (straight-through estimator)."""
        z = self.latent(pixels)
        codes = self.quantize(z)
        vectors = self.quantize.vectors(codes)
        distance = F.mse_loss(vectors, z.detach()) + COMMITMENT_WEIGHT * F.mse_loss(vectors.detach(), z)
        decoded = self.decoder(self.post_quant_conv(z + (vectors - z).detach()))
        return Reconstruction(decoded, codes, distance, z.new_zeros(()))


def _norm(width: int, num_groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups, width, eps=1e-6)


def _conv3(width_in: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, kernel_size=3, padding=1)
