"""Batches of masked diffusion for `transformers.Trainer`.

    collator = MaskedDiffusionCollator(AutoProcessor.from_pretrained(directory))
    Trainer(model, TrainingArguments(..., remove_unused_columns=False), data_collator=collator, train_dataset=records).train()

A record is a conversation, a text, or tokens; the model computes the loss from what comes out (hub/labels.py):

    {"messages": [..., {"role": "assistant", ...}]}     the last turn is learned, with end tokens up to the room of an answer
    {"messages": [...], "think": "a thought"}           the same behind the instruction to think
    {"text": "once upon a time"}                        all of it is learned
    {"input_ids": [...], "labels": [...]}               what has a label is learned (-100: not); without labels, all of it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmada.canvas import Prompts, messages_of
from mmada.canvas.prompts import join_thinking
from mmada.diffusion import noise
from mmada.errors import InputError
from mmada.hub.labels import IGNORED, uniform_counts

__all__ = ["MaskedDiffusionCollator"]


class MaskedDiffusionCollator:
    """Records -> input_ids with masks, attention_mask and labels, each (B, L) int64, padded on the right.

    processor       a processor of ours, or the `prompts` of a model
    answer_lengths  room for an answer and the end tokens behind it, ascending: the first in which it fits; a longer one has no more than it needs
    Which positions are masked is drawn from torch's generator, which Trainer seeds.
    Raises InputError for a record of another form.
    """

    def __init__(self, processor: Prompts | Any, *, answer_lengths: Sequence[int] = (8, 16, 32, 64, 96, 128, 256)) -> None:
        self.prompts: Prompts = processor if isinstance(processor, Prompts) else processor.prompts
        if not answer_lengths or list(answer_lengths) != sorted(answer_lengths) or answer_lengths[0] < 2:
            raise InputError(f"answer_lengths={tuple(answer_lengths)} must ascend, from at least 2 tokens")
        self.answer_lengths = tuple(answer_lengths)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One batch."""
        rows = [self._row(i, feature) for i, feature in enumerate(features)]
        layout, length = self.prompts.layout, max(len(ids) for ids, _ in rows)
        tokens = torch.full((len(rows), length), layout.eos_id)
        labels = torch.full_like(tokens, IGNORED)
        seen = torch.zeros_like(tokens)
        for i, (ids, learned) in enumerate(rows):
            tokens[i, : len(ids)], labels[i, : len(ids)], seen[i, : len(ids)] = torch.tensor(ids), torch.tensor(learned), 1
        maskable = labels != IGNORED
        noised = noise.exact(tokens, uniform_counts(maskable), maskable, mask_id=layout.mask_id)
        return {"input_ids": noised.xt, "attention_mask": seen, "labels": labels}

    def _row(self, i: int, feature: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        """Clean ids and labels of a record."""
        if "input_ids" in feature:
            ids = [int(token) for token in feature["input_ids"]]
            learned = [int(label) for label in feature.get("labels", ids)]
            if len(learned) != len(ids):
                raise InputError(f"record {i} has {len(ids)} input_ids and {len(learned)} labels; give one label for each token")
            kept = [k for k, is_seen in enumerate(feature.get("attention_mask", [1] * len(ids))) if is_seen]
            return [ids[k] for k in kept], [learned[k] for k in kept]
        if isinstance(feature.get("text"), str):
            ids = self.prompts.lm(feature["text"], length=len(self.prompts.encode(feature["text"])) + 2).tokens.tolist()
            return ids, ids
        if not feature.get("messages"):
            raise InputError(
                f"record {i} has the fields {sorted(feature)}: give messages, text or input_ids (Trainer keeps other columns with remove_unused_columns=False)"
            )
        *turns, last = messages_of(feature["messages"])
        if last.role != "assistant" or not turns:
            raise InputError(f"record {i} ends with a turn of {last.role!r}; the last turn is what is learned, so end with the assistant's")
        answer, think = last.content, feature.get("think")
        answer = join_thinking(think, answer)
        needed = len(self.prompts.encode(answer)) + 1
        room = next((length for length in self.answer_lengths if length >= needed), needed)
        canvas = self.prompts.chat(turns, room, thinking=think is not None, answer=answer)
        return canvas.tokens.tolist(), torch.where(canvas.is_open, canvas.tokens, IGNORED).tolist()
