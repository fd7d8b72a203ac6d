"""The samplers of the sister models as plain loops over whole rows, and the random numbers that they used.

Nothing is shared with `mmada.sampling`: every step evaluates whole rows, budgets are sums, and what is committed is a sort. The formulas are those of the
published code, oddities included (docs/parity.md). Speed does not matter here; only the weights and the forward pass are the package's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

Rows = Callable[[Tensor], Tensor]
"""Ids (B, L) -> logits (B, L, V)."""


@dataclass
class Notes:
    """What a recording writes down of one case: the row before each pass, and the random numbers in the order of use."""

    generator: torch.Generator
    trace: list[Tensor] = field(default_factory=list)
    draws: list[tuple[str, Tensor]] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)

    def rand(self, *shape: int, dtype: torch.dtype = torch.float32, kind: str = "rand") -> Tensor:
        numbers = torch.rand(*shape, generator=self.generator, dtype=dtype)
        self.draws.append((kind, numbers))
        return numbers

    def randn(self, *shape: int) -> Tensor:
        numbers = torch.randn(*shape, generator=self.generator)
        self.draws.append(("randn", numbers))
        return numbers

    def codes(self, probabilities: Tensor) -> Tensor:
        """One code a row of (N, C): the number of entries of the running sum that do not exceed a uniform share of it."""
        shares = self.rand(len(probabilities), dtype=torch.float64, kind="u")
        sums = probabilities.double().cumsum(-1)
        return (sums <= (shares * sums[:, -1])[:, None]).sum(-1)

    def code(self, below: int) -> Tensor:
        drawn = torch.randint(below, (1,), generator=self.generator)
        self.draws.append(("randint", drawn))
        return drawn


def chosen(probabilities: Tensor, tokens: Tensor) -> Tensor:
    return probabilities.gather(-1, tokens[..., None])[..., 0]


def even(total: int, steps: int) -> list[int]:
    return [total // steps + (k < total % steps) for k in range(steps)]


def image_steps(steps: int, count: int) -> list[int]:
    return torch.linspace(steps // 4, steps - 1, count).round().int().tolist()


def gumbel(numbers: Tensor, tiny: float) -> Tensor:
    return -torch.log(-torch.log(numbers + tiny) + tiny)


def blocks_of_text(
    model: Rows,
    rows: Tensor,
    start: int,
    notes: Notes,
    *,
    mask: int,
    stop: int,
    steps: int,
    block_length: int,
    guidance_scale: float = 0.0,
    temperature: float = 0.0,
    random_remasking: bool = False,
    logits_eos_inf: int | None = None,
    confidence_eos_eot_inf: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """LLaDA's text, and Lumina-DiMOO's: blocks from left to right in [start, stop), the surest of a block first.

    dtype  of the softmax that says how sure
    """
    rows, given = rows.clone(), rows != mask
    for begin in range(start, stop, block_length):
        per_block = steps // ((stop - start) // block_length)
        budgets = [even(int((row[begin : begin + block_length] == mask).sum()), per_block) for row in rows]
        for step in range(per_block):
            notes.trace.append(rows[0].clone())
            logits = model(rows)
            if guidance_scale:
                without = model(rows.masked_fill(given, mask))
                logits = without + (guidance_scale + 1) * (logits - without)
            if logits_eos_inf is not None:
                logits[..., logits_eos_inf] = -math.inf
            noisy = logits
            if temperature:
                noisy = logits.double().exp() / (-notes.rand(*logits.shape, dtype=torch.float64).log()) ** temperature
            tokens = noisy.argmax(-1)
            if confidence_eos_eot_inf is not None:
                eos, eot = confidence_eos_eot_inf
                logits[..., eot] = -math.inf
                if not temperature:
                    logits[..., eos] = -math.inf
            sure = notes.rand(*rows.shape) if random_remasking else chosen(logits.to(dtype).softmax(-1), tokens)
            sure = sure.masked_fill(rows != mask, -math.inf)
            sure[:, begin + block_length :] = -math.inf
            for i, budget in enumerate(budgets):
                best = sure[i].argsort(descending=True, stable=True)[: budget[step]]
                rows[i, best] = tokens[i, best]
    return rows


def lumina_image(
    passes: Callable[[int, Tensor], list[Tensor]],
    row: Tensor,
    places: Tensor,
    notes: Notes,
    *,
    ids: range,
    mask: int,
    steps: int,
    temperature: float,
    scales: Sequence[float],
) -> Tensor:
    """Lumina-DiMOO's images. passes: (step, row) -> code logits (N, C) of the row and of its unconditional ones; ids: of the codes."""
    row = row.clone()
    total = int((row[places] == mask).sum())
    for step in range(steps):
        open_places = places[row[places] == mask]
        if not len(open_places):
            break
        is_open = row[places] == mask
        conditional, *others = [logits[is_open] for logits in passes(step, row)]
        if len(others) == 1:
            logits = (1 + scales[0]) * conditional - scales[0] * others[0]
        else:
            logits = conditional + sum(scale * (conditional - other) for scale, other in zip(scales, others, strict=False))
        noisy = logits / temperature + gumbel(notes.rand(1, *logits.shape)[0], 1e-20) if temperature else logits
        tokens = noisy.argmax(-1)
        sure = chosen(logits.softmax(-1), tokens).log()
        if temperature:
            sure = sure + temperature * gumbel(notes.rand(1, len(tokens))[0], 1e-20)
        progress = torch.tensor((step + 1) / steps)
        left = max(1, math.floor(float(total * torch.cos(progress * math.pi / 2))))
        left = 0 if step == steps - 1 or len(tokens) == 1 else min(left, len(tokens) - 1)
        kept = sure < sure.sort().values[left]
        row[open_places] = torch.where(kept, mask, tokens + ids.start)
    return row


def parallel_m(
    model: Rows,
    rows: tuple[Tensor, Tensor],
    texts: Tensor,
    codes: Tensor,
    notes: Notes,
    *,
    ids: range,
    mask: int,
    text_steps: int,
    num_image_steps: int,
    text_scale: float,
    image_scale: float,
    image_temperature: float = 0.0,
    text_temperature: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """MMaDA-Parallel-M: text ids and codes. Guided and unconditional row are of one length; `texts` begins with a given token."""
    row, other = (one.clone() for one in rows)
    budget = even(len(texts) - 1, text_steps)
    when = image_steps(text_steps, num_image_steps)
    drawn = torch.empty(0)
    for step in range(text_steps):
        notes.trace.append(row.clone())
        logits = model(torch.stack([row, other]))
        text = logits[0, texts] + text_scale * (logits[1, texts] - logits[0, texts])
        noisy = text
        if text_temperature:
            noisy = text.double().exp() / (-notes.rand(1, *text.shape, dtype=torch.float64)[0].log()) ** text_temperature
        tokens = noisy.argmax(-1)
        sure = chosen(text.double().softmax(-1), tokens).masked_fill(row[texts] != mask, -math.inf)
        best = sure.argsort(descending=True, stable=True)[: budget[step]]
        row[texts[best]] = tokens[best]
        other[texts] = row[texts]
        if step not in when:
            continue
        image = (1 + image_scale) * logits[0, codes] - image_scale * logits[1, codes]
        probabilities = image[:, ids.start : ids.stop].softmax(-1)
        is_open = row[codes] == mask
        proposed = notes.codes(probabilities) if image_temperature else probabilities.argmax(-1)
        drawn = torch.where(is_open, proposed, row[codes] - ids.start)
        progress = torch.tensor((step + 1) / text_steps)
        left = math.floor(float(len(codes) * torch.cos(progress * math.pi / 2)))
        left = max(1, min(int(is_open.sum()) - 1, left))
        noise = -torch.log(-torch.log(notes.rand(1, len(codes))[0])) if image_temperature else torch.zeros(len(codes))
        sure = chosen(probabilities, drawn.clamp_min(0)).log() + image_temperature * (1 - float(progress)) * noise
        sure = sure.masked_fill(~is_open, torch.finfo(torch.float32).max)
        kept = sure < sure.sort().values[left]
        row[codes] = torch.where(kept, mask, drawn + ids.start)
        other[codes] = row[codes]
    return row[texts], drawn


def revealed(total: int, steps: int) -> list[int]:
    """Tokens that MMaDA-Parallel-A reveals at each step."""
    targets = [total, *(int(total * (1 - (k + 1) / steps)) for k in range(steps))]
    return [before - after for before, after in pairwise(targets)]


def parallel_a(
    model: Rows,
    row: Tensor,
    prefixes: Sequence[Tensor],
    texts: Tensor,
    codes: Tensor,
    notes: Notes,
    *,
    ids: range,
    mask: int,
    text_steps: int,
    num_image_steps: int,
    image_temperature: float,
    text_temperature: float,
    text_scale: float,
    image_scale: float,
) -> tuple[Tensor, Tensor]:
    """MMaDA-Parallel-A: text ids and codes. The unconditional prefixes are written over the beginning of the row."""
    row = row.clone()
    budget, when = revealed(len(texts), text_steps), image_steps(text_steps, num_image_steps)
    for step in range(text_steps):
        notes.trace.append(row.clone())
        logits = model(row[None])[0]
        text = logits[texts]
        noisy = text + text_temperature * gumbel(notes.rand(1, *text.shape)[0], 1e-10) if text_temperature else text
        tokens = noisy.argmax(-1)
        sure = chosen(text.double().softmax(-1), tokens).masked_fill(row[texts] != mask, -math.inf)
        best = sure.argsort(descending=True, stable=True)[: budget[step]]
        row[texts[best]] = tokens[best]
        if step not in when:
            continue
        image = logits[codes, ids.start : ids.stop]
        if text_scale or image_scale:
            others = []
            for prefix in prefixes:
                other = torch.cat([prefix, row[len(prefix) :]])
                notes.trace.append(other)
                others.append(model(other[None])[0, codes, ids.start : ids.stop])
            image = image + text_scale * (image - others[0]) + image_scale * (image - others[1])
        probabilities, is_open = image.softmax(-1), row[codes] == mask
        proposed = notes.codes(probabilities) if image_temperature else probabilities.argmax(-1)
        drawn = torch.where(is_open, proposed, row[codes] - ids.start)
        progress = torch.tensor((step + 1) / text_steps)
        left = math.floor(float(len(codes) * torch.cos(progress * math.pi / 2)))
        left = max(1, min(int(is_open.sum()) - 1, left))
        sure = (chosen(probabilities, drawn.clamp_min(0)) + 1e-10).log()
        if image_temperature:
            sure = sure + image_temperature * (1 - float(progress)) * notes.randn(1, len(codes))[0]
        lowest = sure.masked_fill(~is_open, math.inf).argsort(stable=True)[:left]
        row[codes] = drawn + ids.start
        row[codes[lowest]] = mask
    is_open = row[codes] == mask
    assert int(is_open.sum()) == 1
    row[codes[is_open]] = ids.start + notes.code(len(ids))
    return row[texts], row[codes] - ids.start


@dataclass
class CachedRow:
    """One row of a tiny transformer with ML-Cache: keys before rotation, values and code logits as the last pass left them.

    Blocks are written out from the weights: RMSNorm, half-split rotary positions, SwiGLU, no biases, as many key heads as heads.
    """

    weights: dict[str, Tensor]
    heads: int
    layers: int
    theta: float
    eps: float
    ids: range
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None

    def run(self, row: Tensor, at: Tensor) -> Tensor:
        """Evaluate the positions `at`; code logits (L, C) of all positions, old ones elsewhere."""
        x = self.weights["model.transformer.wte.weight"][row[at]]
        for layer in range(self.layers):
            x = x + self._attention(layer, self._norm(x, f"blocks.{layer}.attn_norm"), at, len(row))
            h = self._norm(x, f"blocks.{layer}.ff_norm")
            gate = torch.nn.functional.silu(self._linear(h, layer, "ff_proj")) * self._linear(h, layer, "up_proj")
            x = x + self._linear(gate, layer, "ff_out")
        fresh = self._norm(x, "ln_f") @ self.weights["model.transformer.ff_out.weight"][self.ids.start : self.ids.stop].T
        if self.logits is None:
            self.logits = torch.empty(len(row), len(self.ids))
        self.logits[at] = fresh
        return self.logits

    def _attention(self, layer: int, h: Tensor, at: Tensor, length: int) -> Tensor:
        q, k, v = (self._linear(h, layer, f"{name}_proj").view(len(at), self.heads, -1) for name in "qkv")
        for cache, fresh in ((self.keys, k), (self.values, v)):
            if layer not in cache:
                cache[layer] = torch.empty(length, *fresh.shape[1:])
            cache[layer][at] = fresh
        q, k = self._rotated(q, at), self._rotated(self.keys[layer], torch.arange(length))
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
        return self._linear(torch.einsum("hqk,khd->qhd", scores.softmax(-1), self.values[layer]).flatten(1), layer, "attn_out")

    def _rotated(self, x: Tensor, at: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angles = at[:, None].float() * self.theta ** (-torch.arange(half).float() / half)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weights[f"model.transformer.{name}.weight"]

    def _linear(self, x: Tensor, layer: int, name: str) -> Tensor:
        return x @ self.weights[f"model.transformer.blocks.{layer}.{name}.weight"].T


@dataclass
class MaxLogitCache:
    """Which positions a pass evaluates (Lumina-DiMOO's ML-Cache), for a row and its unconditional one."""

    rows: Sequence[CachedRow]
    notes: Notes
    ratio: float
    warmup: int
    refresh: int

    def run(self, step: int, sequences: Sequence[Tensor]) -> list[Tensor]:
        since = step - self.warmup
        is_full = since <= 0 or since % self.refresh == 0
        answers = []
        for cached, row in zip(self.rows, sequences, strict=True):
            at = torch.arange(len(row))
            if not is_full:
                assert cached.logits is not None
                largest = cached.logits.amax(-1)
                at = (largest <= torch.quantile(largest, 1 - self.ratio)).nonzero()[:, 0]
            self.notes.computed.append(len(at))
            answers.append((cached, row, at))
        if is_full:
            self.notes.trace.append(sequences[0].clone())
        return [cached.run(row, at) for cached, row, at in answers]
