"""`MMaDA`: the object a user holds. Chat, look at images, draw, fill; one request or many kinds at once.

    model = MMaDA.from_pretrained("Gen-Verse/MMaDA-8B-MixCoT")
    model.chat("How many legs have two cats?", think=True).text
    model.ask("photo.png", "What is this?").text
    model.draw("two red hearts above a dog", seed=3).image.save("out.png")
    model.run([ChatRequest("Hello"), DrawRequest("a cat"), FillRequest("The [MASK:2] sat.")])   # one forward pass a step for all

A request becomes a program (generation/programs.py), and the engine runs them all (generation/engine.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from mmada.canvas import Hole, Prompts, Style, VocabLayout
from mmada.data.find_world import find_world
from mmada.data.world import World
from mmada.errors import CheckpointError, InputError, MissingDependencyError, MMaDAError, suggest
from mmada.families import Family
from mmada.families.mmada import MMADA
from mmada.generation.engine import MAX_LOGITS, Engine
from mmada.generation.lexicon import Lexicon
from mmada.generation.planner import Planner
from mmada.generation.programs import program_of
from mmada.generation.requests import (
    DEFAULTS_NAME,
    IMAGE_TOKENIZER_DIR,
    Answer,
    ChatRequest,
    Conversation,
    Drawing,
    DrawRequest,
    EditRequest,
    EmptyAnswerError,
    FillRequest,
    GenerationConfig,
    NotDrawnError,
    Order,
    ParallelRequest,
    Request,
    Result,
    image_tokenizer_of,
)
from mmada.generation.settings import TextSettings
from mmada.generation.steps import RequestState
from mmada.hub import checkpoint, networks, tokenizer
from mmada.hub.adapters import adapter_of, merge
from mmada.hub.chat_template import chat_template
from mmada.hub.family import family_of
from mmada.hub.processor_config import save_processor
from mmada.hub.text_tokenizer import TextTokenizer
from mmada.image import BaseImageTokenizer, ImageSource, ImageTokenizer, ImageTokenizerConfig
from mmada.model import Transformer, TransformerDenoiser, preset
from mmada.model.quantized import quantize as quantize_matrices
from mmada.sampling import Denoiser, JointParams, SamplingParams

if TYPE_CHECKING:
    from mmada.hub.processor import MMaDAProcessor
    from mmada.model.mirror import LeadingDenoiser

__all__ = ["DESCRIBE", "MMaDA", "Progress", "usable_device"]

DESCRIBE = "Please describe this image in detail."

_R = TypeVar("_R", Answer, Drawing)


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """The state after a step, for a progress bar, a stream or a preview. Its methods cost something only when called.

    round  how many steps there were
    """

    round: int
    model: MMaDA
    _states: Sequence[RequestState[Result]]

    @property
    def fraction(self) -> float:
        """Share of all open positions that are committed, those of drawings that are thought about first included; 0 to 1, never falling."""
        found = [state.progress for state in self._states]
        return sum(filled for filled, _ in found) / sum(total for _, total in found)

    def text(self, request: int = 0) -> str:
        """What is final of a text from its beginning; only ever grows."""
        row = self._states[request].sequence
        # A character may be spread over several tokens; an incomplete one decodes to U+FFFD and is held back.
        return "" if row is None else self.model.prompts.decode(row.ids[: row.num_final]).rstrip("\ufffd")

    def draft(self, request: int = 0) -> str:
        """The whole text as it looks now, open positions with their latest proposals."""
        row = self._states[request].sequence
        return "" if row is None else self.model.prompts.decode(row.preview[: row.fill.num_text])

    def pieces(self, request: int = 0) -> list[tuple[str, bool]]:
        """Every token of a text as it looks now, and whether it is final; a position without a proposal is a dot."""
        row = self._states[request].sequence
        if row is None:
            return []
        ids, layout = row.preview[: row.fill.num_text].tolist(), self.model.layout
        words = {i: self.model.prompts.decode([i]) for i in set(ids)} | dict.fromkeys(layout.end_ids, "") | {layout.mask_id: "\u00b7"}
        return [(words[i], not is_open) for i, is_open in zip(ids, row.is_open[: row.fill.num_text].tolist(), strict=True)]

    def is_drawing(self, request: int = 0) -> bool:
        """Whether a request fills an image now; False while it waits or is thinking, or is a text."""
        return self._states[request].draws

    def codes(self, request: int = 0) -> tuple[Tensor, Tensor]:
        """Codes of a drawing (h, w), open positions with their latest proposals, and which are still open (h, w) bool."""
        row = self._states[request].sequence
        if row is None or row.fill.init is None:
            raise InputError(f"request {request} is not drawing now; ask for its text")
        init = row.fill.init
        is_open = init.is_open.clone()
        is_open[init.is_open] = row.is_open[row.fill.num_text :]
        return self.model.planner.codes(init, row.preview[row.fill.num_text :]), is_open

    def image(self, request: int = 0) -> Image.Image:
        """The drawing as it looks now."""
        return self.model.image_tokenizer.decode_images(self.codes(request)[0][None])[0]


class MMaDA:
    """A model with its text tokenizer and image tokenizer.

    model            the transformer
    prompts          token layouts over its vocabulary
    image_tokenizer  loaded at first use if given as a name
    defaults         how this checkpoint is best used
    family           of the checkpoint: what it can do, and how it is sampled
    max_tokens       tokens that share a forward pass
    max_logits       numbers that a step of `run` is told: with max_tokens, what bounds its memory
    denoiser         what asks the transformer; None: here, in one process
    """

    def __init__(
        self,
        model: Transformer,
        prompts: Prompts,
        image_tokenizer: BaseImageTokenizer | str | os.PathLike[str] | None,
        *,
        defaults: GenerationConfig | None = None,
        family: Family = MMADA,
        max_tokens: int = 65536,
        max_logits: int = MAX_LOGITS,
        denoiser: LeadingDenoiser | None = None,
    ) -> None:
        self.model, self.prompts, self._image_tokenizer = model.eval(), prompts, image_tokenizer
        self.max_tokens, self.max_logits = max_tokens, max_logits
        self._name = ""
        self._leading = denoiser
        if denoiser is not None:
            denoiser.max_tokens = max_tokens
        self.denoiser: Denoiser = denoiser or TransformerDenoiser(model, max_tokens=max_tokens, graphs=True)
        context = model.config.max_sequence_length
        defaults = defaults or GenerationConfig(style=prompts.style)
        self.planner = Planner(prompts, defaults, context=context, image_tokenizer=lambda: self.image_tokenizer, family=family)

    # Loading and saving.

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = checkpoint.DEFAULT_MODEL,
        *,
        image_tokenizer: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        revision: str | None = None,
        family: str | None = None,
        quantize: str | None = None,
        tensor_parallel: int = 1,
        **options: Any,
    ) -> MMaDA:
        """A checkpoint directory, a built-in name such as "mmada-emoji-mixcot" or "debug", or a hub name such as "Gen-Verse/MMaDA-8B-MixCoT".

        image_tokenizer  directory or name; default: the one inside the checkpoint, else the one that its defaults name
        device           default: the GPU if there is one, else the CPU
        dtype            default: as saved
        family           name of the model's family (families/); default: told by the class and vocabulary of its files, and its name
        quantize         int8 or int4: matrices of the blocks take a half or a quarter of bfloat16 (model/quantized.py); default: as saved
        tensor_parallel  how many GPUs of this machine hold the model together, each by a process of its own (docs/scale.md); 1: one
        options          of transformers, which then loads the model: quantization_config, device_map (one device), variant, ...; and of the
                         hub's client: token, cache_dir, local_files_only, force_download, subfolder
        An adapter's directory is loaded with the base that it names, its changes merged into the weights, or beside them if they are quantized.
        Raises CheckpointError, TokenizerError, InputError for an unknown option or family.
        """
        hub = {name: options.pop(name) for name in checkpoint.HUB_KEYWORDS if name in options}
        if "torch_dtype" in options:  # its former name in transformers
            dtype = options.pop("torch_dtype")
        options = {name: value for name, value in options.items() if value is not None}
        for option in sorted(options.keys() - set(_OPTIONS)):
            known = [*_OPTIONS, *checkpoint.HUB_KEYWORDS, "image_tokenizer", "device", "dtype", "quantize", "tensor_parallel"]
            raise InputError(f"{option}={options[option]!r} is no option of from_pretrained: {suggest(option, known)}")
        if quantize is not None and options:
            raise InputError(
                f"quantize={quantize!r} is our own loading, and {', '.join(sorted(options))} that of transformers; leave one of them out"
            )
        if device is not None and "device_map" in options:
            raise InputError(
                f"device={str(device)!r} and device_map={options['device_map']!r} both say where the model goes; give one of them"
            )
        device = torch.device(device) if device is not None and tensor_parallel != 1 else usable_device(device or _best_device())
        if tensor_parallel != 1:
            from mmada.pipeline.followers import check_devices

            check_devices(tensor_parallel, device)
            if others := [*sorted(options), *(["quantize"] if quantize is not None else [])]:
                raise InputError(
                    f"tensor_parallel={tensor_parallel} splits plain matrices, and {others[0]} loads others; leave one of them out"
                )
        if str(name) == "debug":
            if options:
                raise InputError(f"the debug model has no files to load, and {', '.join(sorted(options))} is about loading; leave it out")
            made = cls.debug() if image_tokenizer is None else cls.debug().use(image_tokenizer=str(image_tokenizer))
            if dtype != "auto":
                made.model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
            if quantize is not None:
                quantize_matrices(made.model, quantize)
            made._name = "debug"
            return made.to(device) if tensor_parallel == 1 else made._split(device, tensor_parallel)
        directory = checkpoint.find(name, revision=revision, **hub)
        if (adapter := adapter_of(directory)) is not None:
            if tensor_parallel != 1:
                raise InputError(
                    f"tensor_parallel={tensor_parallel} splits plain matrices, and {directory} holds an adapter; "
                    f"make a model of it (mmada convert {directory} OUT)"
                )
            place = None if "device_map" in options else device
            made = cls.from_pretrained(
                adapter.base,
                image_tokenizer=image_tokenizer,
                device=place,
                dtype=dtype,
                revision=adapter.revision,
                family=family,
                quantize=quantize,
                **options,
            )
            merge(made.model, directory)
            if (directory / DEFAULTS_NAME).exists():  # of an adapter that was trained here
                own = GenerationConfig.load(directory, made.family)
                before = made.defaults
                made.use(**{f.name: getattr(own, f.name) for f in fields(own) if getattr(own, f.name) != getattr(before, f.name)})
            made.planner.lexicon = Lexicon.load(directory) or made.planner.lexicon
            made._name = str(name)
            return made
        kind = family_of(directory, names=[str(name)], family=family)
        packed_by_others = networks.quantization(directory) is None and checkpoint.read_config(directory).get("quantization_config")
        if packed_by_others and quantize is not None:
            raise InputError(
                f"quantize={quantize!r}: {directory} is quantized already; leave quantize out, or give the checkpoint that it was made of"
            )
        if packed_by_others and tensor_parallel != 1:
            raise InputError(
                f"tensor_parallel={tensor_parallel} splits plain matrices, and {directory} is quantized; give what it was made of"
            )
        denoiser = None
        if tensor_parallel != 1:
            denoiser = _led(directory, kind, dtype, device, tensor_parallel)
            model: Transformer = denoiser.model
        elif options or packed_by_others:
            model = _through_transformers(directory, dtype, device, options)
        else:
            model = networks.load_transformer(directory, dtype=dtype, device=device, family=kind, quantize_as=quantize)
        defaults = GenerationConfig.load(directory, kind)
        prompts = kind.prompts(kind.layout, tokenizer.load(directory, kind.layout, kind), defaults.style)
        images = image_tokenizer or image_tokenizer_of(directory, kind)
        made = cls(model, prompts, images, defaults=defaults, family=kind, denoiser=denoiser)
        made.planner.lexicon = Lexicon.load(directory)
        made.planner.world = partial(_world, defaults.world) if defaults.world else None
        made._name = str(name)
        return made

    @classmethod
    def debug(cls, *, seed: int = 0) -> MMaDA:
        """A tiny model with random weights and a byte tokenizer: every path of the package in milliseconds, no sense in its answers."""
        text = tokenizer.byte_level()
        bits = 6
        layout = VocabLayout.compact(256, 2**bits)
        small = ImageTokenizerConfig(
            ch=16,
            encoder_ch_mult=(1, 1, 2),
            encoder_num_res_blocks=(1, 1, 1),
            decoder_ch_mult=(1, 1, 2),
            decoder_num_res_blocks=(1, 1, 1),
            z_channels=bits,
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # restored by fork_rng
            # Wide weights, so that a random model prefers some tokens to others.
            model = Transformer(preset("debug", layout=layout, max_sequence_length=1024, init_std=0.2))
            images = ImageTokenizer(small).eval()
        # Everything but ASCII letters, digits and signs stays at logit 0 and is hardly ever the likeliest: answers can be read.
        shown = {text.token_to_id(chr(c)) for c in range(33, 127)}
        with torch.no_grad():
            model.head_weight[[i for i in range(layout.image_offset) if i not in shown]] = 0
        defaults = GenerationConfig(
            max_new_tokens=32,
            max_thinking_tokens=48,
            block_length=16,
            image_height=32,
            image_width=32,
            image_steps=8,
            guidance_scale=1.0,
            reasons_in_one_row=True,
            style=Style(thinking="Think. ", draw_thinking="Think. "),
        )
        return cls(model, Prompts(layout, text, defaults.style), images, defaults=defaults)

    def _split(self, device: torch.device, size: int) -> MMaDA:
        """The same over several processes, which read it from a directory that does not stay."""
        with TemporaryDirectory() as folder:
            networks.save_transformer(self.model, folder)
            denoiser = _led(Path(folder), self.family, "auto", device, size)
        return MMaDA(denoiser.model, self.prompts, self._image_tokenizer, defaults=self.defaults, family=self.family, denoiser=denoiser)

    @property
    def tensor_parallel(self) -> int:
        """How many processes hold the model together."""
        return 1 if self._leading is None else self._leading.size

    @property
    def bytes_per_token(self) -> int:
        """What a KV cache takes of each process for a token."""
        return self.model.config.num_kept_values * self.model.wide_dtype.itemsize // self.tensor_parallel

    def close(self) -> None:
        """End the other processes of a model with tensor_parallel above 1, which then answers nothing; else nothing happens."""
        if self._leading is not None:
            self._leading.close()

    def _refuse_split(self, what: str) -> None:
        """Raises InputError if this process holds a part of the weights."""
        if self._leading is not None:
            raise InputError(
                f"{what} needs whole weights, and tensor_parallel={self.tensor_parallel} processes hold them; load with tensor_parallel=1"
            )

    def save_pretrained(self, directory: str | os.PathLike[str], *, max_shard_size: str = "5GB") -> None:
        """Write weights, both tokenizers and defaults; the published code reads the weights, `from_pretrained` all of it.

        Raises InputError if other processes hold parts of the weights, or the directory cannot be written.
        """
        self._refuse_split("save_pretrained")
        path = Path(directory)
        with checkpoint.writing(path):
            self._save(path, max_shard_size)

    def _save(self, path: Path, max_shard_size: str) -> None:
        d = self.defaults
        networks.save_transformer(self.model, path, max_shard_size=max_shard_size)
        d.save(path)
        if self.planner.lexicon is not None:
            self.planner.lexicon.save(path)
        if self.family.image_tokenizer is None:
            self._text.for_model(chat_template(self.prompts), context=self.model.config.max_sequence_length).save_pretrained(path)
            return
        save_processor(
            path,
            self._text,
            size=(d.image_height, d.image_width),
            mode=d.image_mode,
            crops=d.image_crops,
            factor=self.image_tokenizer.factor,
            value_range=self.image_tokenizer.pixel_range,
            family=self.family.name,
            layout=self.layout,
            style=asdict(d.style),
            template=chat_template(self.prompts),
            context=self.model.config.max_sequence_length,
        )
        networks.save_image_tokenizer(self.image_tokenizer, path / IMAGE_TOKENIZER_DIR)

    def to(self, device: str | torch.device) -> MMaDA:
        """Move the networks; returns self. Raises InputError for a device that cannot be used, or if other processes hold parts of them."""
        self._refuse_split("to")
        device = usable_device(device)
        self.model.to(device)
        if isinstance(self._image_tokenizer, BaseImageTokenizer):
            self._image_tokenizer.to(device)
        return self

    def use(self, **changes: Any) -> MMaDA:
        """Change how requests are served that do not say otherwise, such as use(cache="dual", threshold=0.8); returns self.

        The names are those of `GenerationConfig`. Raises InputError for another one, or a value that cannot be used.
        """
        known = [f.name for f in fields(GenerationConfig)]
        for name in changes:
            if name not in known:
                raise InputError(f"{name}={changes[name]!r} is no default of a checkpoint: {suggest(name, known)}")
        world = _rules(changes["world"]) if "world" in changes else self.planner.world
        before, self.planner.defaults = self.defaults, replace(self.defaults, **changes)
        try:
            self.planner.text_params()
        except InputError:
            self.planner.defaults = before
            raise
        self.planner.world = world
        if "style" in changes:
            self.prompts = self.planner.prompts = replace(self.prompts, style=self.defaults.style)
        if "image_tokenizer" in changes:
            self._image_tokenizer = None  # loaded when it is needed
        return self

    @property
    def defaults(self) -> GenerationConfig:
        """How this checkpoint is used where a request does not say otherwise."""
        return self.planner.defaults

    @property
    def image_tokenizer(self) -> BaseImageTokenizer:
        """Pixels <-> codes. Raises CheckpointError if it cannot be loaded, or does not fit the vocabulary; InputError if the family has none."""
        self.planner.require("look")
        if isinstance(self._image_tokenizer, BaseImageTokenizer):
            return self._image_tokenizer
        name = self._image_tokenizer or self.defaults.image_tokenizer
        # A hub repository may hold it in a folder; a directory was named with it.
        folder = self.family.image_tokenizer_folder if checkpoint.local(name) is None else ""
        loaded = networks.load_image_tokenizer(name, device=self.model.device, subfolder=folder)
        if loaded.codebook_size != self.layout.codebook_size:
            raise CheckpointError(
                f"image_tokenizer={str(name)!r} has {loaded.codebook_size} codes, the model {self.layout.codebook_size}; "
                "use the one that the model was trained with"
            )
        self._image_tokenizer = loaded
        return loaded

    @property
    def pixels_per_code(self) -> int:
        """Along a side of a picture, as it is drawn; 1 if the family has no pictures. Loads the image tokenizer. Raises CheckpointError."""
        return self.image_tokenizer.decode_factor if self.family.image_tokenizer else 1

    @property
    def layout(self) -> VocabLayout:
        return self.prompts.layout

    @property
    def family(self) -> Family:
        """What published models this one is of a kind with."""
        return self.planner.family

    @property
    def processor(self) -> MMaDAProcessor:
        """The same tokenizers and prompts as a processor of transformers, which it needs.

        Raises InputError for a family without images, whose text tokenizer is all that there is to process with.
        """
        from mmada.hub.processor import MMaDAImageProcessor, MMaDAProcessor

        if (problem := self.family.lacks("look")) is not None:
            raise InputError(f"{problem}, so it has no processor; load its tokenizer (AutoTokenizer), whose chat template lays turns out")
        d, image_tokenizer = self.defaults, self.image_tokenizer
        images = MMaDAImageProcessor(
            d.image_height, d.image_width, d.image_mode, image_tokenizer.factor, image_tokenizer.pixel_range, d.image_crops
        )
        text = self._text.for_model(chat_template(self.prompts), context=self.model.config.max_sequence_length).to_transformers()
        layout, style = self.layout.to_dict(), asdict(d.style)
        return MMaDAProcessor(images, text, layout, style, chat_template=text.chat_template, family=self.family.name)

    @property
    def _text(self) -> TextTokenizer:
        text = self.prompts.tokenizer
        if not isinstance(text, TextTokenizer):
            raise InputError(f"prompts.tokenizer is a {type(text).__name__}; give a TextTokenizer (hub/text_tokenizer.py)")
        return text

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: what it is made of. Recorded CUDA graphs stay behind."""
        self._refuse_split("a copy")
        made = {
            "model": self.model,
            "prompts": self.prompts,
            "image_tokenizer": self._image_tokenizer,
            "defaults": self.defaults,
            "family": self.family,
        }
        made |= {"max_tokens": self.max_tokens, "max_logits": self.max_logits}
        return {"made": made, "lexicon": self.planner.lexicon, "world": self.planner.world, "name": self._name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["made"])  # type: ignore[misc]
        self.planner.lexicon, self.planner.world, self._name = state["lexicon"], state["world"], state["name"]

    def __repr__(self) -> str:
        millions = sum(weight.numel() for weight in self.model.parameters()) / 1e6
        dtype = str(self.model.dtype).removeprefix("torch.")
        name = f"{self._name!r}, " if self._name else ""
        return f"MMaDA({name}{self.family.title}, {millions:.4g} M weights, {dtype}, {self.model.device})"

    # One request.

    def chat(
        self,
        messages: Conversation,
        *,
        images: Sequence[ImageSource] = (),
        think: bool | None = None,
        max_new_tokens: int | None = None,
        params: SamplingParams | TextSettings | None = None,
        seed: int = 0,
        strict: bool = False,
        calculator: bool | None = None,
        on_step: Callable[[Progress], None] | None = None,
        trace: bool = False,
    ) -> Answer:
        """Answer a question, or the last turn of a conversation. Raises EmptyAnswerError if there is no answer.

        params: TextSettings(temperature=0.7) changes some of the checkpoint's sampling parameters, SamplingParams replaces all of them.
        strict: read every word as it is written, where a checkpoint with a lexicon would correct misspelled ones (`Answer.corrections`).
        calculator: let the rules of the checkpoint's world write what is certain of a thought, such as the result of a sum that it has set up.
        None: as the checkpoint has it.
        """
        return self._one(ChatRequest(messages, images, think, max_new_tokens, params, seed, strict, calculator), Answer, on_step, trace)

    def ask(
        self,
        image: ImageSource,
        question: str = DESCRIBE,
        *,
        think: bool | None = None,
        max_new_tokens: int | None = None,
        params: SamplingParams | TextSettings | None = None,
        seed: int = 0,
        strict: bool = False,
        calculator: bool | None = None,
        on_step: Callable[[Progress], None] | None = None,
        trace: bool = False,
    ) -> Answer:
        """Answer a question about an image, or describe it; params, strict and calculator as in chat."""
        return self._one(ChatRequest(question, [image], think, max_new_tokens, params, seed, strict, calculator), Answer, on_step, trace)

    def describe(self, image: ImageSource, *, params: SamplingParams | TextSettings | None = None, seed: int = 0) -> Answer:
        """Describe an image in words."""
        return self.ask(image, DESCRIBE, params=params, seed=seed)

    def draw(
        self,
        prompt: str,
        *,
        negative_prompt: str = "",
        size: tuple[int, int] | None = None,
        think: bool | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        params: SamplingParams | None = None,
        seed: int = 0,
        best_of: int = 1,
        strict: bool = False,
        on_step: Callable[[Progress], None] | None = None,
        trace: bool = False,
    ) -> Drawing:
        """Draw an image of (height, width) pixels; of several (`best_of`), the one that the model itself finds likeliest.

        think: say first what is to be drawn, then draw that; None is the checkpoint's default (`defaults.thinks_before_drawing`).
        strict: read every word as it is written, and raise InputError where one is not known, instead of drawing the rest.
        """
        request = DrawRequest(
            prompt, negative_prompt, size, None, None, (0, 0, 0, 0), think, steps, guidance_scale, params, seed, best_of, strict
        )
        return self._one(request, Drawing, on_step, trace)

    def fill(
        self,
        template: str | Sequence[str | Hole],
        *,
        messages: Conversation = (),
        params: SamplingParams | TextSettings | None = None,
        seed: int = 0,
        on_step: Callable[[Progress], None] | None = None,
        trace: bool = False,
    ) -> Answer:
        """Complete a text with holes ("The [MASK:2] sat."); the text of the answer is the whole, holes filled."""
        return self._one(FillRequest(template, messages, params, seed), Answer, on_step, trace)

    def fill_image(
        self,
        image: ImageSource,
        mask: ImageSource | None = None,
        *,
        prompt: str,
        negative_prompt: str = "",
        extend: tuple[int, int, int, int] = (0, 0, 0, 0),
        steps: int | None = None,
        guidance_scale: float | None = None,
        params: SamplingParams | None = None,
        seed: int = 0,
        best_of: int = 1,
        on_step: Callable[[Progress], None] | None = None,
        trace: bool = False,
    ) -> Drawing:
        """Draw the part of an image that `mask` marks (light), or `extend` it by (left, top, right, bottom) pixels; `best_of` as in draw."""
        request = DrawRequest(prompt, negative_prompt, None, image, mask, extend, False, steps, guidance_scale, params, seed, best_of)
        return self._one(request, Drawing, on_step, trace)

    def edit(
        self,
        prompt: str,
        images: Sequence[ImageSource],
        *,
        restyle: bool = False,
        size: tuple[int, int] | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        params: SamplingParams | None = None,
        seed: int = 0,
        on_step: Callable[[Progress], None] | None = None,
        trace: bool = False,
    ) -> Drawing:
        """Draw by an instruction and source images; for families that edit (`EditRequest` says what the arguments are)."""
        request = EditRequest(prompt, images, restyle, size, steps, guidance_scale, image_guidance_scale, params, seed)
        return self._one(request, Drawing, on_step, trace)

    def write_and_draw(
        self,
        prompt: str,
        images: Sequence[ImageSource],
        *,
        size: tuple[int, int] | None = None,
        max_new_tokens: int | None = None,
        order: Order = "together",
        text_steps: int | None = None,
        image_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        params: JointParams | None = None,
        seed: int = 0,
        on_step: Callable[[Progress], None] | None = None,
        trace: bool = False,
    ) -> Drawing:
        """Write and draw in the same passes; for families that do so (`ParallelRequest` says what the arguments are)."""
        steps = (text_steps, image_steps)
        request = ParallelRequest(prompt, images, size, max_new_tokens, order, *steps, guidance_scale, image_guidance_scale, params, seed)
        return self._one(request, Drawing, on_step, trace)

    # Many requests.

    def run(self, requests: Sequence[Request], *, on_step: Callable[[Progress], None] | None = None, trace: bool = False) -> list[Result]:
        """Serve requests of any kind together; each result equals that of the request alone (to the last bit on a CPU in float32).

        on_step  called after every step
        trace    keep what every step committed
        Raises InputError for a bad request (nothing is computed), EmptyAnswerError if a text stayed empty, NotDrawnError,
        a kind of it, if a prompt cannot be drawn (they have the results).
        """
        if not requests:
            raise InputError("requests=[] is empty; give at least one")
        engine = Engine(self.denoiser, self.layout, device=self.model.device, max_tokens=self.max_tokens, max_logits=self.max_logits)
        states = [engine.add(program_of(request, self.planner), record=trace) for request in requests]
        steps = count(1)
        engine.drive(on_step=None if on_step is None else lambda: on_step(Progress(next(steps), self, states)))
        results = [state.result for state in states if state.result is not None]
        problems = {i: result for i, result in enumerate(results) if result.problem}
        if problems:
            kind = NotDrawnError if all(isinstance(result, Drawing) for result in problems.values()) else EmptyAnswerError
            said = [
                result.problem if kind is NotDrawnError and len(results) == 1 else f"request {i}: {result.problem}"
                for i, result in problems.items()
            ]
            raise kind("; ".join(filter(None, said)), results)
        return results

    def _one(self, request: Request, kind: type[_R], on_step: Callable[[Progress], None] | None, trace: bool) -> _R:
        (result,) = self.run([request], on_step=on_step, trace=trace)
        assert isinstance(result, kind)
        return result


def _rules(world: str) -> Callable[[], World] | None:
    """What asks a world, "" for none. Raises InputError if it is not installed."""
    if not world:
        return None
    _world(world)
    return partial(_world, world)


@cache
def _world(name: str) -> World:
    """Looked for when a prompt is first read: a start does not wait for it."""
    return find_world(name)


_OPTIONS = (
    "device_map",
    "quantization_config",
    "variant",
    "max_memory",
    "offload_folder",
    "low_cpu_mem_usage",
    "use_safetensors",
    "attn_implementation",
)
"""Of transformers' from_pretrained, what concerns the weights."""


def _through_transformers(directory: Path, dtype: str | torch.dtype, device: torch.device, options: Mapping[str, Any]) -> Transformer:
    """A checkpoint as transformers loads it: packed weights, whose formats it knows, or on the device of a device_map.

    Raises MissingDependencyError without what that needs, InputError for a map with several devices, and for what cannot be done.
    """
    asked = ", ".join(options) or "quantized weights"
    try:
        from mmada.hub.pretrained import MMadaModelLM, without_bars

        with without_bars():
            model = MMadaModelLM.from_pretrained(directory, dtype=dtype, **options)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise MissingDependencyError(f"{directory}: {asked} needs a package that is not installed: {reason}; install it") from error
    except MMaDAError:
        raise
    except (AttributeError, ValueError, TypeError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{directory}: transformers cannot load it with {asked}: {reason}") from error
    places = sorted({str(place) for place in getattr(model, "hf_device_map", {}).values()})
    if len(places) > 1:
        raise InputError(
            f"device_map puts parts of the model on {', '.join(places)}, and all of it must be on one device; give device_map={places[0]!r}"
        )
    return model if "device_map" in options else model.to(device)


def _led(directory: Path, family: Family, dtype: str | torch.dtype, device: torch.device, size: int) -> LeadingDenoiser:
    from mmada.pipeline.followers import Part, lead

    name = dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
    return lead(Part(directory=str(directory), family=family.name, dtype=name, device=device.type, size=size))


def usable_device(device: str | torch.device) -> torch.device:
    """A device that tensors can be made on. Raises InputError for another one."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise InputError(f"device={str(device)!r} cannot be used here; try cpu") from error
    return torch.device(device)


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
