"""Our sampler behind the signature of transformers' `generate`: a prompt of ids, and open positions behind it that are filled in any order.

    model.generate(**tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"), max_new_tokens=64)

Settings come from the model's generation_config, then from the one that is given, then from keywords:

    max_new_tokens or max_length, do_sample, temperature, top_k, top_p, num_return_sequences     as in transformers
    stop_strings, with tokenizer                                                                 as in transformers (hub/stop_strings.py)
    block_length, threshold, steps, full_attention, prompt_in_blocks, variable_length, cache     of the sampler (sampling/params.py)

What asks for something that a masked-diffusion model does not do (beams, processors of next-token logits, ...) is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmada.canvas import Canvas, Field, VocabLayout
from mmada.errors import InputError, suggest
from mmada.hub.stop_strings import StopStrings
from mmada.model import Transformer, TransformerDenoiser
from mmada.sampling import Denoising, SamplingParams, denoise, fast_text, named_cache

__all__ = ["GenerateSettings", "generate", "settings_of"]

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "repetition_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "length_penalty": (1,),
    "diversity_penalty": (0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "early_stopping": (False,),
    "guidance_scale": (1,),
    "output_scores": (False,),
    "output_logits": (False,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "renormalize_logits": (False,),
    "remove_invalid_values": (False,),
    "token_healing": (False,),
    "is_assistant": (False,),
    "synced_gpus": (False,),
}
"""Settings of transformers that are refused, and values that ask for nothing."""

_REFUSED = (
    "min_p", "top_h", "bad_words_ids", "force_words_ids", "constraints", "sequence_bias", "suppress_tokens", "begin_suppress_tokens",
    "forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids", "exponential_decay_length_penalty", "watermarking_config", "low_memory",
    "max_time", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "assistant_model", "assistant_tokenizer",
    "negative_prompt_ids", "negative_prompt_attention_mask", "custom_generate", "prompt_lookup_num_tokens", "dola_layers", "past_key_values",
    "cache_implementation", "cache_config", "inputs_embeds", "pixel_values", "prefill_chunk_size", "compile_config", "num_assistant_tokens",
    "assistant_early_exit", "decoder_start_token_id",
)  # fmt: skip
_WITHOUT_EFFECT = (
    "use_cache", "pad_token_id", "bos_token_id", "transformers_version", "use_model_defaults", "token_type_ids", "position_ids",
    "return_legacy_cache", "disable_compile", "continuous_batching_config", "trust_remote_code", "generation_kwargs", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind", "max_matching_ngram_size",
)  # fmt: skip
"""What changes nothing here: caches are named by `cache`, padding and begin are the vocabulary's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateSettings:
    """What one call fills, and how.

    num_new  open positions behind each prompt
    num_each  answers to each prompt
    stops    what ends an answer early; None: nothing but end tokens
    """

    num_new: int
    params: SamplingParams
    num_each: int = 1
    returns_dict: bool = False
    stops: StopStrings | None = None


_NUM_NEW = 256
"""New tokens where nothing says how many, as for the published models."""

_OWN = ("block_length", "threshold", "steps", "full_attention", "prompt_in_blocks", "variable_length", "top_k", "top_p")
_KNOWN = (
    *_OWN, "cache", "do_sample", "temperature", "max_new_tokens", "max_length", "num_return_sequences", "return_dict_in_generate",
    "eos_token_id", "stop_strings", "tokenizer", *_NEUTRAL, *_REFUSED, *_WITHOUT_EFFECT,
)  # fmt: skip


def settings_of(values: Mapping[str, Any], layout: VocabLayout, *, num_given: int, context: int) -> GenerateSettings:
    """Read settings by their names in transformers, None being no setting.

    num_given  tokens of the longest prompt
    Raises InputError for an unknown name, for what cannot be done, and for more tokens than the context has.
    """
    values = {name: value for name, value in values.items() if value is not None and not name.startswith("_")}
    for name, value in values.items():
        _check(name, value)
    ends = values.get("eos_token_id", layout.eos_id)
    ends = set(ends.tolist() if isinstance(ends, Tensor) else ends) if isinstance(ends, (Tensor, list, tuple)) else {int(ends)}
    if not ends <= set(layout.end_ids):
        raise InputError(
            f"eos_token_id={sorted(ends)} is not how this model ends an answer; leave it out, or give some of {list(layout.end_ids)}"
        )
    named = values.get("max_new_tokens")
    num_new = int(values.get("max_length", num_given + _NUM_NEW)) - num_given if named is None else int(named)
    if num_new < 1:
        name = "max_new_tokens" if "max_new_tokens" in values else "max_length"
        raise InputError(f"{name}={values[name]} leaves no token to fill behind a prompt of {num_given}; raise max_new_tokens")
    if num_given + num_new > context:
        raise InputError(
            f"a prompt of {num_given} tokens and max_new_tokens={num_new} need {num_given + num_new} positions, and the model's context has {context}; "
            "shorten the prompt or lower max_new_tokens"
        )
    # A temperature that is given is meant, unless sampling is turned off by name; sampling without one has 1, as in transformers.
    temperature = float(values.get("temperature", 1.0 if values.get("do_sample") else 0.0)) if values.get("do_sample", True) else 0.0
    own = {name: values[name] for name in _OWN if name in values}
    own |= {"cache": named_cache(values["cache"]) if isinstance(values["cache"], str) else values["cache"]} if "cache" in values else {}
    params = fast_text().with_(**own, temperature=temperature)
    params.steps_per_block(num_new, num_given)
    num_each = int(values.get("num_return_sequences", 1))
    if num_each < 1 or (num_each > 1 and not params.draws):
        raise InputError(f"num_return_sequences={num_each} needs a temperature above 0: without one all answers are the same")
    returns_dict = bool(values.get("return_dict_in_generate", False))
    stops = StopStrings.of(values.get("stop_strings", ()), values.get("tokenizer"))
    return GenerateSettings(num_new=num_new, params=params, num_each=num_each, returns_dict=returns_dict, stops=stops)


def _check(name: str, value: Any) -> None:
    if name not in _KNOWN:
        raise InputError(f"{name}={value!r} is no setting of generate: {suggest(name, _KNOWN)}")
    is_asked = name in _REFUSED and value is not False and not (hasattr(value, "__len__") and len(value) == 0)
    if is_asked or (name in _NEUTRAL and value not in _NEUTRAL[name]):
        shown = value if isinstance(value, (int, float, str, bool)) else type(value).__name__
        hint = {
            "pixel_values": "pictures become codes first: MMaDA.ask takes a picture, and image_codes of the processor make input_ids",
            "guidance_scale": "text is guided by MMaDA.chat(params=SamplingParams(guidance_scale=...))",
            "past_key_values": "name a cache of the sampler: cache='prefix' or 'dual'",
            "cache_implementation": "name a cache of the sampler: cache='prefix' or 'dual'",
        }.get(name, "tokens are filled in any order, not one after the other; leave it out")
        raise InputError(f"{name}={shown} has no meaning for masked diffusion: {hint}")


@torch.no_grad()
def generate(
    model: Transformer, input_ids: Tensor, attention_mask: Tensor | None, settings: GenerateSettings, *, streamer: Any = None
) -> Tensor:
    """(B num_each, L + N) int64: each prompt as it was given, and behind it what was filled, cut where all answers have ended.

    A row that a stop string ended takes no further step, and is filled with end tokens.

    input_ids       (B, L) int64; padding on either side, hidden by attention_mask (B, L)
    streamer        gets the prompt, then what is final of the answer with `put`, and the whole draft behind it with `put_draft` if it has that
    Raises InputError for prompts with holes, padding within, or several rows with a streamer.
    """
    layout, device = model.config.layout, model.device
    given = input_ids.repeat_interleave(settings.num_each, 0)
    seen = torch.ones_like(given, dtype=torch.bool) if attention_mask is None else attention_mask.repeat_interleave(settings.num_each, 0)
    if streamer is not None and len(given) > 1:
        raise InputError(f"streamer={type(streamer).__name__} follows one answer, and {len(given)} are asked for; give one prompt")
    canvases = [_canvas(ids[keep].to(device), settings.num_new, layout) for ids, keep in zip(given, seen, strict=True)]
    seeds = torch.randint(2**31, (len(canvases),)).tolist() if settings.params.draws else [0] * len(canvases)
    denoising = Denoising(
        canvases,
        settings.params,
        mask_id=layout.mask_id,
        eos_id=layout.eos_id,
        stop_ids=[i for i in layout.end_ids if i != layout.eos_id],
        seeds=seeds,
    )
    if streamer is not None:
        streamer.put(input_ids.cpu())
    num_put, kept, ends = 0, [settings.num_new] * len(canvases), torch.tensor(layout.end_ids, device=device)
    for _ in denoise([denoising], TransformerDenoiser(model)):
        if settings.stops is not None:
            kept = [_stopped(denoising, row, kept[row], settings.stops, ends) for row in range(len(canvases))]
        if streamer is not None:
            num_put = _stream(streamer, denoising, num_put, kept[0], layout)
    filled = torch.stack([denoising.token_ids(row) for row in range(len(canvases))])
    if streamer is not None:
        streamer.end()
    stopped = torch.tensor(kept, device=device)[:, None]
    filled = filled.masked_fill(torch.arange(settings.num_new, device=device) >= stopped, layout.eos_id)
    length = int(torch.minimum(_num_to_end(filled, ends), stopped[:, 0]).max())
    return torch.cat([given, filled[:, :length].to(given.device)], dim=1)


def _canvas(ids: Tensor, num_new: int, layout: VocabLayout) -> Canvas:
    if bool((ids == layout.mask_id).any()):
        raise InputError("input_ids hold [MASK], and generate fills what comes behind a prompt; fill holes with MMaDA.fill or `denoise`")
    tokens = torch.cat([ids, ids.new_full((num_new,), layout.mask_id)])
    positions = torch.arange(len(ids), len(tokens), device=ids.device)
    return Canvas(tokens, torch.ones_like(tokens, dtype=torch.bool), (Field(positions, layout.text_ids, num_new),))


def _num_to_end(filled: Tensor, ends: Tensor) -> Tensor:
    """(B, N) ids -> (B,) how many there are up to the first end token, or all."""
    is_end = torch.isin(filled, ends)
    return torch.where(is_end.any(1), is_end.int().argmax(1) + 1, filled.shape[1])


def _stopped(denoising: Denoising, row: int, kept: int, stops: StopStrings, ends: Tensor) -> int:
    """How many tokens of a row stay. A row with a stop string in what is final takes no further step."""
    canvas, count = denoising.canvases[row], denoising.counts[row]
    final = denoising.token_ids(row)[: denoising.num_final(row)]
    if kept < count or not len(final):
        return kept
    answer = final[: int(_num_to_end(final[None], ends))].tolist()
    length = stops.length(canvas.tokens[:-count].tolist(), answer)
    if length is not None:
        denoising.drop(row)
    return kept if length is None else length


def _stream(streamer: Any, denoising: Denoising, num_put: int, kept: int, layout: VocabLayout) -> int:
    """Hand on what is new, up to the end of the answer or its first `kept` tokens; returns how many tokens are final."""
    draft = denoising.preview(0)[:kept].cpu()
    ends = torch.isin(draft, torch.tensor(layout.end_ids)).nonzero()[:, 0]
    draft = draft[: int(ends[0]) + 1] if len(ends) else draft
    num_final = min(denoising.num_final(0), len(draft))
    if num_final > num_put:
        streamer.put(draft[num_put:num_final])
    if hasattr(streamer, "put_draft") and num_final < len(draft):
        streamer.put_draft(value=draft[max(num_put, num_final) :])
    return max(num_put, num_final)
