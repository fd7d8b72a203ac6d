"""The recorded numbers of the published implementation: the directory in MMADA_GOLDEN, by default the copy beside the tests.

Nothing here may depend on the sizes of the default directory: every number is read from it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmada.canvas import Canvas, Field, IdRange
from mmada.model import Transformer, TransformerConfig, TransformerDenoiser

DATA = Path(__file__).parents[1] / "golden_data"
GOLDEN = Path(os.environ.get("MMADA_GOLDEN", DATA / "dev"))


@dataclass(frozen=True)
class Golden:
    """config.json, golden.safetensors and the model, with the vocabulary facts that the tests need."""

    config: TransformerConfig
    numbers: dict[str, Tensor]
    model: Transformer

    def __getitem__(self, name: str) -> Tensor:
        return self.numbers[name]

    @property
    def denoiser(self) -> TransformerDenoiser:
        return TransformerDenoiser(self.model)

    @property
    def mask_id(self) -> int:
        return self.config.mask_token_id

    @property
    def any_ids(self) -> IdRange:
        return IdRange(0, self.config.vocab_size)

    @property
    def image_ids(self) -> IdRange:
        """In these directories the codes come right behind `llm_vocab_size` text ids."""
        return IdRange(self.config.llm_vocab_size, self.config.llm_vocab_size + self.config.codebook_size)

    def canvas(self, tokens: Tensor, attend: Tensor | None, is_open: Tensor, ids: IdRange) -> Canvas:
        attend = torch.ones_like(tokens) if attend is None else attend
        positions = is_open.nonzero()[:, 0]
        return Canvas(tokens, attend.bool(), (Field(positions, ids, len(positions)),))


@pytest.fixture(scope="session")
def golden() -> Golden:
    config = TransformerConfig.from_dict(json.loads((GOLDEN / "config.json").read_text()))
    model = Transformer(config).eval()
    model.load_state_dict(load_file(GOLDEN / "backbone.safetensors"))
    return Golden(config, load_file(GOLDEN / "golden.safetensors"), model)


@pytest.fixture(scope="session")
def manifest() -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in json.loads((DATA / "manifest_mmada_8b.json").read_text()).items()}
