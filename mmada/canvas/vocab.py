"""One vocabulary for text and images, as id ranges.

    0 ............ image_offset-1     image_offset ... image_offset+codebook_size-1     ... vocab_size-1
    text and special tokens           image codes: id = image_offset + code             unused rows

The special tokens (mask, begin, end, start of image, task tokens, chat headers) lie among the text ids. Every id that the
package uses comes from a `VocabLayout`; it is stored with a model, never read off a tokenizer's length.
Each family has one (families/); `PUBLISHED` is that of Gen-Verse/MMaDA-8B, see docs/parity.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields

from mmada.errors import InputError, suggest

__all__ = ["PUBLISHED", "SPECIAL_STRINGS", "IdRange", "VocabLayout"]

# How the special tokens are written. The published tokenizer knows the first six; the others are numbers to it, and their
# strings in a prompt are ordinary text.
SPECIAL_STRINGS = {
    "bos": "<|startoftext|>",
    "eos": "<|endoftext|>",
    "mask": "<|mdm_mask|>",
    "start_header": "<|start_header_id|>",
    "end_header": "<|end_header_id|>",
    "eot": "<|eot_id|>",
    "pad": "[iPAD]",
    "soi": "<|soi|>",
    "eoi": "<|eoi|>",
    "t2i": "<|t2i|>",
    "mmu": "<|mmu|>",
    "r2i": "<|r2i|>",
}


@dataclass(frozen=True, slots=True)
class IdRange:
    """The ids that may be proposed at an open position: start <= id < stop, without those in `suppress_tokens`."""

    start: int
    stop: int
    suppress_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise InputError(f"id range start={self.start}, stop={self.stop} is empty; give 0 <= start < stop")
        outside = [i for i in self.suppress_tokens if not self.start <= i < self.stop]
        if outside:
            raise InputError(f"never={outside} lies outside the range {self.start}..{self.stop - 1}; leave those ids out")

    def __contains__(self, token: int) -> bool:
        return self.start <= token < self.stop and token not in self.suppress_tokens

    def __len__(self) -> int:
        return self.stop - self.start - len(self.suppress_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabLayout:
    """Where each kind of token lies in the vocabulary. All fields but the sizes are token ids; None: the vocabulary has no such token.

    A vocabulary without images has codebook_size=0, no begin and no end of image.
    Raises InputError if ids overlap, leave their range, or are given twice.
    """

    vocab_size: int
    """rows of the embedding and of the head"""
    image_offset: int
    """number of text ids, special tokens included; where there are image codes, also the id of code 0"""
    codebook_size: int
    """number of image codes; 0: none"""
    mask_id: int
    """`[MASK]`, for text and images"""
    bos_id: int | None = None
    eos_id: int
    """ends an answer and fills the rest of its room"""
    pad_id: int | None = None
    """left padding of text-to-image rows ([iPAD])"""
    soi_id: int | None = None
    """begin of image"""
    eoi_id: int | None = None
    """end of image"""
    t2i_id: int | None = None
    """task token: text to image"""
    mmu_id: int | None = None
    """task token: image understanding"""
    r2i_id: int | None = None
    """task token: reason, then image"""
    start_header_id: int | None = None
    end_header_id: int | None = None
    eot_id: int | None = None
    """ends a turn of a conversation"""
    interleave_id: int | None = None
    """task token: text and image in the same passes"""
    newline_id: int | None = None
    """stands after each row of an image"""
    uncondition_id: int | None = None
    """stands for a prompt that is dropped"""
    answer_start_id: int | None = None
    answer_end_id: int | None = None
    fill_id: int | None = None
    """fills the rest of an answer's room behind its end, where that is not `eos_id`"""

    def __post_init__(self) -> None:
        has_images = self.soi_id is not None or self.eoi_id is not None
        if self.image_offset < 1 or self.codebook_size < has_images:
            raise InputError(
                f"image_offset={self.image_offset} and codebook_size={self.codebook_size} must be positive; "
                "a vocabulary without images has codebook_size=0 and neither soi_id nor eoi_id"
            )
        if self.codebook_size and (self.soi_id is None or self.eoi_id is None):
            raise InputError(
                f"vocabulary layout lacks {'soi_id' if self.soi_id is None else 'eoi_id'}; it has {self.codebook_size} image codes"
            )
        if self.image_offset + self.codebook_size > self.vocab_size:
            raise InputError(
                f"image codes {self.image_offset}..{self.image_offset + self.codebook_size - 1} leave the vocabulary of "
                f"vocab_size={self.vocab_size}; make it at least {self.image_offset + self.codebook_size}"
            )
        special = self.special_ids
        outside = {name: i for name, i in special.items() if not 0 <= i < self.image_offset}
        if outside:
            raise InputError(f"special ids {outside} must be text ids below image_offset={self.image_offset}")
        if len(set(special.values())) != len(special):
            raise InputError(f"special ids must differ from each other, got {special}")

    @property
    def special_ids(self) -> dict[str, int]:
        """Name without `_id` -> id, for every special token that there is."""
        found = {f.name.removesuffix("_id"): getattr(self, f.name) for f in fields(self) if f.name.endswith("_id")}
        return {name: i for name, i in found.items() if i is not None}

    def special(self, name: str) -> int:
        """The id of a special token, by its name without `_id`. Raises InputError if the vocabulary has none."""
        found = self.special_ids.get(name)
        if found is None:
            raise InputError(
                f"this vocabulary has no {name!r} token, which the request needs; its special tokens are {', '.join(self.special_ids)}"
            )
        return found

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end a text: of the answer, of the turn, of the answer's frame, and what fills the room behind."""
        return tuple(i for i in (self.eos_id, self.eot_id, self.answer_end_id, self.fill_id) if i is not None)

    @property
    def text_ids(self) -> IdRange:
        """What a text answer may contain: text and what ends it, no other special token, no image code."""
        return IdRange(0, self.image_offset, tuple(sorted(set(self.special_ids.values()) - set(self.end_ids))))

    @property
    def image_ids(self) -> IdRange:
        """What an image position may contain: image codes. Raises InputError if the vocabulary has none."""
        if not self.codebook_size:
            raise InputError("this vocabulary has no image codes; use a model that looks at images or draws")
        return IdRange(self.image_offset, self.image_offset + self.codebook_size)

    @property
    def any_ids(self) -> IdRange:
        """Every row of the head, `[MASK]` included: the published text sampler, for parity only."""
        return IdRange(0, self.vocab_size)

    def to_dict(self) -> dict[str, int]:
        """The fields that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def compact(
        cls, num_text: int, codebook_size: int, *, names: Sequence[str] = tuple(SPECIAL_STRINGS), num_tags: int = 0, multiple_of: int = 64
    ) -> VocabLayout:
        """A layout for a tokenizer of `num_text` entries, special tokens and tags not counted.

        In order: text, the special tokens of `names`, the tags, image codes, and unused rows up to a multiple of `multiple_of`.
        """
        offset = num_text + len(names) + num_tags
        used = offset + codebook_size
        return cls(
            vocab_size=-(-used // multiple_of) * multiple_of,
            image_offset=offset,
            codebook_size=codebook_size,
            **{f"{name}_id": num_text + i for i, name in enumerate(names)},
        )

    @classmethod
    def from_dict(cls, values: dict[str, int]) -> VocabLayout:
        """The layout that `to_dict` wrote. Raises InputError on unknown or missing names."""
        known = {f.name for f in fields(cls)}
        needed = {f.name for f in fields(cls) if f.default is MISSING}
        unknown, missing = sorted(set(values) - known), sorted(needed - set(values))
        if unknown:
            raise InputError(f"unknown vocabulary field {unknown[0]!r}: {suggest(unknown[0], known)}")
        if missing:
            raise InputError(f"vocabulary layout lacks {', '.join(missing)}; write all of {', '.join(sorted(needed))}")
        return cls(**values)


PUBLISHED = VocabLayout(
    vocab_size=134656,
    image_offset=126349,
    codebook_size=8192,
    mask_id=126336,
    bos_id=126080,
    eos_id=126081,
    pad_id=126093,
    soi_id=126084,
    eoi_id=126085,
    t2i_id=126088,
    mmu_id=126089,
    r2i_id=126094,
    start_header_id=126346,
    end_header_id=126347,
    eot_id=126348,
)
"""Gen-Verse/MMaDA-8B-Base and -MixCoT. The offset is the tokenizer's length, not the `llm_vocab_size` 126464 of its config."""
