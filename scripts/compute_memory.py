"""GPU memory of models of the published sizes, in parts, computed from shapes: what fits on a card of 24 GB.

    python scripts/compute_memory.py -o docs/results/memory.json

    weights      of every tensor; int8 and int4 count for the matrices of the blocks, scales included
    activations  of one block, in its feed-forward, where most are alive: 7 D + 2 K + 2 F + 2 H numbers a token of a pass (widths of the model, of
                 keys, of the feed-forward, of a head). With int8 and int4 also its largest matrix, unpacked: 6 bytes a number
    logits       of the open positions, over the ids that are asked for, of every row; and four arrays of float32 of them in the sampler
    cache        keys and values of all layers; with ML-Cache logits, too
    pictures     weights of the image tokenizer in float32, and four maps of its first width at the size of the picture

Not counted: the CUDA context, workspaces of kernels, and what the allocator holds back. `RESERVE` stands for them. Attention keeps no scores, as flash
attention does not. `check` is one pass of a small model in float32: the formula beside the most that torch's arrays came to.
"""

from __future__ import annotations

import argparse
import json
import math
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmada.canvas import VocabLayout
from mmada.eval import report
from mmada.families import Family, named
from mmada.hub import networks
from mmada.image import ImageTokenizerConfig, VQVAEConfig
from mmada.image.vqvae import VQVAE
from mmada.model import Transformer, TransformerConfig, preset

CARD, RESERVE = 24e9, 1e9
QUESTION, ANSWER, BLOCK = 128, 256, 32
KINDS = ("bf16", "int8", "int4")


@dataclass(frozen=True)
class Case:
    """rows: tokens of each row of a pass. num_open: of each row. codes: of the picture. cache: None, "dual" or "max-logit"."""

    family: str
    what: str
    rows: tuple[int, ...]
    num_open: int
    asks_codes: bool = True
    codes: int = 1024
    cache: str | None = None


def grid(codes: int, *, newlines: bool) -> int:
    """Tokens of a picture in a row: begin, codes, end, and a newline behind each of its rows."""
    return 2 + codes + (math.isqrt(codes) if newlines else 0)


_PLAIN, _LINED, _LARGE = grid(1024, newlines=False), grid(1024, newlines=True), grid(4096, newlines=True)
CASES = (
    Case("mmada", "drawing of 1,024 codes, guidance", (QUESTION + _PLAIN, 4 + _PLAIN), 1024),
    Case("mmada", "the same with ML-Cache", (QUESTION + _PLAIN, 4 + _PLAIN), 1024, cache="max-logit"),
    Case("mmada", "answer about 1,024 codes, dual", (QUESTION + _PLAIN + ANSWER,), BLOCK, asks_codes=False, cache="dual"),
    Case("mmada-parallel-m", "text and 1,024 codes by 1,024 codes, guidance", (QUESTION + 2 * _PLAIN + ANSWER,) * 2, 1024),
    Case("lumina-dimoo", "drawing of 1,024 codes, guidance", (QUESTION + _LINED, 32 + _LINED), 1024),
    Case("lumina-dimoo", "drawing of 4,096 codes, guidance", (QUESTION + _LARGE, 32 + _LARGE), 4096, codes=4096),
    Case("lumina-dimoo", "edit of 1,024 codes, two scales", (QUESTION + 2 * _LINED, 32 + 2 * _LINED, QUESTION + _LINED), 1024),
    Case("lumina-dimoo", "edit of 4,096 codes, two scales", (QUESTION + 2 * _LARGE, 32 + 2 * _LARGE, QUESTION + _LARGE), 4096, codes=4096),
    Case("mmada-parallel-a", "text and 1,024 codes by 1,024 codes, two scales", (QUESTION + 2 * _LINED + ANSWER,) * 3, 1024),
    Case("llada", "answer of 256 tokens", (QUESTION + ANSWER,), BLOCK, asks_codes=False, codes=0),
    Case("illada", "answer of 256 tokens, dual", (QUESTION + ANSWER,), BLOCK, asks_codes=False, codes=0, cache="dual"),
)


def full_size(family: Family) -> TransformerConfig:
    tied = bool(family.constants.get("tie_word_embeddings"))
    return replace(preset("8b", layout=family.layout, **family.sizes, weight_tying=tied), extra={"family": family.name})


def weights(config: TransformerConfig, kind: str) -> int:
    shapes = networks.shapes(config, quantization=None if kind == "bf16" else kind)
    return sum(math.prod(shape) * (1 if name.endswith(".codes") else 2) for name, shape in shapes.items())


def activations(config: TransformerConfig, num_tokens: int, *, width: int) -> int:
    """width: bytes of a number."""
    keys = (config.n_kv_heads or config.n_heads) * config.head_dim
    return num_tokens * width * (7 * config.d_model + 2 * keys + 2 * (config.mlp_hidden_size or 0) + 2 * config.head_dim)


def pictures(family: Family, codes: int) -> int:
    if family.image_tokenizer is None or codes == 0:
        return 0
    if family.image_tokenizer == "vqvae":
        made = networks.skeleton(lambda: VQVAE(VQVAEConfig()))
        numbers, first = sum(p.numel() for p in made.parameters()), VQVAEConfig().block_out_channels[0]
    else:
        config = ImageTokenizerConfig()
        numbers, first = sum(map(math.prod, networks.shapes(config).values())), config.ch
    return 4 * (numbers + 4 * first * codes * 256)


def parts(case: Case, kind: str) -> dict[str, int]:
    """Bytes."""
    family = named(case.family)
    config = full_size(family)
    ids = config.layout.codebook_size if case.asks_codes else len(range(config.layout.text_ids.start, config.layout.text_ids.stop))
    one, tokens = case.num_open * ids, sum(case.rows)
    unpacked = 0 if kind == "bf16" else 6 * config.d_model * (config.mlp_hidden_size or 0)
    kept = 0 if case.cache is None else 2 * config.num_kept_values * tokens
    return {
        "weights": weights(config, kind),
        "activations": activations(config, tokens, width=2) + unpacked,
        "logits": 2 * one * len(case.rows) + 4 * 4 * one,
        "cache": kept + (2 * one * len(case.rows) if case.cache == "max-logit" else 0),
        "pictures": pictures(family, case.codes),
    }


class _Alive(TorchDispatchMode):
    """Bytes of the arrays that are made and not yet given back: `now`, and at most."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self._sizes:
                self._sizes[key] = tensor.untyped_storage().nbytes()
                weakref.finalize(tensor.untyped_storage(), self._drop, key)
                self.now += self._sizes[key]
                self.most = max(self.most, self.now)
        return out

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def check(num_tokens: int) -> dict[str, float]:
    """One pass of a small model: the formula, and the most that its arrays came to, in MB."""
    plain = {"short_conv": 0, "image_positions": 0, "attention_layer_norm": False}  # as the published models are
    model = Transformer(preset("40m", layout=VocabLayout.compact(256, 64), max_sequence_length=num_tokens, **plain)).eval()
    with torch.no_grad(), _Alive(model.parameters()) as alive:
        model.trunk(torch.zeros(1, num_tokens, dtype=torch.long))
    formula = activations(model.config, num_tokens, width=4)
    return {"tokens": num_tokens, "formula": round(formula / 1e6, 1), "counted": round(alive.most / 1e6, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--tokens", type=int, default=4096, help="of the check")
    options = parser.parse_args()
    cases = []
    for case in CASES:
        found = {kind: parts(case, kind) for kind in KINDS}
        cases.append({"family": case.family, "what": case.what, "rows": len(case.rows), "tokens": sum(case.rows), "bytes": found})
    about = {
        "environment": report.environment("python scripts/compute_memory.py -o docs/results/memory.json", "cpu"),
        "card": CARD,
        "reserve": RESERVE,
    }
    results = {"suite": "memory", **about, "cases": cases, "check": check(options.tokens)}
    print(json.dumps(results, indent=1))
    if options.out:
        report.save(options.out, results)


if __name__ == "__main__":
    main()
