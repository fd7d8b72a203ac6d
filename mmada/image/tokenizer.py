"""The image tokenizer that a user holds: pictures in, codes out, and back.

    pixels (B, 3, H, W) --latent--> z (B, K, h, w) --quantize--> codes (B, h, w) --decode--> pixels (B, 3, H, W)

h = H / factor, w = W / factor; codes flattened in raster order are the image part of a prompt, before the image offset is
added. Reads the published tokenizer (showlab/magvitv2) and writes checkpoints under its names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from mmada.errors import CheckpointError, ImageError, InputError
from mmada.hub.checkpoint import CONFIG_NAME, HUB_KEYWORDS, check, find, saving
from mmada.image.magvit2 import Decoder, Encoder, NetworkShape
from mmada.image.pixels import FitMode, ImageSource, check_pixels, fit, load_image, to_images, to_pixels
from mmada.image.quantizer import LookupFreeQuantizer, bit_weights, entropy_loss, quantizer_loss, sign_table, straight_through

__all__ = ["ImageTokenizer", "ImageTokenizerConfig", "Reconstruction"]

_PICKLE_NAME = "pytorch_model.bin"


class ImageTokenizerConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of an image tokenizer; the defaults are the published MAGVIT-v2. Fields are explained at `NetworkShape`.

    Encoder and decoder have the same number of levels, each its own widths and depths.
    Raises InputError if the sizes do not fit together.
    """

    model_type = "mmada-image-tokenizer"

    ch: int = 128
    encoder_ch_mult: list[int] | tuple[int, ...] = (1, 2, 2, 4, 4)
    encoder_num_res_blocks: list[int] | tuple[int, ...] = (4, 3, 4, 3, 4)
    decoder_ch_mult: list[int] | tuple[int, ...] = (1, 1, 2, 2, 4)
    decoder_num_res_blocks: list[int] | tuple[int, ...] = (4, 4, 3, 4, 3)
    z_channels: int = 13
    # no level of a 256-pixel image is 5 wide: the published network attends in the middle only
    attn_resolutions: list[int] | tuple[int, ...] = (5,)
    resolution: int = 256
    patch: int = 1
    encoder_kernel: int = 3

    def __post_init__(self, **kwargs: Any) -> None:
        # transformers keeps unknown arguments as attributes that nobody reads
        flat = [name for name in ("ch_mult", "num_res_blocks") if name in kwargs]
        if flat:
            raise InputError(f"{flat[0]}={kwargs[flat[0]]} is one list for two networks; use ImageTokenizerConfig.symmetric")
        super().__post_init__(**kwargs)
        if len(self.encoder_shape.ch_mult) != len(self.decoder_shape.ch_mult):
            raise InputError(
                f"encoder_ch_mult={self.encoder_ch_mult} and decoder_ch_mult={self.decoder_ch_mult} differ in the number of levels; "
                "the decoder must undo each halving of the encoder"
            )

    @classmethod
    def symmetric(
        cls,
        *,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: Sequence[int],
        z_channels: int,
        attn_resolutions: Sequence[int] = (),
        resolution: int = 256,
    ) -> ImageTokenizerConfig:
        """A tokenizer whose encoder and decoder share one list of widths and one of depths."""
        return cls(
            ch=ch,
            encoder_ch_mult=tuple(ch_mult),
            encoder_num_res_blocks=tuple(num_res_blocks),
            decoder_ch_mult=tuple(ch_mult),
            decoder_num_res_blocks=tuple(num_res_blocks),
            z_channels=z_channels,
            attn_resolutions=tuple(attn_resolutions),
            resolution=resolution,
        )

    @property
    def encoder_shape(self) -> NetworkShape:
        return self._shape(self.encoder_ch_mult, self.encoder_num_res_blocks, self.encoder_kernel)

    @property
    def decoder_shape(self) -> NetworkShape:
        return self._shape(self.decoder_ch_mult, self.decoder_num_res_blocks)

    def _shape(self, ch_mult: Sequence[int], num_res_blocks: Sequence[int], kernel: int = 3) -> NetworkShape:
        return NetworkShape(
            ch=self.ch,
            ch_mult=tuple(ch_mult),  # JSON brings lists
            num_res_blocks=tuple(num_res_blocks),
            z_channels=self.z_channels,
            attn_resolutions=tuple(self.attn_resolutions),
            resolution=self.resolution,
            patch=self.patch,
            kernel=kernel,
        )


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What training a tokenizer needs: the reconstruction, differentiable down to the encoder, and the quantiser's two losses."""

    pixels: Tensor
    """(B, 3, H, W), not clamped"""
    codes: Tensor
    """(B, h, w) int64"""
    quantizer_loss: Tensor
    """scalar, squared units of the latent"""
    entropy_loss: Tensor
    """scalar, nats"""


class ImageTokenizer(PreTrainedModel):  # type: ignore[misc]
    """Pixels <-> codes, for every height and width that are multiples of `factor`.

    `quantize` is the module that turns latents into codes. Calling the object runs the training pass, see `forward`.
    """

    config: ImageTokenizerConfig
    config_class = ImageTokenizerConfig
    base_model_prefix = "image_tokenizer"
    main_input_name = "pixels"
    _no_split_modules = ("ResnetBlock", "AttnBlock")
    _keys_to_ignore_on_load_missing = (r"^quantize\.",)  # filled by _init_weights

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config.encoder_shape)
        self.decoder = Decoder(config.decoder_shape)
        self.quantize = LookupFreeQuantizer(config.z_channels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """torch's own initialisation, as published; transformers calls this for tensors that a checkpoint lacks, too."""
        if isinstance(module, LookupFreeQuantizer):
            init.copy_(module.embedding, sign_table(module.num_bits))
            init.copy_(module.power_vals, bit_weights(module.num_bits))
        elif isinstance(module, (nn.Conv2d, nn.GroupNorm)):
            module.reset_parameters()

    @property
    def num_bits(self) -> int:
        """Bits of a code."""
        return self.config.z_channels

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return int(2**self.num_bits)

    @property
    def factor(self) -> int:
        """Pixels along the side of the square that one code stands for."""
        return int(self.config.patch * 2 ** (len(self.config.encoder_ch_mult) - 1))

    def latent(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, K, h, w), the encoder's output before its signs are taken.

        Raises InputError if the tensor is of another kind, ImageError if H or W is not a multiple of `factor`.
        """
        check_pixels(pixels)
        size = tuple(pixels.shape[2:])
        near = tuple(max(1, round(side / self.factor)) * self.factor for side in size)
        if size != near:
            raise ImageError(
                f"pixels are {size[0]}x{size[1]} (height x width), not multiples of factor={self.factor}; "
                f"the nearest size is {near[0]}x{near[1]}: fit the image to it, or give encode_images size={near}"
            )
        return self.encoder(pixels.to(self.dtype))  # type: ignore[no-any-return]

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, h, w) int64 codes, raster order when flattened. Errors as for `latent`."""
        return self.quantize(self.latent(pixels))  # type: ignore[no-any-return]

    def decode(self, codes: Tensor) -> Tensor:
        """(B, h, w) int64 codes -> (B, 3, h factor, w factor), near [-1, 1] but not clamped.

        Raises InputError if the tensor has another shape or type, or a code lies outside 0 .. codebook_size - 1.
        """
        if codes.ndim != 3 or codes.dtype != torch.int64 or not codes.numel():
            raise InputError(
                f"codes is {tuple(codes.shape)} {codes.dtype}; give int64 of shape (B, height / {self.factor}, width / {self.factor})"
            )
        low, high = (int(bound) for bound in torch.aminmax(codes))
        if low < 0 or high >= self.codebook_size:
            raise InputError(
                f"codes reach from {low} to {high}, the codebook from 0 to {self.codebook_size - 1}; subtract the image offset"
            )
        return self.decoder(self.quantize.signs(codes))  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor) -> Reconstruction:
        """The training pass: reconstruct pixels (B, 3, H, W) with gradients through the signs (straight-through estimator)."""
        z = self.latent(pixels)
        return Reconstruction(self.decoder(straight_through(z)), self.quantize(z), quantizer_loss(z), entropy_loss(z))

    def encode_images(self, images: Sequence[ImageSource], *, size: tuple[int, int] | None = None, mode: FitMode = "crop") -> Tensor:
        """Pictures (PIL images, paths or bytes) -> (B, h, w) int64 codes on the tokenizer's device.

        size  (height, width) in pixels that each is brought to, as `mode` says; None takes them as they are, all of one size
        """
        if isinstance(images, (str, bytes, Path, Image.Image)):
            raise InputError(f"images is one {type(images).__name__}; give a list, if only of one image")
        loaded = [load_image(image) for image in images]
        if size is not None:
            loaded = [fit(image, height=size[0], width=size[1], mode=mode) for image in loaded]
        return self.encode(to_pixels(loaded).to(self.device))

    @torch.no_grad()
    def decode_images(self, codes: Tensor) -> list[Image.Image]:
        """(B, h, w) int64 codes -> B pictures of (h factor, w factor) pixels."""
        return to_images(self.decode(codes.to(self.device)))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *model_args: Any,
        config: ImageTokenizerConfig | None = None,
        **kwargs: Any,
    ) -> ImageTokenizer:
        """A directory or hub name, ours or in the published layout -> tokenizer in evaluation mode.

        A config.json that is absent, empty or without a model_type means the published sizes. Further arguments (dtype,
        those of the hub, ...) are those of transformers.
        Raises CheckpointError if there is nothing to read, a file is damaged, or any tensor is missing, unexpected or misshapen.
        """
        directory = find(pretrained_model_name_or_path, **{name: kwargs.pop(name) for name in HUB_KEYWORDS if name in kwargs})
        config = config or _read_config(directory)
        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in cls(config).state_dict().items()}
        check(directory, expected, optional=[name for name in expected if name.startswith("quantize.")])
        return super().from_pretrained(directory, *model_args, config=config, **kwargs)  # type: ignore[no-any-return]

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in transformers; older weights in the directory are replaced, in whatever form they are."""
        with saving(Path(save_directory)):
            super().save_pretrained(save_directory, *args, **kwargs)


def _read_config(directory: Path) -> ImageTokenizerConfig:
    file = directory / CONFIG_NAME
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    try:
        values = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); copy or download it again") from error
    if "model_type" not in values:
        return ImageTokenizerConfig()
    expected, found = ImageTokenizerConfig.model_type, values["model_type"]
    if found != expected:
        raise CheckpointError(f"{file} has model_type={found!r}, not {expected!r}; give the directory of an image tokenizer")
    return ImageTokenizerConfig.from_dict(values)  # type: ignore[no-any-return]
