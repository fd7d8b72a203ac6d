"""The networks and tokenizers that a run begins with: loaded, or new from the seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from mmada.data.world import World
from mmada.errors import InputError
from mmada.families import Family
from mmada.generation.requests import image_tokenizer_of
from mmada.hub import checkpoint, networks, tokenizer
from mmada.hub.adapters import portable_name
from mmada.hub.family import FAMILY_KEY
from mmada.hub.text_tokenizer import TextTokenizer
from mmada.image import VQVAE, BaseImageTokenizer, ImageTokenizer, ImageTokenizerConfig, VQVAEConfig
from mmada.model import Transformer, TransformerConfig, preset
from mmada.model.layers import PreNormBlock
from mmada.model.quantized import quantization_of
from mmada.train import code_bits, lora, state
from mmada.train.config import ImageTokenizerSettings, ModelConfig, TrainConfig
from mmada.train.plan import asked

__all__ = ["backbone", "compile_blocks", "freeze", "image_tokenizer", "new_image_tokenizer", "text_tokenizer"]

_NUM_CORPUS = 3000
"""Samples of the world that a new text tokenizer learns its merges from."""
_SIZE = 64
"""Pixels along a side for which a new image tokenizer is made where no world says so."""


def new_image_tokenizer(net: ImageTokenizerSettings, *, seed: int, size: int = 0) -> BaseImageTokenizer:
    """size: pixels along a side of its pictures; 0: any. Raises InputError for settings that its kind has not, or if net.start is of another."""
    if net.start:
        return _started(net, seed=seed).train()
    net = net.whole()
    if net.kind == "vqvae":
        _check_vqvae(net, size)
        return _new_vqvae(net, seed=seed).train()
    if net.num_codes:
        raise InputError(f"net.num_codes={net.num_codes} is that of a codebook; MAGVIT-v2 has 2^z_channels codes: set net.z_channels")
    _check_upscaler(net)
    sizes = asdict(net)
    del sizes["start"], sizes["kind"], sizes["num_codes"]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # restored by fork_rng
        return ImageTokenizer(ImageTokenizerConfig(resolution=size or _SIZE, **sizes))


def _started(net: ImageTokenizerSettings, *, seed: int) -> BaseImageTokenizer:
    """The tokenizer of net.start, with a new upscaler if one is asked for."""
    start = networks.load_image_tokenizer(net.start)
    _check_sizes(net, start, f"net.start={net.start!r}")
    if net.upscale in (1, start.upscale):
        return start
    if not isinstance(start, ImageTokenizer):
        raise InputError(
            f"net.upscale={net.upscale} adds an upscaler to a MAGVIT-v2 tokenizer, and {net.start!r} is a VQ-VAE; leave it out"
        )
    return _with_upscaler(start, net, seed=seed)


def _check_sizes(net: ImageTokenizerSettings, start: BaseImageTokenizer, beside: str) -> None:
    """Raises InputError for a kind and sizes that are given and are not those of a tokenizer. beside: what it is called in a sentence."""
    kind = "vqvae" if isinstance(start, VQVAE) else "magvit-v2"
    if net.kind not in ("", kind):
        raise InputError(f"{beside} is a {kind} tokenizer, and net.kind={net.kind}; leave one of them out")
    found, asked = _sizes_of(start), net.given
    if start.upscale > 1:
        asked |= _of_upscaler(net)
    else:
        _check_upscaler(net)
    if others := {name: value for name, value in asked.items() if found.get(name) != value}:
        named = ", ".join(f"net.{name}={value}" for name, value in others.items())
        has = ", ".join(f"{name}={found[name]}" if name in found else f"no {name}" for name in others)
        raise InputError(f"{beside} has {has}, and {named} says otherwise; leave that out, or take another tokenizer")


def _check_loaded(net: ImageTokenizerSettings, images: BaseImageTokenizer, name: str) -> None:
    """Raises InputError for settings of a new tokenizer that are given and are not those of the one that a transformer is trained with."""
    if net.start:
        raise InputError(f"net.start={net.start!r} is for stages that train an image tokenizer; set model.image_tokenizer, or leave it out")
    if net.upscale not in (1, images.upscale):
        raise InputError(f"net.upscale={net.upscale} is for stages that train an image tokenizer; leave it out beside {name!r}")
    _check_sizes(net, images, f"the image tokenizer {name!r}")


def _of_upscaler(net: ImageTokenizerSettings) -> dict[str, Any]:
    """What is said of an upscaler and is not usual."""
    usual = ImageTokenizerSettings()
    return {name: value for name in ("upscaler_ch", "upscaler_num_res_blocks") if (value := getattr(net, name)) != getattr(usual, name)}


def _check_upscaler(net: ImageTokenizerSettings) -> None:
    """Raises InputError for sizes of an upscaler where none is made."""
    if net.upscale == 1 and (said := _of_upscaler(net)):
        name, value = next(iter(said.items()))
        raise InputError(f"net.{name}={value} is that of an upscaler, and net.upscale=1 makes none; set net.upscale, or leave it out")


def _sizes_of(start: BaseImageTokenizer) -> dict[str, Any]:
    """The sizes of a tokenizer, by the names of ImageTokenizerSettings."""
    if isinstance(start, ImageTokenizer):
        return {**start.config.to_dict(), "num_codes": start.codebook_size}
    assert isinstance(start, VQVAE)
    config = start.config
    return {
        "ch": config.norm_num_groups,
        "encoder_ch_mult": tuple(width // config.norm_num_groups for width in config.block_out_channels),
        "encoder_num_res_blocks": (config.layers_per_block,) * len(config.block_out_channels),
        "z_channels": config.embedding_size,
        "num_codes": config.num_vq_embeddings,
    }


_OF_MAGVIT = (
    "decoder_ch_mult", "decoder_num_res_blocks", "patch", "encoder_kernel", "upscale", "upscaler_ch", "upscaler_num_res_blocks"
)  # fmt: skip


def _check_vqvae(net: ImageTokenizerSettings, size: int) -> None:
    """Raises InputError for settings that a VQ-VAE has not, or that do not fit together."""
    usual = ImageTokenizerSettings().whole()
    if others := [name for name in _OF_MAGVIT if getattr(net, name) != getattr(usual, name)]:
        raise InputError(
            f"net.{others[0]}={getattr(net, others[0])} is a setting of MAGVIT-v2 alone; leave it out beside net.kind=vqvae, whose decoder "
            "mirrors encoder_ch_mult"
        )
    blocks = net.encoder_num_res_blocks
    if len(set(blocks)) != 1 or len(blocks) != len(net.encoder_ch_mult):
        raise InputError(
            f"net.encoder_num_res_blocks={blocks} must be one number for each of encoder_ch_mult={net.encoder_ch_mult}, the same for all: "
            "levels of a VQ-VAE are alike"
        )
    if net.num_codes < 0:
        raise InputError(f"net.num_codes={net.num_codes} must be positive, or 0 for 2^z_channels")
    if size % (factor := 2 ** (len(blocks) - 1)):
        raise InputError(
            f"net.encoder_ch_mult={net.encoder_ch_mult} makes squares of {factor} pixels, the world's pictures have {size}; use fewer levels"
        )


def _with_upscaler(start: ImageTokenizer, net: ImageTokenizerSettings, *, seed: int) -> ImageTokenizer:
    """The same networks before a new upscaler. Raises InputError if they have one of another size."""
    if start.upscale > 1:
        raise InputError(
            f"net.start={net.start!r} has upscale={start.upscale}, net.upscale={net.upscale}; give a tokenizer without an upscaler"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # restored by fork_rng
        sizes = {"upscale": net.upscale, "upscaler_ch": net.upscaler_ch, "upscaler_num_res_blocks": net.upscaler_num_res_blocks}
        grown = ImageTokenizer(ImageTokenizerConfig(**{**start.config.to_dict(), **sizes}))
    grown.load_state_dict({**grown.state_dict(), **start.state_dict()})
    return grown


def _new_vqvae(net: ImageTokenizerSettings, *, seed: int) -> VQVAE:
    """Random weights, as wide, as deep and with as many codes as `net` says of the encoder."""
    net = net.whole()
    sizes = VQVAEConfig(
        block_out_channels=tuple(net.ch * multiple for multiple in net.encoder_ch_mult),
        layers_per_block=max(net.encoder_num_res_blocks),
        latent_channels=net.z_channels,
        num_vq_embeddings=net.num_codes or 2**net.z_channels,
        norm_num_groups=net.ch,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # restored by fork_rng
        return VQVAE(sizes)


def image_tokenizer(config: TrainConfig, start: Path | None, family: Family, *, size: int = 0) -> BaseImageTokenizer | None:
    """That of the start, or a new one; None for a family without images.

    size  pixels along a side of its pictures, which it must divide; 0: any
    Raises InputError if it does not, and for settings of net that are not its own.
    """
    if family.image_tokenizer is None:
        return None
    name = config.model.image_tokenizer or ("" if start is None else image_tokenizer_of(start, family))
    if not name and not config.debug:
        raise InputError(
            f"model.image_tokenizer is empty and model.start={config.model.start!r} holds none; train one with stage=tokenizer"
        )
    # A hub repository may hold it in a folder; a directory was named with it.
    folder = family.image_tokenizer_folder if name and checkpoint.local(name) is None else ""
    if name:
        images = networks.load_image_tokenizer(name, subfolder=folder)
        if not config.debug:  # whose sizes are nobody's
            _check_loaded(config.net, images, name)
    elif family.image_tokenizer == "vqvae":
        images = _new_vqvae(config.net, seed=config.seed)
    else:
        images = new_image_tokenizer(config.net, seed=config.seed, size=size)
    if size % images.factor:
        raise InputError(
            f"model.image_tokenizer={str(name)!r} makes squares of {images.factor} pixels, the world's pictures have {size}; use another"
        )
    images.eval().requires_grad_(False)
    return images


def text_tokenizer(config: TrainConfig, start: Path | None, family: Family, *, world: World | None = None) -> TextTokenizer:
    """That of the start; or a new one, which is made once from the world's corpus and kept beside the state."""
    if start is not None:
        return tokenizer.load(start, family.layout, family)
    kept, num_merges = Path(config.out) / "tokenizer", config.model.whole().num_merges
    assert num_merges is not None  # whole
    with PartialState().main_process_first():
        if not kept.exists():
            corpus: Iterable[str] = ()
            if num_merges:
                if world is None:
                    raise InputError(
                        f"model.num_merges={num_merges} are learned from a world's texts, and there is no data.world; "
                        "set model.num_merges=0 for bytes, or model.start"
                    )
                corpus = world.corpus(_NUM_CORPUS)
            special = (*family.new_strings.values(), *family.tags)
            made = tokenizer.byte_level(corpus, num_merges=num_merges, special=special)
            state.write(kept, made.save_pretrained)
        return TextTokenizer.read(kept)


def backbone(config: TrainConfig, start: Path | None, family: Family, text: TextTokenizer, *, codebook_size: int) -> Transformer:
    """The transformer that a run trains: of the checkpoint `start`, or new from the configuration's preset.

    codebook_size  of the image tokenizer; 0: text alone
    Raises InputError if the checkpoint has other image codes, or quantized matrices and no adapter to train.
    """
    dtype, new = getattr(torch, config.model.dtype), config.model.whole()
    if start is not None:
        _check_start(config.model, networks.transformer_config(start, family=family))
        strategy = asked(tensor_parallel=config.loop.tensor_parallel)
        # The maps of code_bits are added to rows that must be there.
        deferred = strategy in ("FSDP2", "tensor parallelism") and not config.model.code_bits
        model = networks.load_transformer(
            start, dtype=dtype, family=family, quantize_as=config.model.quantize or None, deferred=deferred
        ).train()
        if quantization_of(model) is not None and not config.lora.rank:
            raise InputError(f"model.start={str(start)!r} has quantized matrices, which are not trained; set lora.rank=8 for an adapter")
        if model.config.layout.codebook_size != codebook_size:
            raise InputError(
                f"model.start={str(start)!r} has {model.config.layout.codebook_size} image codes, model.image_tokenizer {codebook_size}; "
                "use the one that the model was trained with"
            )
    else:
        layout = family.new_layout(len(text), codebook_size=codebook_size)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)  # restored by fork_rng
            sizes = preset(new.preset, layout=layout, max_sequence_length=new.max_sequence_length)
            model = Transformer(replace(sizes, extra={FAMILY_KEY: family.name}, **family.config) if config.model.family else sizes)
            model.to(dtype)
    tokenizer.check(text, model.config.layout, family)
    if config.model.code_bits:
        code_bits.add_maps(model, num_bits=(codebook_size - 1).bit_length())
    if config.lora.rank:
        lora.inject(model, config.lora, seed=config.seed, base=portable_name(config.model.start))
    if config.loop.checkpointing:
        model.checkpoint_gradients()
    return model


def _check_start(model: ModelConfig, found: TransformerConfig) -> None:
    """Raises InputError for sizes of a new model or text tokenizer that are given and are not those of model.start. found: of that."""
    beside = f"model.start={model.start!r} has"
    if "num_merges" in model.given:
        raise InputError(f"model.num_merges={model.num_merges} are those of a new text tokenizer, and {beside} its own; leave them out")
    if (length := model.max_sequence_length) not in (0, found.max_sequence_length):
        raise InputError(f"model.max_sequence_length={length}, and {beside} {found.max_sequence_length}; leave it out")
    if model.preset:
        wanted = preset(model.preset)
        others = [name for name in ("d_model", "n_layers", "n_heads", "mlp_hidden_size") if getattr(wanted, name) != getattr(found, name)]
        sizes = [", ".join(f"{name}={getattr(config, name)}" for name in others) for config in (wanted, found)]
        if others:
            raise InputError(f"model.preset={model.preset!r} has {sizes[0]}, and {beside} {sizes[1]}; leave the preset out")


def freeze(module: nn.Module, patterns: tuple[str, ...]) -> None:
    """Only parameters whose name (in the network's own checkpoint) matches a pattern stay trainable."""
    names = [name.partition(".")[2] for name, _ in module.named_parameters()]
    unused = [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in names)]
    if unused:
        raise InputError(f"stage.trainable: {unused[0]!r} matches no parameter; names look like {names[0]!r} and {names[-1]!r}")
    for name, parameter in module.named_parameters():
        if not any(fnmatch(name.partition(".")[2], pattern) for pattern in patterns):
            parameter.requires_grad_(False)


def compile_blocks(module: nn.Module) -> None:
    """torch.compile each repeated block, for all shapes: they share one compiled code, made in half a minute."""
    for part in module.modules():
        if isinstance(part, PreNormBlock) or type(part).__name__ == "ResnetBlock":
            part.compile(dynamic=True)
