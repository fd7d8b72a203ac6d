"""The recorded numbers of the sister models: the directory in MMADA_FAMILIES_GOLDEN, by default the copy beside the tests.

Nothing here may depend on the sizes of the default directory: every number is read from it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmada.canvas import Canvas, Field, IdRange, VocabLayout
from mmada.model import Transformer, TransformerConfig, TransformerDenoiser
from mmada.sampling import Denoising, denoise
from mmada.sampling.joint import JointDenoising

DATA = Path(__file__).parents[2] / "golden_data" / "families"
GOLDEN = Path(os.environ.get("MMADA_FAMILIES_GOLDEN", DATA))


@dataclass(frozen=True)
class Recorded:
    """One directory: configuration, model, numbers, and the small ids that stand for the published ones."""

    directory: Path
    config: TransformerConfig
    ids: dict[str, int]
    numbers: dict[str, Tensor]
    model: Transformer

    @classmethod
    def load(cls, directory: Path) -> Recorded:
        values = json.loads((directory / "config.json").read_text())
        config = TransformerConfig.from_dict(values)
        model = Transformer(config).eval()
        model.load_state_dict(load_file(directory / "model.safetensors"))
        numbers = {k: v.long() if v.dtype == torch.int32 else v for k, v in load_file(directory / "golden.safetensors").items()}
        return cls(directory, config, values["golden_special_ids"], numbers, model)

    def __getitem__(self, name: str) -> Tensor:
        return self.numbers[name]

    @property
    def any_ids(self) -> IdRange:
        """All rows of the head, of which there may be more than ids."""
        return IdRange(0, self.num_rows)

    @property
    def num_rows(self) -> int:
        return self.config.embedding_size or self.config.vocab_size

    def layout(self, **names: str) -> VocabLayout:
        """A layout of the recorded small ids. names: special token -> its name in config.json."""
        size = self.ids.get("codebook_size", 0)
        special = {f"{name}_id": self.ids[recorded] for name, recorded in names.items()}
        rows = self.num_rows
        return VocabLayout(vocab_size=rows, image_offset=self.ids.get("image_offset", rows), codebook_size=size, **special)

    def draws(self, case: str) -> list[Tensor]:
        """The random numbers of a case, in the order of use."""
        names = sorted(name for name in self.numbers if name.startswith(f"{case}.draw."))
        return [self.numbers[name] for name in names]

    def args(self, case: str, default: Sequence[float] | None = None) -> list[float]:
        """The recorded arguments of a case as they were typed, not as float32 has them; `default` for cases whose README has them."""
        if f"{case}.args" not in self.numbers and default is not None:
            return list(default)
        return typed(self.numbers[f"{case}.args"])

    def cases(self, ending: str) -> list[str]:
        return sorted(name.removesuffix(ending) for name in self.numbers if name.endswith(ending))


@dataclass
class Replay:
    """The recorded random numbers of one row.

    entries  of all steps, in the order of use: for the tokens, if the case has them, then for the order, if it has them
    tokens, order  whether there are any; each picks a row's numbers out of an entry: (recorded, slots) -> one a slot
    """

    entries: Sequence[Tensor]
    tokens: Callable[[Tensor, range], Tensor] | None = None
    order: Callable[[Tensor, range], Tensor] | None = None
    num_used: int = field(default=0)

    def numbers(self, slots: range, num_ids: int | None) -> tuple[Tensor, Tensor]:
        nothing = torch.zeros(len(slots))
        of_tokens = nothing if self.tokens is None else self.tokens(self.next(), slots)
        return of_tokens, nothing if self.order is None else self.order(self.next(), slots)

    def integers(self, count: int, below: int) -> Tensor:
        drawn = self.next().flatten()
        assert len(drawn) == count
        assert int(drawn.max()) < below
        return drawn

    def next(self) -> Tensor:
        self.num_used += 1
        return self.entries[self.num_used - 1]


def typed(numbers: Tensor) -> list[float]:
    """The shortest decimals that float32 numbers may have been written as."""
    return [float(str(x)) for x in numbers.float().numpy()]


def row_of(tokens: Tensor, positions: Tensor, ids: IdRange, *, attend: Tensor | None = None) -> Canvas:
    attend = torch.ones(len(tokens), dtype=torch.bool) if attend is None else attend.bool()
    return Canvas(tokens, attend, (Field(positions, ids, len(positions)),))


def fill(model: Transformer, denoising: Denoising) -> list[Tensor]:
    """Run to the end; the tokens of the first row before each step."""
    seen = []

    def watched(queries):
        seen.extend(query.tokens[0].clone() for query in queries)
        return TransformerDenoiser(model)(queries)

    for _ in denoise([denoising], watched):
        pass
    return seen


def fill_jointly(model: Transformer, joint: JointDenoising) -> list[Tensor]:
    """Run to the end; the tokens of each row that was evaluated, in the order of the published passes."""
    seen = []

    def watched(queries):
        seen.extend(row.clone() for query in queries for row in query.tokens)
        return TransformerDenoiser(model)(queries)

    for _ in denoise([joint], watched):
        pass
    return seen


def padded_logits(model: Transformer, rows: Sequence[Tensor]) -> Tensor:
    """Rows padded on the right with id 0, which attention sees, as the published code runs them."""
    return model(pad_sequence(list(rows), batch_first=True, padding_value=0)).logits


def small_layout(golden: Recorded) -> VocabLayout:
    """Of the directories with framed answers."""
    same = ("mask", "eos", "newline", "uncondition", "answer_start", "answer_end")
    return golden.layout(**{name: name for name in same}, soi="boi", eoi="eoi", fill="pad")


def changes(rows: Sequence[Tensor]) -> list[list[int]]:
    """Rows of a trace, each once. A published step with nothing left to commit is a pass that is not made here."""
    listed = [row.tolist() for row in rows]
    return [row for before, row in zip([None, *listed[:-1]], listed, strict=True) if row != before]


@dataclass(frozen=True)
class Pieces:
    """A tokenizer that knows the pieces of one prompt. sentence: ids of any text that is not among them."""

    known: dict[str, list[int]]
    sentence: list[int] = field(default_factory=list)

    @classmethod
    def of_prompt(cls, golden: Recorded) -> Pieces:
        """The recorded prompt, whose words are called "text": what it shares with the one without words stands for everything before."""
        whole, without = golden["prompt.text_ids"].tolist(), golden["prompt.uncond_ids"].tolist()
        at = without.index(golden.ids["uncondition"])
        tail = whole[len(whole) - (len(without) - at - 1) :]
        tags = {"<system>": [], "</system>": [], "<user>": [], "</user>": tail}
        return cls({**tags, "text": whole[at : len(whole) - len(tail)]}, without[:at])

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        return list(self.known.get(text, self.sentence))


def pieces_of(strings: Sequence[str], numbers: dict[str, Tensor]) -> tuple[str, str, Pieces]:
    """Sentence, words, and a tokenizer that knows them, of a recorded layout: strings and what a stand-in tokenizer made of them."""
    match = re.fullmatch(r"<system>(.*)</system><user>(.*)</user>", strings[0])
    assert match is not None
    ids = numbers["text0_ids"].tolist()
    opened, closed = 901, 902  # the stand-in's </system> and <user>
    middle = ids.index(opened)
    assert ids[middle + 1] == closed
    known = {
        "<system>": ids[:1],
        match[1]: ids[1:middle],
        "</system>": [opened],
        "<user>": [closed],
        match[2]: ids[middle + 2 : -1],
        "</user>": ids[-1:],
    }
    return match[1], match[2], Pieces(known)


def image_grids(ids: list[int], layout: VocabLayout) -> Iterator[tuple[int, int]]:
    """(rows, columns) of each image in a row."""
    while layout.soi_id in ids:
        start, stop = ids.index(layout.soi_id), ids.index(layout.eoi_id)
        height = ids[start:stop].count(layout.newline_id)
        yield height, (stop - start - 1) // height - 1
        ids = ids[stop + 1 :]
