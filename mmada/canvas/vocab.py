"""One vocabulary for text and images, as id ranges.

    0 ............ image_offset-1     image_offset ... image_offset+codebook_size-1     ... vocab_size-1
    text and special tokens           image codes: id = image_offset + code             unused rows

The special tokens (mask, begin, end, start of image, task tokens, chat headers) lie among the text ids. Every id that the
package uses comes from a `VocabLayout`; it is stored with a model, never read off a tokenizer's length.
Published ids: reference model Gen-Verse/MMaDA-8B, see docs/parity.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

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
    """Where each kind of token lies in the vocabulary. All fields but the sizes are token ids.

    Raises InputError if ids overlap, leave their range, or are given twice.
    """

    vocab_size: int
    """rows of the embedding and of the head"""
    image_offset: int
    """id of image code 0; also the number of entries of the text tokenizer"""
    codebook_size: int
    """number of image codes"""
    mask_id: int
    """`[MASK]`, for text and images"""
    bos_id: int
    eos_id: int
    """ends an answer and fills the rest of its room"""
    pad_id: int
    """left padding of text-to-image rows ([iPAD])"""
    soi_id: int
    eoi_id: int
    t2i_id: int
    """task token: text to image"""
    mmu_id: int
    """task token: image understanding"""
    r2i_id: int
    """task token: reason, then image"""
    start_header_id: int
    end_header_id: int
    eot_id: int
    """ends a turn of a conversation"""

    def __post_init__(self) -> None:
        if self.codebook_size < 1 or self.image_offset < 1:
            raise InputError(f"image_offset={self.image_offset} and codebook_size={self.codebook_size} must be positive")
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
        """Name without `_id` -> id, for every special token."""
        return {f.name.removesuffix("_id"): getattr(self, f.name) for f in fields(self) if f.name.endswith("_id")}

    @property
    def text_ids(self) -> IdRange:
        """What a text answer may contain: text and end of answer or turn, no other special token, no image code."""
        stays = {self.eos_id, self.eot_id}
        return IdRange(0, self.image_offset, tuple(sorted(set(self.special_ids.values()) - stays)))

    @property
    def image_ids(self) -> IdRange:
        """What an image position may contain: image codes."""
        return IdRange(self.image_offset, self.image_offset + self.codebook_size)

    @property
    def any_ids(self) -> IdRange:
        """Every row of the head, `[MASK]` included: the published text sampler, for parity only."""
        return IdRange(0, self.vocab_size)

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def compact(cls, num_text: int, codebook_size: int, *, multiple_of: int = 64) -> VocabLayout:
        """A layout for a tokenizer of `num_text` entries: text, the special tokens in the order of SPECIAL_STRINGS, image codes,
        and unused rows up to a multiple of `multiple_of`."""
        offset = num_text + len(SPECIAL_STRINGS)
        used = offset + codebook_size
        return cls(
            vocab_size=-(-used // multiple_of) * multiple_of,
            image_offset=offset,
            codebook_size=codebook_size,
            **{f"{name}_id": num_text + i for i, name in enumerate(SPECIAL_STRINGS)},
        )

    @classmethod
    def from_dict(cls, values: dict[str, int]) -> VocabLayout:
        """The layout that `to_dict` wrote. Raises InputError on unknown or missing names."""
        known = {f.name for f in fields(cls)}
        unknown, missing = sorted(set(values) - known), sorted(known - set(values))
        if unknown:
            raise InputError(f"unknown vocabulary field {unknown[0]!r}: {suggest(unknown[0], known)}")
        if missing:
            raise InputError(f"vocabulary layout lacks {', '.join(missing)}; write all of {', '.join(sorted(known))}")
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
