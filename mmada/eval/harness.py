"""A checkpoint as a model of EleutherAI's lm-evaluation-harness, whose own command line runs it:

    python -m mmada.eval.harness run --model mmada --model_args pretrained=Gen-Verse/MMaDA-8B-MixCoT,think=True --tasks gsm8k --apply_chat_template

    generate_until         `batch_size` requests together, by the checkpoint's own sampling parameters
    loglikelihood          a Monte-Carlo estimate of the bound on log p(continuation | context), `mc_num` draws (diffusion/likelihood.py).
                           Every request draws from the same seed, so that continuations of equal length are compared on equal masks.
                           A model that sees no later block (full_attention=False) is asked block by block, with `mc_num` draws for each.
                           With scoring=confidence nothing is drawn: the tokens of a continuation are uncovered one a pass, the surest first,
                           and their log-probabilities are summed, as iLLaDA scores choices
    loglikelihood_rolling  the same piece by piece, half a context each, with what comes before given; its perplexities are upper bounds

A diffusion model has no exact likelihood; results name the number of draws. With --apply_chat_template a context is a conversation in the
checkpoint's own format, without it a plain text that goes on. Needs the extra: pip install 'mmada[eval]'.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import warning_once
from torch import Tensor
from tqdm import tqdm

from mmada.canvas import BlockMask, Canvas, Field, Message, causal_block_ids, split_thinking
from mmada.diffusion.likelihood import confident_log_likelihood, log_likelihood
from mmada.errors import InputError, suggest
from mmada.generation.engine import Engine
from mmada.generation.programs import complete
from mmada.generation.steps import SequenceState
from mmada.hub.checkpoint import DEFAULT_MODEL
from mmada.model import Packing
from mmada.pipeline import MMaDA
from mmada.sampling import SamplingParams, named_cache

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

__all__ = ["HarnessModel"]

_log = logging.getLogger(__name__)
_IGNORED = ("do_sample", "max_gen_toks", "until")
_KNOWN = {field.name for field in fields(SamplingParams)} - {"quota", "score", "anneal"}  # those are functions
_CHAT = "mmada conversation "
_SCORINGS = ("monte-carlo", "confidence")


@register_model("mmada")
class HarnessModel(LM):  # type: ignore[misc]
    """What --model_args sets:

    pretrained    checkpoint directory, hub name or built-in name
    think         let the model think before it answers, and leave that out of the answer: in conversations (--apply_chat_template) whose answer
                  is not begun by the task. Elsewhere, and for likelihoods, nothing is thought, which is said once
    scoring       monte-carlo, or confidence: how likelihoods are found, those of choices among them
    mc_num        draws of a likelihood; a continuation of one token needs one and takes one
    check_greedy  find out whether a continuation is the likeliest, at a pass a token; otherwise no continuation counts as such
    max_gen_toks  room for an answer of a task that sets none; default: the checkpoint's
    quantize      int8 or int4: matrices in few bits; default: as saved
    seed          of draws, and of sampling with a temperature; a request that a task repeats has another one each time
    ...           any of the checkpoint's defaults: threshold, block_length, cache, ... (generation.requests.GenerationConfig)
    Raises InputError for a name that is none of these.
    """

    def __init__(
        self,
        pretrained: str = DEFAULT_MODEL,
        *,
        device: str | None = None,
        dtype: str = "auto",
        quantize: str | None = None,
        batch_size: int | str = 16,
        max_batch_size: int | None = None,
        think: bool = False,
        scoring: str = "monte-carlo",
        mc_num: int = 128,
        check_greedy: bool = False,
        max_gen_toks: int | None = None,
        seed: int = 0,
        **defaults: Any,
    ) -> None:
        super().__init__()
        if scoring not in _SCORINGS:
            raise InputError(f"scoring={scoring!r} is unknown: {suggest(scoring, _SCORINGS)}")
        self.scoring = scoring
        self.name, self.think, self.mc_num, self.check_greedy, self.seed = pretrained, think, mc_num, check_greedy, seed
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            device = None  # what the harness asks for where nobody said anything
        size = str(batch_size)
        self.batch_size = int(size) if size.isdecimal() else max_batch_size or 16  # "auto" has no meaning without padding
        self.model = MMaDA.from_pretrained(pretrained, device=device, dtype=dtype, quantize=quantize).use(**defaults)
        self._device = self.model.model.device
        self._num_new = max_gen_toks or (self.model.defaults.max_thinking_tokens if think else self.model.defaults.max_new_tokens)
        self.num_forwards = self.num_tokens = 0

    # What the harness asks for.

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, cut at the first stop text. Raises InputError if max_gen_toks leaves no room for a prompt."""
        asked = [(context, normalize_gen_kwargs(settings, self._num_new)) for context, settings in (request.args for request in requests)]
        answers = [""] * len(asked)
        times: Counter[str] = Counter()
        seeds = []
        for request in requests:
            key = repr(request.args)
            seeds.append(self.seed + times[key])
            times[key] += 1
        with tqdm(total=len(asked), disable=disable_tqdm, desc="generate_until") as bar:
            for group in _alike(asked, self.batch_size):
                for i, text in zip(group, self._generate([asked[i] for i in group], [seeds[i] for i in group]), strict=True):
                    answers[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
                bar.update(len(group))
        return answers

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Estimates in nats, and whether a continuation is the likeliest; one that is longer than the context is scored in pieces.

        Raises InputError for a continuation without a token.
        """
        found = []
        for request in tqdm(requests, disable=disable_tqdm, desc="loglikelihood"):
            pieces = self._pieces(*self._pair(*request.args))
            total = sum(self._likelihood(*piece) for piece in pieces)
            found.append((total, self.check_greedy and all(self._is_greedy(*piece) for piece in pieces)))
            self.cache_hook.add_partial("loglikelihood", request.args, found[-1])
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Estimates in nats of whole texts."""
        found, half = [], self._context // 2
        for request in tqdm(requests, disable=disable_tqdm, desc="loglikelihood_rolling"):
            ids, begin = self.model.prompts.encode(request.args[0]), self.model.prompts.begin
            starts = range(0, len(ids), half)
            found.append(sum(self._likelihood([*begin, *ids[max(0, i - half + 1) : i]], ids[i : i + half]) for i in starts))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found[-1])
        return found

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as a string that only this class reads: it becomes tokens by `Prompts`, like everywhere else."""
        return _CHAT + json.dumps(chat_history, ensure_ascii=False)

    @property
    def tokenizer_name(self) -> str:
        return self.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        return "mmada.canvas.prompts.Prompts.dialogue"

    def get_model_info(self) -> dict[str, Any]:
        """For the results: what decoding and likelihoods were made with, and what they cost."""
        d = self.model.defaults
        params = {
            name: getattr(d, name)
            for name in ("threshold", "block_length", "cache", "full_attention", "prompt_in_blocks", "variable_length")
        }
        cost = {"num_forwards": self.num_forwards, "num_new_tokens": self.num_tokens}
        return {"think": self.think, "scoring": self.scoring, "mc_num": self.mc_num, "seed": self.seed, **params, **cost}

    # How it is found.

    @property
    def _context(self) -> int:
        return int(self.model.model.config.max_sequence_length)

    def _generate(self, asked: Sequence[tuple[str, dict[str, Any]]], seeds: Sequence[int]) -> list[str]:
        """Answers of one group, whose settings are alike."""
        changes = {name: value for name, value in asked[0][1].items() if name not in _IGNORED}
        for name in sorted(changes.keys() - _KNOWN):
            warning_once(_log, f"the task's generation setting {name}={changes.pop(name)!r} has no meaning here, and is left out")
        if isinstance(changes.get("cache"), str):
            changes["cache"] = named_cache(changes["cache"])
        canvases = [self._open(self._given(context), each["max_gen_toks"]) for context, each in asked]
        rows = self._fill(canvases, self.model.planner.text_params(**changes), seeds)
        texts = []
        for row, (_, each) in zip(rows, asked, strict=True):
            text = self.model.prompts.decode(row.ids)
            text = split_thinking(text).answer if self.think else text
            ends = [place for stop in each["until"] if stop and (place := text.find(stop)) >= 0]
            texts.append(text[: min(ends, default=len(text))])
        return texts

    def _fill(self, canvases: Sequence[Canvas], params: SamplingParams, seeds: Sequence[int]) -> list[SequenceState]:
        engine = Engine(self.model.denoiser, self.model.layout, device=self._device)
        rows = engine.run([complete(canvas, params, seed) for canvas, seed in zip(canvases, seeds, strict=True)])
        self.num_forwards += sum(row.num_forwards for row in rows)
        self.num_tokens += sum(int((row.ids != self.model.layout.eos_id).sum()) for row in rows)
        return rows

    def _given(self, context: str) -> list[int]:
        text, messages = _conversation(context)
        thinks = self.think and bool(messages) and not text
        if self.think and not thinks:
            self._say_unthought()
        return [*self._begin(messages, think=thinks), *self.model.prompts.encode(text)]

    def _say_unthought(self) -> None:
        warning_once(
            _log, "think=True has no effect on this task: it asks for likelihoods, begins the answer itself, or is no conversation"
        )

    def _begin(self, messages: Sequence[Message], *, think: bool = False) -> list[int]:
        """What stands before a text: the turns of a conversation, or nothing but the begin token."""
        prompts = self.model.prompts
        return prompts.dialogue(messages, thinking=prompts.style.thinking if think else None) if messages else prompts.begin

    def _open(self, given: Sequence[int], num_new: int) -> Canvas:
        """Open positions behind what is given, of which the beginning is left out if all of it is too long."""
        room = self._context - num_new
        if room < 1:
            raise InputError(f"max_gen_toks={num_new} leaves no room for a prompt in the model's context of {self._context}; lower it")
        given = given[-room:]
        tokens = torch.tensor([*given, *[self.model.layout.mask_id] * num_new])
        positions = torch.arange(len(given), len(tokens))
        return Canvas(tokens, torch.ones_like(tokens, dtype=torch.bool), (Field(positions, self.model.layout.text_ids, num_new),))

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of what is given and of what is wanted; together they are the tokens of the whole text."""
        if self.think:
            self._say_unthought()
        prompts, (text, messages) = self.model.prompts, _conversation(context)
        kept = text.rstrip()
        text, continuation = kept, text[len(kept) :] + continuation
        given, whole = prompts.encode(text), prompts.encode(text + continuation)
        given, wanted = [*self._begin(messages), *whole[: len(given)]], whole[len(given) :]
        if not wanted:
            raise InputError(f"continuation={continuation!r} has no token of its own behind its context; give a longer one")
        room = self._context - len(wanted)
        return given if room < 0 else given[max(0, len(given) - room) :], wanted

    def _pieces(self, given: list[int], wanted: list[int]) -> list[tuple[list[int], list[int]]]:
        """What is wanted in pieces that fit into the context, each with what comes before it: log p of the whole is their sum."""
        if len(given) + len(wanted) <= self._context:
            return [(given, wanted)]
        warning_once(
            _log,
            f"a continuation of {len(wanted)} tokens is longer than the model's context of {self._context}: it is scored in pieces of half a context, "
            "each given what comes before it",
        )
        whole, half = [*given, *wanted], self._context // 2
        return [(whole[max(0, i - half) : i], whole[i : i + half]) for i in range(len(given), len(whole), half)]

    def _likelihood(self, given: Sequence[int], wanted: Sequence[int]) -> float:
        """Estimated log p in nats, among all texts: image codes and masks are left out of the distribution, as in sampling."""
        backbone, allowed, defaults = self.model.model, self.model.layout.text_ids, self.model.defaults
        suppress_tokens = torch.tensor([i for i in allowed.suppress_tokens if i not in wanted], dtype=torch.long, device=self._device)
        tokens = torch.tensor([*given, *wanted], device=self._device)
        length = len(wanted) if defaults.full_attention else defaults.block_length
        block_mask = None
        if not defaults.full_attention:
            in_blocks = defaults.prompt_in_blocks
            block_mask = BlockMask(causal_block_ids(len(given), len(wanted), length, prompt_in_blocks=in_blocks))
        begun = len(given) % length if defaults.prompt_in_blocks else 0  # of the first block
        generator = torch.Generator().manual_seed(self.seed)

        def logits_of(tokens: Tensor, is_masked: Tensor) -> Tensor:
            rows, size = tokens.shape
            self.num_forwards += rows
            packing = Packing.of([size] * rows, [block_mask and block_mask.cut(0, size)] * rows)
            hidden = backbone.trunk(tokens.view(1, -1), packing)[is_masked.view(1, -1)]
            logits: Tensor = backbone.head(hidden, (allowed.start, allowed.stop)).float()
            return logits.index_fill(-1, suppress_tokens, -torch.inf)

        total = 0.0
        for stop in range(len(given) - begun + length, len(tokens) + length, length):
            row, start = tokens[:stop], max(len(given), stop - length)
            is_wanted = torch.arange(len(row), device=self._device) >= start
            if self.scoring == "confidence":
                total += confident_log_likelihood(logits_of, row, is_wanted, mask_id=self.model.layout.mask_id)
                continue
            total += log_likelihood(
                logits_of,
                row,
                is_wanted,
                mask_id=self.model.layout.mask_id,
                num_draws=1 if len(row) - start == 1 else self.mc_num,
                batch_size=self.batch_size,
                generator=generator,
            )
        return total

    def _is_greedy(self, given: Sequence[int], wanted: Sequence[int]) -> bool:
        """Whether the surest token first, one a pass, gives the same."""
        d = self.model.defaults
        params = SamplingParams(threshold=1.0, stop_at_eos=False)
        if not d.full_attention:
            params = replace(params, full_attention=False, prompt_in_blocks=d.prompt_in_blocks, block_length=d.block_length)
        (row,) = self._fill([self._open(given, len(wanted))], params, [self.seed])
        return bool(row.ids.tolist() == list(wanted))


def _conversation(context: str) -> tuple[str, list[Message]]:
    """The beginning of the answer and the turns before it; a plain text has no turns."""
    if not context.startswith(_CHAT):
        return context, []
    # The harness may have put the beginning of an answer behind the conversation.
    turns, end = json.JSONDecoder().raw_decode(context, len(_CHAT))
    messages = [Message(turn["role"], turn["content"]) for turn in turns]
    begun = messages.pop().content if messages[-1].role == "assistant" else ""
    return begun + context[end:], messages


def _alike(asked: Sequence[tuple[str, dict[str, Any]]], size: int) -> list[list[int]]:
    """Indices of requests that one denoising can serve: equal settings but for room and stop texts, at most `size` together."""
    groups: dict[str, list[int]] = {}
    for i, (_, settings) in enumerate(asked):
        rest = {name: value for name, value in settings.items() if name not in _IGNORED}
        groups.setdefault(json.dumps(rest, sort_keys=True, default=str), []).append(i)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]


if __name__ == "__main__":
    cli_evaluate()
