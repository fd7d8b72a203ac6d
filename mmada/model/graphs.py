"""The transformer's layers as CUDA graphs: a pass over few tokens, launched at once.

A large model computes a short row faster than Python can launch its kernels. It takes 25 ms a pass of an 8B on an H200, whose weights are read in 4
(docs/speed.md). Sampling repeats such passes in one shape, so that their kernels are recorded when a shape returns, and replayed from then on:

    x, cos, sin, biases, places -> copied to where the recording reads them -> all layers -> a copy of the result

A recording also holds the addresses of the weights, and of the keys and values that a window reuses and overwrites. So it is looked up by
these, too: what has moved is recorded anew. The kernels are the same ones, and so are the numbers.
"""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from mmada.model.attention import AttentionBias

__all__ = ["Capture", "CudaGraphCapture", "LayerGraphs", "Layers"]

Layers: TypeAlias = Callable[[Tensor, Tensor, Tensor, AttentionBias, Tensor | None], Tensor]
"""x (1, T, D), cos and sin (T, hd), which tokens attend to which, index (n,) of those wanted or None -> hidden states (1, n or T, D)"""
Replay: TypeAlias = Callable[[], Tensor]
"""Computes again from what stands in the tensors now; the result is overwritten by the next replay."""


Capture: TypeAlias = Callable[[Callable[[], Tensor]], Replay]
"""What records a computation on tensors that stay where they are."""


class CudaGraphCapture:
    """Records on the current CUDA device. Its recordings there share a stream and, thereby, their memory.

    Raises RuntimeError for what cannot be recorded, such as a copy from the host.
    """

    def __init__(self) -> None:
        self._places: dict[int, tuple[torch.cuda.Stream, Any]] = {}

    def __call__(self, compute: Callable[[], Tensor]) -> Replay:
        device = torch.cuda.current_device()
        if device not in self._places:
            self._places[device] = (torch.cuda.Stream(), torch.cuda.graph_pool_handle())
        stream, pool = self._places[device]
        outside = torch.cuda.current_stream()
        # Once outside, so that libraries set up what they need; on another stream, as recording is.
        stream.wait_stream(outside)
        with torch.cuda.stream(stream):
            compute()
        outside.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                out = compute()
        finally:
            torch.cuda.set_stream(outside)  # a recording that failed leaves its own

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


@dataclass(frozen=True, slots=True, eq=False)
class _Recording:
    inputs: tuple[Tensor, ...]
    replay: Replay


class LayerGraphs:
    """Layers that are recorded when a shape returns, and run as ever before. For inference alone.

    module      holds the weights. Where they do not all lie on one `device`, nothing is recorded
    layers      computes by them; nothing but its arguments and their numbers may matter
    max_tokens  longer passes run as ever: they keep the device busy
    max_graphs  recordings that are kept, those used last
    after       passes of a shape before it is recorded: a recording costs as much as two
    record      how to record on `device`; None: as CUDA graphs
    What cannot be recorded runs as ever, after one warning; so do weights with adapters beside them, which PEFT turns on and off, and autocast.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Layers,
        *,
        max_tokens: int = 2048,
        max_graphs: int = 16,
        after: int = 2,
        record: Capture | None = None,
        device: str = "cuda",
    ) -> None:
        self._module, self._layers, self._record, self._device = module, layers, record or CudaGraphCapture(), device
        self.max_tokens, self.max_graphs, self.after = max_tokens, max_graphs, after
        self.num_replays = 0
        self._graphs: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._seen: Counter[Hashable] = Counter()
        self._works = True
        self._adapted: tuple[int, bool] = (-1, False)
        """number of parameters, and whether some of them are adapters"""
        self._read: torch.cuda.Event | None = None
        """when the last result was copied from where the next one will stand"""
        self._lock = Lock()
        """Threads that share a model share its recordings, and what those read."""

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, attn_bias: AttentionBias, index: Tensor | None = None) -> Tensor:
        if x.device.type != self._device:
            return self._layers(x, cos, sin, attn_bias, index)
        # The wanted ones differ from pass to pass, and recorded passes are to have the bits of others: all are computed.
        hidden = self._all(x, cos, sin, attn_bias)
        return hidden if index is None else hidden[:, index]

    def _all(self, x: Tensor, cos: Tensor, sin: Tensor, attn_bias: AttentionBias) -> Tensor:
        key = self._key(x, attn_bias) if self._works and x.shape[1] <= self.max_tokens else None
        if key is None:
            return self._layers(x, cos, sin, attn_bias, None)
        # Streams and recordings belong to the current device, which is not always that of the weights.
        with self._lock, torch.cuda.device(x.device) if x.is_cuda else nullcontext():
            recording = self._graphs.get(key) or self._recorded(key, x, cos, sin, attn_bias)
            if recording is not None:
                self._graphs.move_to_end(key)
                return self._replayed(recording, (x, cos, sin, *attn_bias.tensors))
        return self._layers(x, cos, sin, attn_bias, None)

    def _replayed(self, recording: _Recording, inputs: tuple[Tensor, ...]) -> Tensor:
        if self._read is not None:  # the last caller may have another stream
            torch.cuda.current_stream().wait_event(self._read)
        for old, new in zip(recording.inputs, inputs, strict=True):
            old.copy_(new)
        self.num_replays += 1
        out = recording.replay().clone()
        if out.is_cuda:
            self._read = torch.cuda.current_stream().record_event()
        return out

    def _key(self, x: Tensor, attn_bias: AttentionBias) -> Hashable | None:
        """What a recording depends on, or None if the weights lie elsewhere, or more than numbers may change from pass to pass."""
        weights = list(self._module.parameters())
        shape = attn_bias.shape
        if shape is None or torch.is_autocast_enabled(x.device.type) or any(weight.device != x.device for weight in weights):
            return None
        if self._adapted[0] != len(weights):
            self._adapted = (len(weights), any(hasattr(part, "merged_adapters") for part in self._module.modules()))
        if self._adapted[1]:
            return None
        return x.shape, x.dtype, shape, tuple(weight.data_ptr() for weight in weights)

    def _recorded(self, key: Hashable, x: Tensor, cos: Tensor, sin: Tensor, attn_bias: AttentionBias) -> _Recording | None:
        """None if the shape has not returned often enough, or cannot be recorded."""
        self._seen[key] += 1
        if self._seen[key] <= self.after:
            if len(self._seen) > 64 * self.max_graphs:
                self._seen.clear()  # shapes that never return
            return None
        del self._seen[key]
        x, cos, sin, *rest = inputs = tuple(tensor.clone() for tensor in (x, cos, sin, *attn_bias.tensors))
        attn_bias = attn_bias.with_tensors(rest)
        try:
            replay = self._record(lambda: self._layers(x, cos, sin, attn_bias, None))
        except torch.OutOfMemoryError:
            self._graphs.clear()  # they hold memory
            return None
        except RuntimeError as error:
            self._works = False
            warnings.warn(f"passes are not recorded as CUDA graphs, and take longer: {error}", RuntimeWarning, stacklevel=2)
            return None
        self._graphs[key] = _Recording(inputs, replay)
        while len(self._graphs) > self.max_graphs:
            self._graphs.popitem(last=False)
        return self._graphs[key]
