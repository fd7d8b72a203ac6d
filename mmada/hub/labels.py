"""`labels` of transformers as the masked-diffusion loss: what Trainer, PEFT and their kin pass to a model.

    labels      clean ids where a position is learned, -100 where it is given
    input_ids   the same, with [MASK] at some of the learned positions; where a row has none, as many as a uniform draw says are masked here

    loss = sum over masked positions of  n / k * -log p(label)  /  sum of n        n learned positions of the row, k of them masked

This is the text loss of the stage `finetune` (count, 1/p, maskable; train/stages.py): LLaDA, appendix A.2. Where labels stand at masked positions
alone, as in BERT's collators, n = k and it is the mean over them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.diffusion import noise
from mmada.diffusion.loss import masked_diffusion_loss
from mmada.errors import InputError

__all__ = ["IGNORED", "Labeled", "labeled", "loss_of", "uniform_counts"]

IGNORED = -100
"""The label of a position that is not learned, in transformers and torch."""


@dataclass(frozen=True, slots=True, eq=False)
class Labeled:
    """A noised batch with what it should have been.

    xt         (B, L) int64, what the model sees
    labels     (B, L) int64, clean ids; read where is_masked
    is_masked  (B, L) bool
    weight     (B, 1) float, n / k
    num_learned  scalar, the sum of n
    """

    xt: Tensor
    labels: Tensor
    is_masked: Tensor
    weight: Tensor
    num_learned: Tensor


def uniform_counts(maskable: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """(B,) int64: how many of the maskable positions (B, L) of each row are masked, uniform in 1..n, 0 for a row without any."""
    available = maskable.sum(1)
    draw = noise.stratified_uniform(len(maskable), generator=generator, device=maskable.device)
    return torch.where(available > 0, 1 + (draw * available).long().clamp(max=available - 1), 0)


def labeled(input_ids: Tensor, labels: Tensor, *, mask_id: int, attention_mask: Tensor | None = None) -> Labeled:
    """Read labels as above; rows without a mask at a learned position are noised by torch's generator.

    attention_mask  (B, L) bool; what it hides is not learned, whatever the labels say
    Raises InputError for labels of another shape, or that differ from what is shown: shifted ones, for instance.
    """
    if labels.shape != input_ids.shape:
        raise InputError(f"labels have the shape {tuple(labels.shape)}, input_ids {tuple(input_ids.shape)}; give one label for each token")
    maskable = labels != IGNORED
    if attention_mask is not None and attention_mask.dim() == 2:
        maskable &= attention_mask
    is_masked = maskable & (input_ids == mask_id)
    wrong = maskable & ~is_masked & (labels != input_ids)
    if not torch.compiler.is_compiling() and bool(wrong.any()):
        raise InputError(
            f"labels differ from input_ids at {int(wrong.sum())} positions that are not masked; position i predicts its own token, so labels are clean ids, "
            f"unshifted: give -100 where nothing is learned, and [MASK] ({mask_id}) or the token itself elsewhere"
        )
    fresh = maskable & ~is_masked.any(1, keepdim=True)
    drawn = noise.exact(input_ids, uniform_counts(fresh), fresh, mask_id=mask_id)
    is_masked = is_masked | drawn.is_masked
    num_learned, num_masked = maskable.sum(1, keepdim=True), is_masked.sum(1, keepdim=True)
    return Labeled(drawn.xt, labels, is_masked, num_learned / num_masked.clamp(min=1), num_learned.sum())


def loss_of(logits: Tensor, batch: Labeled, *, num_learned: Tensor | float | None = None) -> Tensor:
    """The loss in nats, a scalar; 0 for a batch that learns nothing.

    num_learned  learned positions of all batches that are accumulated into one step; None: of this one
    """
    normalizer = batch.num_learned if num_learned is None else torch.as_tensor(num_learned, device=logits.device)
    return masked_diffusion_loss(logits, batch.labels, batch.is_masked, batch.weight, normalizer.clamp(min=1))
