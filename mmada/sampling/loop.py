"""The one sampling loop. A `Denoising` asks, somebody evaluates, it advances.

    while not d.done:
        d.advance(denoiser([d.inputs()])[0])        # or: for _ in denoise([d, e, f], denoiser)

`inputs()` names the rows, the positions and the vocabulary slice whose logits are needed. `advance(logits)` proposes a token
at each of those positions, scores the proposals, and commits the best ones. It never calls a model, so that requests of any
kind can share a forward pass, and tests can hand it logits. Rows step apart: `inputs(rows)` asks for some of them alone.

State lives in *slots*: slot j of a row is its j-th open position, wherever that lies in the sequence. Blocks are runs of
slots, so a chat answer, a hole in a sentence and a hole in an image are one case.

        tokens   given given [M] [M] given [M] [M] [M]
        slot                  0   1         2   3   4
        block                 0   0         1   1   2          block_length 2

Contracts (tests/sampling): given tokens never change. Each open position is committed once. The same seed gives the same
tokens alone or in a batch. Ids outside the field's range are never proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from mmada.canvas import BlockMask, Canvas, KVCache, Query, causal_block_ids, stack
from mmada.errors import InputError
from mmada.sampling.draws import Draws, SeededDraws
from mmada.sampling.logit_cache import LogitCache
from mmada.sampling.params import CacheConfig, MaxLogitCacheConfig, SamplingParams, TransferState
from mmada.sampling.penalties import biased, counted, penalized
from mmada.sampling.token_sampling import narrowed, sample_tokens, sample_with_probability

__all__ = ["Denoiser", "Denoising", "DenoisingStep", "Guide", "Steppable", "denoise"]


LOGITS_AT_ONCE = 2**24
"""Numbers of logits that a step works on together, 64 MiB of float32: sampling needs about five copies of them. More are taken in pieces."""


Guide: TypeAlias = Callable[[Sequence[int]], Sequence[int] | None]
"""Knows parts of a text for certain. It is called with what a row has written, when a block is finished or the text ends, then with its end token.

It returns what shall stand there instead; None: nothing is changed. Blocks that were finished before stay. If it is longer, the model is not asked
about what it adds. If it is shorter, the rest of the block is open again. Each answer must go further in agreement with the next than the last did.
"""


class Denoiser(Protocol):
    """Whatever can answer queries: query (R, Q) -> logits (R, Q, ids.stop - ids.start)."""

    def __call__(self, queries: Sequence[Query]) -> list[Tensor]: ...


@dataclass(frozen=True, slots=True)
class DenoisingStep:
    """What one step committed in one row. slots ascending; token_ids and scores beside them.

    alternatives  if they were asked for, of each slot: the likeliest ids, the likeliest first, with their probabilities before temperature
    """

    row: int
    step: int
    slots: tuple[int, ...]
    token_ids: tuple[int, ...]
    confidences: tuple[float, ...]
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()


class Denoising:
    """Fills B canvases with one set of sampling parameters.

    canvases    B rows of one field each (`Canvas.only`), whose positions hold mask_id; all allow the same ids
    negatives   the unconditional rows of guidance, with as many open positions each as their canvas; needed if and only if a scale is
                above 0. One a canvas for the first scale, then one a canvas for the second
    seeds       one int a row; row i draws from its own generator, so its result does not depend on its neighbors
    draws       where each row's random numbers come from instead of its seed
    beside      denoisings of the same canvases and negatives that fill other fields of them; each sees what any of them commits. None: it is
                alone. Otherwise there may be more negatives than its scales need, which are kept up to date and not evaluated
    guides      of each row, who knows parts of its text for certain; None: nobody. Only for rows that are written block by block
    eos_id      ends a text, if params.stop_at_eos and the field may hold it, and fills what is behind the end
    stop_ids    further ids that end it, such as the end of a turn
    record      keep `trace`, a list of `DenoisingStep`: costs a copy to the host each step
    num_alternatives  how many of the likeliest ids the trace has of each token; tokens are the same with any number
    Raises InputError if arguments disagree.
    """

    def __init__(
        self,
        canvases: Sequence[Canvas],
        params: SamplingParams,
        *,
        mask_id: int,
        eos_id: int | None = None,
        stop_ids: Sequence[int] = (),
        seeds: Sequence[int] | None = None,
        negatives: Sequence[Canvas] | None = None,
        draws: Sequence[Draws] | None = None,
        beside: Sequence[Denoising] | None = None,
        guides: Sequence[Guide | None] | None = None,
        record: bool = False,
        num_alternatives: int = 0,
    ) -> None:
        rows = len(canvases)
        seeds = range(rows) if seeds is None else seeds
        if not rows or len(seeds) != rows:
            raise InputError(f"{rows} canvases and {len(seeds)} seeds; give at least one canvas, and one seed for each")
        num_needed = rows * len(params.scales) if params.is_guided else 0
        if len(negatives or ()) < num_needed if beside is not None else len(negatives or ()) != num_needed:
            raise InputError(
                f"guidance_scale={params.guidance_scale} with {len(negatives or ())} negative canvases for {rows} canvases; "
                "give one each if the scale is above 0, none if it is 0"
            )
        evaluated = [*canvases, *(negatives or ())]
        if any(len(canvas.fields) != 1 for canvas in evaluated):
            raise InputError("a canvas must have exactly one field to be filled; choose it with canvas.only(i)")
        fields = [canvas.fields[0] for canvas in canvases]
        self.ids = fields[0].ids
        if any(f.ids != self.ids for f in fields):
            raise InputError("canvases of one batch must allow the same ids; start one Denoising for each kind")
        if any(bool((canvas.tokens[canvas.fields[0].positions] != mask_id).any()) for canvas in evaluated):
            raise InputError(f"open positions must hold mask_id={mask_id}; hide a training row's tokens with canvas.masked({mask_id})")
        if not params.looks_ahead and not all(canvas.ends_open for canvas in evaluated):
            name = "variable_length=True" if params.variable_length else "full_attention=False"
            raise InputError(f"{name} needs open positions that are one run at the end of the row; infilling has neither")
        begun = [params.num_begun(_num_given(c)) for c in evaluated]
        if begun != begun[:rows] * (len(begun) // rows):
            raise InputError(
                "prompt_in_blocks=True needs negative canvases whose prompts end at the same place of a block as their canvas's"
            )
        if mask_id in self.ids and not params.propose_any:
            raise InputError(f"mask_id={mask_id} is among the ids that may be proposed; name it in IdRange.never")

        self.params, self.mask_id, self.canvases = params, mask_id, list(canvases)
        self.counts = [len(f.positions) for f in fields]
        self.num_forwards = [0] * rows
        """per row, how often it was evaluated; a guided pair counts once"""
        self.finish_reasons: list[Literal["stop", "length"]] = ["length"] * rows
        """per row, "stop" if an end token ended it"""
        self.trace: list[DenoisingStep] = []

        if guides is not None and any(guides) and (params.propose_any or params.block_length is None):
            raise InputError("guides= need a text that is written block by block, with ids of the field alone; give block_length=N")
        self._guides = [None] * rows if guides is None else list(guides)
        self._record = record
        self._num_alternatives = min(num_alternatives, self.ids.stop - self.ids.start) if record else 0
        self._eos = eos_id if params.stop_at_eos and eos_id is not None and eos_id in self.ids else None
        self._ends = torch.tensor([] if self._eos is None else [self._eos, *stop_ids], device=canvases[0].tokens.device)
        self._draws: Sequence[Draws] = [SeededDraws(seed) for seed in seeds] if draws is None else draws
        self._begun = begun[:rows]
        """per row, how much of its first block the prompt holds"""
        sizes = [(len(c.fields[0].positions), _num_given(c)) for c in canvases]
        self._num_blocks = [params.num_blocks(*size) for size in sizes]
        self._steps_in_block = [params.steps_per_block(*size) or 1 for size in sizes]
        self._block, self._step = [0] * rows, [0] * rows
        self._guided_from: dict[int, int] = {}
        """row -> the first slot of the block that its guide changed or went on from; what follows was not evaluated since"""
        self._live = list(range(rows))
        self._asked = self._live  # the rows of the step that is being taken
        self._asked_window: _Window | None = None  # and their open slots, if `inputs` has found them
        self._num_open = [len(self._range(row)) for row in self._live]

        # Every table has one column more than it needs, a place for writes that are not meant: slot N, position L.
        device, width, length = evaluated[0].tokens.device, max(self.counts) + 1, max(len(c) for c in evaluated)
        self._copies = len(evaluated) // rows  # rows in the tables for each canvas
        self._num_evaluated = 1 + len(params.scales) if params.is_guided else 1  # and how many of them are evaluated
        self._spans = tuple(c.span for c in evaluated)
        self._kv_caches = [KVCache() for _ in evaluated]
        self._positions = [c.fields[0].positions.tolist() for c in evaluated] if params.cache is not None else []
        self._tokens = stack(evaluated, pad_id=mask_id, length=length + 1).tokens  # (R, L+1)
        self._slots = torch.full((len(evaluated), width), length, device=device)  # (R, N+1) slot -> position
        for r, canvas in enumerate(evaluated):
            positions, count = canvas.fields[0].positions, self.counts[r % rows]
            if len(positions) != count:
                raise InputError(f"negative canvas {r - rows} has {len(positions)} open positions, its canvas {count}; they must agree")
            self._slots[r, :count] = positions
        self._logit_cache: LogitCache | None = None
        if isinstance(params.cache, MaxLogitCacheConfig):
            num_ids = self.ids.stop - self.ids.start
            self._logit_cache = LogitCache(params.cache, spans=self._spans, slots=self._slots, length=length, num_ids=num_ids)
        self._open = torch.arange(width, device=device)[None] < torch.tensor(self.counts, device=device)[:, None]
        self._filled = torch.full((rows, width), mask_id, device=device)  # (B, N+1) committed ids
        self._proposed = self._filled.clone()  # (B, N+1) latest proposals
        self._suppress_tokens = self._indices((*self.ids.suppress_tokens, *params.suppress_tokens))
        self._late_tokens = self._indices(params.late_tokens)
        self._num_total = torch.tensor([f.num_total for f in fields], device=device)
        for other in beside or ():
            if other._tokens.shape != self._tokens.shape or not torch.equal(other._tokens, self._tokens):
                raise InputError("beside= fills other canvases; give denoisings of the same rows that have not begun")
            self._tokens = other._tokens

    @property
    def done(self) -> bool:
        return not self._live

    @property
    def live(self) -> tuple[int, ...]:
        """Rows that are not finished."""
        return tuple(self._live)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """[start, stop) of what is attended to, of each canvas and then of each unconditional row that is evaluated."""
        return self._spans[: len(self.canvases) * self._num_evaluated]

    @property
    def num_evaluated(self) -> int:
        """Tokens that the next `inputs()` has evaluated, of all its rows; known without asking the device."""
        return sum(self.num_tokens(row) for row in self._live)

    def num_tokens(self, row: int) -> int:
        """Tokens that the next step of a live row evaluates, its unconditional row included; known without asking the device."""
        cache, rows = self.params.cache, [row + len(self.canvases) * k for k in range(self._num_evaluated)]
        if self._logit_cache is not None:
            return sum(self._logit_cache.num_positions(r) for r in rows)
        windows = [self._evaluated(cache, r) if isinstance(cache, CacheConfig) else self._span(r) for r in rows]
        return sum(stop - start for start, stop in windows)

    def num_logits(self, row: int) -> int:
        """Numbers that the next step of a live row is told at most, its unconditional row included."""
        if self._logit_cache is not None:
            return self.num_tokens(row) * (self.ids.stop - self.ids.start)
        return self._num_evaluated * len(self._range(row)) * (self.ids.stop - self.ids.start)

    def inputs(self, rows: Sequence[int] | None = None) -> Query:
        """What to evaluate next: `rows`, by default all that are live, then, if guided, their unconditional rows.

        The next `advance` is a step of these rows; the others stay as they are.
        Raises InputError for a row that is not live.
        """
        self._asked = self._live if rows is None else list(rows)
        if not self._asked or not set(self._asked) <= set(self._live):
            raise InputError(f"rows={self._asked} must be some of the rows that are not finished, {self._live}")
        window = self._asked_window = self._window()
        rows = self._evaluated_rows()
        index = torch.tensor(rows, device=self._slots.device)
        copies = len(rows) // len(self._asked)
        positions = self._slots[index].gather(1, window.slot.repeat(copies, 1))  # (R, Q)
        positions = positions.where(window.inside.repeat(copies, 1), positions[:, :1])
        query = Query(self._tokens[index, :-1], tuple(self._span(r) for r in rows), positions, self.ids)
        if not self.params.full_attention:
            query = replace(query, block_masks=tuple(self._block_mask(r) for r in rows))
        if self.params.cache is None:
            return query
        query = replace(query, kv_caches=tuple(self._kv_caches[r] for r in rows))
        if self._logit_cache is not None:
            return self._logit_cache.query(query, rows)
        assert isinstance(self.params.cache, CacheConfig)
        return replace(query, windows=tuple(self._evaluated(self.params.cache, r) for r in rows))

    def advance(self, logits: Tensor) -> None:
        """Commit tokens by the logits (R, Q, ids.stop - ids.start) that the last `inputs()` asked for."""
        window, evaluated = self._asked_window or self._window(), self._evaluated_rows()
        self._asked_window = None
        num_asked = window.slot.shape[1] if self._logit_cache is None else max(map(self._logit_cache.num_positions, evaluated))
        expected = (len(evaluated), num_asked, self.ids.stop - self.ids.start)
        if tuple(logits.shape) != expected:
            raise InputError(f"logits have the shape {tuple(logits.shape)}, inputs() asked for {expected}")
        rows = torch.tensor(self._asked, device=self._slots.device)

        if self._logit_cache is not None:
            self._logit_cache.update(evaluated, logits.float())
            index = torch.tensor(evaluated, device=rows.device)
            logits = self._logit_cache.at(index, window.slot.repeat(len(evaluated) // len(rows), 1))
        uniform, uniform_order = self._uniform(window)  # (A, Q), or (A, Q, V) with token_noise
        proposal, confidence, likeliest = self._proposals(logits, rows, uniform, uniform_order)
        commit = self._choose(confidence, uniform_order, window.inside)

        self._write(rows, window.slot, proposal + self.ids.start, commit)
        if self._record:
            self._note(window.slot, confidence, commit, likeliest)
        self._move_on(rows, window)

    def go_to(self, step: int) -> None:
        """Make the next step of every row the given one of its block, for what depends on how far it is."""
        for row in self._live:
            self._step[row] = step

    def drop(self, row: int) -> None:
        """Take no further step of a row, which keeps what it has; its keys and values are given back."""
        self._live = [other for other in self._live if other != row]
        self._asked, self._asked_window = self._live, None
        self._forget(row)

    def token_ids(self, row: int) -> Tensor:
        """(N,) int64 ids of the field's positions; positions still open hold mask_id."""
        return self._filled[row, : self.counts[row]].clone()

    def preview(self, row: int) -> Tensor:
        """(N,) int64 ids, with open positions showing their latest proposal (mask_id before the first)."""
        return torch.where(self._open[row], self._proposed[row], self._filled[row])[: self.counts[row]]

    def num_final(self, row: int) -> int:
        """How many leading slots are committed: what a stream may already send."""
        is_open = self._open[row, : self.counts[row]]
        num_final = int(is_open.int().argmax()) if bool(is_open.any()) else self.counts[row]
        # A guide may change the active block.
        return num_final if self._guides[row] is None or row not in self._live else min(num_final, self._slots_of_block(row).start)

    def num_blocks_done(self, row: int) -> int:
        """How many blocks of a row are finished, all of them once it has ended; known without asking the device."""
        return self._block[row] if row in self._live else self._num_blocks[row]

    def canvas(self, row: int) -> Canvas:
        """The canvas of a row with what was filled so far."""
        canvas = self.canvases[row]
        tokens = canvas.tokens.index_copy(0, canvas.fields[0].positions, self.token_ids(row))
        return Canvas(tokens, canvas.attend, canvas.fields)

    # The parts of a step, in order.

    def _evaluated_rows(self) -> list[int]:
        return [len(self.canvases) * k + r for k in range(self._num_evaluated) for r in self._asked]

    def _span(self, evaluated: int) -> tuple[int, int]:
        """What is evaluated of a row: all that it attends to, or no more than the active block."""
        start, stop = self._spans[evaluated]
        if self.params.looks_ahead:
            return start, stop
        row = evaluated % len(self.canvases)
        return start, stop - (self.counts[row] - self._slots_of_block(row).stop)

    def _block_mask(self, evaluated: int) -> BlockMask:
        """No token sees a block behind its own, so what was seen once stays true."""
        start, stop = self._span(evaluated)
        num_open = self.counts[evaluated % len(self.canvases)]
        num_given = self._spans[evaluated][1] - start - num_open
        assert self.params.block_length is not None  # checked by Recipe
        in_blocks = self.params.prompt_in_blocks
        return BlockMask(causal_block_ids(num_given, stop - start - num_given, self.params.block_length, prompt_in_blocks=in_blocks))

    def _evaluated(self, cache: CacheConfig, evaluated: int) -> tuple[int, int]:
        """The part of a row's span that is evaluated anew: everything at a block's first step, or else its surroundings."""
        start, stop = self._span(evaluated)
        row = evaluated % len(self.canvases)
        slots, places = self._range(row), self._positions[evaluated]
        if self._step[row] == 0 or (cache.refresh is not None and self._step[row] % cache.refresh == 0):
            if self.params.full_attention or not self._block[row] or cache.refresh is not None:
                return start, stop
            assert self.params.block_length is not None  # checked by Recipe
            # Of what came before, which sees no further, the last block alone has changed, and what a guide wrote.
            guided = self._guided_from.get(row, slots.start)
            changed = min(places[slots.start] - self.params.block_length, places[guided] - (0 if guided else self._begun[row]))
            return max(start, changed), stop
        # The prompt's part of a block changes with it.
        first, last = places[slots.start] - (0 if self._block[row] else self._begun[row]), places[slots.stop - 1] + 1
        return max(start, first - cache.before), stop if cache.after is None else min(stop, last + cache.after)

    def _range(self, row: int) -> range:
        """The slots among which a row chooses: those of its block."""
        slots = self._slots_of_block(row)
        # A proposed [MASK] stays open beyond its block, and the published sampler goes on choosing among those.
        return range(0, slots.stop) if self.params.propose_any else slots

    def _slots_of_block(self, row: int) -> range:
        """The slots of the active block; none once all are finished."""
        count, width = self.counts[row], self.params.block_length
        if width is None:
            return range(count)
        first = self._block[row] * width - self._begun[row]
        return range(min(count, max(0, first)), min(count, first + width))

    def _window(self) -> _Window:
        """The open slots of each row of the step's range; rows with fewer than others repeat the spare slot."""
        device, ranges = self._slots.device, [self._range(row) for row in self._asked]
        host = [(slots.start, slots.stop, self._num_open[row]) for slots, row in zip(ranges, self._asked, strict=True)]
        first, stop, num_open = torch.tensor(host, device=device).unbind(1)
        place = torch.arange(self._slots.shape[1], device=device)[None]
        is_open = self._open[torch.tensor(self._asked, device=device)] & (place >= first[:, None]) & (place < stop[:, None])
        most = max(self._num_open[row] for row in self._asked)
        slot = is_open.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        inside = place[:, :most] < num_open[:, None]
        return _Window(slot.where(inside, self._slots.shape[1] - 1), inside, ranges)

    def _proposals(self, logits: Tensor, rows: Tensor, uniform: Tensor, uniform_order: Tensor) -> tuple[Tensor, Tensor, _Likeliest]:
        """Logits (R, Q, V) -> what each open slot would take (A, Q), how sure it is (A, Q), and what is likeliest there.

        Taken in pieces that bound the memory.
        """
        copies = logits.unflatten(0, (-1, len(rows)))  # (copies, A, Q, V)
        _, num_rows, num_slots, num_ids = copies.shape
        proposal = torch.empty(num_rows, num_slots, dtype=torch.long, device=logits.device)
        confidence = proposal.float()  # its dtype is the confidence's own, known with the first piece
        likeliest = _Likeliest(
            confidence.new_empty(num_rows, num_slots, self._num_alternatives),
            proposal.new_empty(num_rows, num_slots, self._num_alternatives),
        )
        for at in _pieces(num_rows, num_slots, most=max(1, LOGITS_AT_ONCE // num_ids)):
            piece = self._adjusted(self._combine(copies[(slice(None), *at)].float()), rows[at[0]])
            proposal[at], sure = self._propose(piece, uniform[at], uniform_order[at])
            confidence = confidence.to(sure.dtype)
            confidence[at] = sure
            if self._num_alternatives:
                likeliest.probability[at], likeliest.chosen[at] = piece.softmax(-1).topk(self._num_alternatives, dim=-1)
        return proposal, confidence, likeliest

    def _combine(self, logits: Tensor) -> Tensor:
        """Guidance of (copies, A, Q, V), and -inf where an id is not allowed: (A, Q, V)."""
        conditional, *negatives = logits.unbind(0)
        logits = self.params.guidance(conditional, negatives, self.params.scales) if negatives else conditional
        return logits.index_fill(-1, self._suppress_tokens, -torch.inf) if len(self._suppress_tokens) else logits

    def _adjusted(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Bias and penalties of single ids."""
        params, num_ids = self.params, logits.shape[-1]
        if params.logit_bias:
            logits = biased(logits, params.logit_bias, first=self.ids.start)
        if not params.has_penalties:
            return logits
        written = counted(self._filled[rows], num_ids, first=self.ids.start, ends=self._ends)
        # Open positions hold [MASK] in both, which is never proposed.
        present = counted(self._tokens[rows], num_ids, first=self.ids.start, ends=self._ends) if params.repetition_penalty != 1 else written
        return penalized(
            logits,
            written,
            present,
            frequency=params.frequency_penalty,
            presence=params.presence_penalty,
            repetition=params.repetition_penalty,
        )

    def _indices(self, token_ids: Sequence[int]) -> Tensor:
        """Indices into the allowed slice of those ids that lie in it."""
        inside = [i - self.ids.start for i in token_ids if self.ids.start <= i < self.ids.stop]
        return torch.tensor(inside, dtype=torch.long, device=self.canvases[0].tokens.device)

    def _propose(self, logits: Tensor, uniform: Tensor, uniform_order: Tensor) -> tuple[Tensor, Tensor]:
        """(A, Q) int64 indices into the allowed slice, and how sure each is."""
        if self.params.is_plain_softmax and not self.params.confidence_narrowed and not len(self._late_tokens):
            return sample_with_probability(logits, uniform)
        proposal = self._drawn(logits, uniform)
        seen = self._narrowed(logits) if self.params.confidence_narrowed else logits
        seen = seen.index_fill(-1, self._late_tokens, -torch.inf) if len(self._late_tokens) else seen
        return proposal, self.params.confidence(seen, proposal, uniform_order)

    def _drawn(self, logits: Tensor, uniform: Tensor) -> Tensor:
        params = self.params
        if self._has_token_noise:
            assert params.token_noise is not None
            return params.token_noise(logits, uniform, params.temperature).argmax(-1)
        return sample_tokens(logits, uniform, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p, min_p=params.min_p)

    def _narrowed(self, logits: Tensor) -> Tensor:
        params = self.params
        return narrowed(logits, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p, min_p=params.min_p)

    @property
    def _has_token_noise(self) -> bool:
        return self.params.token_noise is not None and self.params.temperature > 0

    def _uniform(self, window: _Window) -> tuple[Tensor, Tensor]:
        """Uniform numbers for tokens and order; each row draws as many as its own block has slots, whatever its neighbors."""
        device = window.inside.device
        if not self.params.draws:
            zeros = torch.zeros(window.inside.shape, device=device)
            return zeros, zeros
        num_ids = self.ids.stop - self.ids.start if self._has_token_noise else None
        numbers = [self._draws[row].numbers(slots, num_ids) for row, slots in zip(self._asked, window.ranges, strict=True)]
        tokens = torch.zeros(len(numbers), self._slots.shape[1], *numbers[0][0].shape[1:], dtype=numbers[0][0].dtype)
        order = torch.zeros(len(numbers), self._slots.shape[1], dtype=numbers[0][1].dtype)
        for i, (slots, (of_tokens, of_order)) in enumerate(zip(window.ranges, numbers, strict=True)):
            tokens[i, slots.start : slots.stop], order[i, slots.start : slots.stop] = of_tokens, of_order
        row = torch.arange(len(numbers), device=device)[:, None]
        return tokens.to(device)[row, window.slot], order.to(device)[row, window.slot]

    def _choose(self, confidence: Tensor, uniform: Tensor, candidate: Tensor) -> Tensor:
        """(A, Q) bool: the best candidates, as many as the quota and the threshold say."""
        params, device = self.params, confidence.device
        num_open = candidate.sum(1)
        num_transfer_tokens = torch.ones_like(num_open)
        if params.steps is not None:
            host = [(len(self._slots_of_block(r)), self._step[r], self._steps_in_block[r]) for r in self._asked]
            num_start, step, steps = torch.tensor(host, device=device).unbind(1)
            state = TransferState(num_open, num_start, self._num_total[torch.tensor(self._asked, device=device)], step, steps)
            if params.commit_share is not None:
                return candidate & (uniform < params.commit_share(state)[:, None])
            num_transfer_tokens = params.transfer_schedule(state)
        order = confidence
        if params.commit_ties:
            order = order.log()  # in whose rounding ties are published
        if params.choice_temperature:
            factor = [params.anneal(self._step[r], self._steps_in_block[r]) for r in self._asked]
            noise = params.choice_temperature * torch.tensor(factor, device=device)[:, None] * params.choice_noise(uniform)
            order = (confidence if params.noise_on_score else confidence.clamp_min(torch.finfo(confidence.dtype).tiny).log()) + noise
        if params.threshold is not None:
            is_sure = (confidence >= params.threshold) & candidate
            num_transfer_tokens = torch.maximum(num_transfer_tokens, is_sure.sum(1)).clamp_min(1)
            order = order.masked_fill(is_sure, torch.inf)
        order = order.masked_fill(~candidate, -torch.inf)
        rank = order.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        commit = candidate & (rank < num_transfer_tokens[:, None])
        if params.commit_ties:
            commit |= candidate & (order >= order.masked_fill(~commit, torch.inf).amin(1, keepdim=True))
        return commit

    def _write(self, rows: Tensor, slot: Tensor, token_ids: Tensor, commit: Tensor) -> None:
        """Put committed ids into the tables and the sequences; a committed [MASK] stays open."""
        self._proposed[rows] = self._proposed[rows].scatter(1, slot, token_ids)
        filled, is_open = self._filled[rows], self._open[rows]
        self._filled[rows] = filled.scatter(1, slot, token_ids.where(commit, filled.gather(1, slot)))
        self._open[rows] = is_open.scatter(1, slot, (token_ids == self.mask_id).where(commit, is_open.gather(1, slot)))
        self._to_sequences(rows)

    def _to_sequences(self, rows: Tensor) -> None:
        self._tokens[rows] = self._tokens[rows].scatter(1, self._slots[rows], self._filled[rows])
        for copy in range(1, self._copies):
            other = rows + copy * len(self.canvases)
            self._tokens[other] = self._tokens[other].scatter(1, self._slots[other], self._filled[rows])

    def _note(self, slot: Tensor, confidence: Tensor, commit: Tensor, likeliest: _Likeliest) -> None:
        for i, row in enumerate(self._asked):
            at = slot[i][commit[i]]
            ids, confidences = self._filled[row, at], confidence[i][commit[i]]
            step = DenoisingStep(row, self.num_forwards[row], tuple(at.tolist()), tuple(ids.tolist()), tuple(confidences.tolist()))
            if self._num_alternatives:
                others = (likeliest.chosen[i][commit[i]] + self.ids.start).tolist(), likeliest.probability[i][commit[i]].tolist()
                step = replace(step, alternatives=tuple(tuple(zip(*pair, strict=True)) for pair in zip(*others, strict=True)))
            self.trace.append(step)

    def _move_on(self, rows: Tensor, window: _Window) -> None:
        """Finish blocks and rows. The one place that waits for the device."""
        left = (self._open[rows].gather(1, window.slot) & window.inside).sum(1)
        ended = torch.zeros_like(left) if self._eos is None else self._has_ended(rows).long()
        survivors = []
        for row, num_left, has_ended in zip(self._asked, *torch.stack([left, ended]).tolist(), strict=True):
            self.num_forwards[row] += 1
            self._step[row] += 1
            self._num_open[row] = num_left
            if (num_left == 0 or has_ended) and self._follow_guide(row, has_ended=bool(has_ended)):
                if self._eos is not None and bool(self._has_ended(torch.tensor([row], device=rows.device))):
                    self._end(row)
                elif self._block[row] < self._num_blocks[row]:
                    survivors.append(row)
                continue
            out_of_steps = self.params.steps is not None and self._step[row] == self._steps_in_block[row]
            if num_left == 0 or out_of_steps:
                before = self._range(row)
                self._guided_from.pop(row, None)
                self._block[row], self._step[row] = self._block[row] + 1, 0
                # Slots beyond what the range was are all open; those that stay in it are the ones left.
                after = self._range(row)
                self._num_open[row] = after.stop - before.stop + (num_left if after.start < before.stop else 0)
            if has_ended:
                self._end(row)
            elif self._block[row] < self._num_blocks[row]:
                survivors.append(row)
        finished = set(self._asked) - set(survivors)
        for row in finished:
            if self.params.random_leftover:
                self._fill_leftover(row)
            self._forget(row)
        self._live = self._asked = [row for row in self._live if row not in finished]
        if self._logit_cache is not None:
            steps = [(self._step[r], self._steps_in_block[r]) for r in survivors] * self._num_evaluated
            self._logit_cache.select([len(self.canvases) * k + r for k in range(self._num_evaluated) for r in survivors], steps=steps)

    def _follow_guide(self, row: int, *, has_ended: bool) -> bool:
        """Write what a row's guide knows for certain, and go to the block of the first slot behind it. Returns whether that changes anything.

        What it says against finished blocks is not followed, for they may have been sent.
        Raises InputError for ids that the field does not allow.
        """
        guide, slots = self._guides[row], self._slots_of_block(row)
        if guide is None:
            return False
        end = int(torch.isin(self._filled[row, : slots.stop], self._ends).int().argmax()) + 1 if has_ended else slots.stop
        written = self._filled[row, :end].tolist()
        if (found := guide(written)) is None:
            return False
        wanted = list(found)[: self.counts[row]]
        if wanted == written or (has_ended and wanted == written[:-1]):
            return False
        first = next((i for i, (a, b) in enumerate(zip(written, wanted, strict=False)) if a != b), min(len(written), len(wanted)))
        if first < slots.start:
            return False
        if any(token not in self.ids for token in wanted[first:]):
            raise InputError(f"a guide wrote {wanted[first:]}; ids of the field are {self.ids.start} to {self.ids.stop - 1}")
        stop = max(slots.stop, len(wanted))
        self._filled[row, first:stop] = self.mask_id
        self._filled[row, first : len(wanted)] = torch.tensor(wanted[first:], device=self._filled.device)
        self._open[row, :stop] = torch.arange(stop, device=self._open.device) >= len(wanted)
        self._to_sequences(torch.tensor([row], device=self._open.device))
        if self._record:
            added = range(first, len(wanted))
            self.trace.append(DenoisingStep(row, self.num_forwards[row] - 1, tuple(added), tuple(wanted[first:]), (1.0,) * len(added)))
        self._guided_from[row] = slots.start
        self._step[row], width = 0, self.params.block_length
        assert width is not None  # checked when the guides were given
        self._block[row] = self._num_blocks[row] if len(wanted) == self.counts[row] else (len(wanted) + self._begun[row]) // width
        self._num_open[row] = self._slots_of_block(row).stop - len(wanted)
        return True

    def _forget(self, row: int) -> None:
        """Give back the keys and values of a row."""
        self._kv_caches[row :: len(self.canvases)] = [KVCache() for _ in self._kv_caches[row :: len(self.canvases)]]

    def _fill_leftover(self, row: int) -> None:
        left = self._open[row].nonzero()[:, 0]
        self._filled[row, left] = self.ids.start + self._draws[row].integers(len(left), self.ids.stop - self.ids.start).to(left.device)
        self._open[row] = False
        self._to_sequences(torch.tensor([row], device=self._open.device))

    def _has_ended(self, rows: Tensor) -> Tensor:
        """(A,) whether an end token is committed and everything before it too."""
        width = self._open.shape[1]
        place = torch.arange(width, device=rows.device)
        first_end = place.where(torch.isin(self._filled[rows], self._ends) & ~self._open[rows], width).amin(1)
        first_open = place.where(self._open[rows], width).amin(1)
        return first_end < first_open

    def _end(self, row: int) -> None:
        self._filled[row] = self._filled[row].masked_fill(self._open[row], self._eos or 0)
        self._open[row] = False
        self._to_sequences(torch.tensor([row], device=self._open.device))
        self.finish_reasons[row] = "stop"


def _pieces(num_rows: int, num_slots: int, *, most: int) -> Iterator[tuple[slice, slice]]:
    """Cut a table (A, Q) into whole rows, or into parts of one row, of at most `most` entries each."""
    slots = max(1, min(num_slots, most))
    at_once = most // slots
    for row in range(0, num_rows, at_once):
        for slot in range(0, num_slots, slots):
            yield slice(row, row + at_once), slice(slot, slot + slots)


def _num_given(canvas: Canvas) -> int:
    """Attended positions that are not open."""
    start, stop = canvas.span
    return stop - start - len(canvas.fields[0].positions)


class Steppable(Protocol):
    """What shares forward passes: it says what it needs to know next, and takes the answer."""

    @property
    def done(self) -> bool: ...
    def inputs(self) -> Query:
        """What to evaluate next."""
        ...

    def advance(self, logits: Tensor) -> None:
        """Take the logits of the last `inputs()`, one for each of its rows, positions and ids."""
        ...


class _Window(NamedTuple):
    """What live rows choose among: open slots (A, Q), ascending, whether they are a row's own (A, Q), and the range that they lie in."""

    slot: Tensor
    inside: Tensor
    ranges: list[range]


class _Likeliest(NamedTuple):
    """Of each open slot, the ids with the highest probability: (A, Q, k), highest first; chosen are indices into the allowed slice."""

    probability: Tensor
    chosen: Tensor


def denoise(denoisings: Sequence[Steppable], denoiser: Denoiser) -> Iterator[int]:
    """Advance all requests together until all are done; yields the number of rounds so far after each round."""
    rounds = 0
    while live := [d for d in denoisings if not d.done]:
        for denoising, logits in zip(live, denoiser([d.inputs() for d in live]), strict=True):
            denoising.advance(logits)
        rounds += 1
        yield rounds
