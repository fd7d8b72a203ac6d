"""Text tokenizers: building small ones, and refusing those that do not belong to a model.

The image codes start right behind the text ids, so a tokenizer with one entry more or less would shift every image code.
`check` compares a tokenizer with the layout of the model before anything is encoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mmada.canvas import SPECIAL_STRINGS, Message, VocabLayout
from mmada.errors import MissingDependencyError, TokenizerError
from mmada.families import Family
from mmada.families.chat_template import template_ids
from mmada.families.mmada import MMADA
from mmada.hub.text_tokenizer import TextTokenizer

__all__ = ["byte_level", "check", "load"]

# Words with the space before them, runs of other signs up to a tag of thinking, and spaces: the pattern of GPT-2.
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?(?:(?!</?think>)[^\s\p{L}\p{N}])+|\s+(?!\S)|\s+"


def byte_level(
    corpus: Iterable[str] = (), *, num_merges: int = 0, split_digits: bool = True, special: Iterable[str] = tuple(SPECIAL_STRINGS.values())
) -> TextTokenizer:
    """A byte-level BPE tokenizer: 256 bytes, at most `num_merges` merges learned from `corpus`, and the special tokens behind them.

    It can encode any text. `split_digits` keeps every digit a token of its own, which arithmetic wants; the space before a number goes
    with its first digit. The tags of thinking are never joined with what stands beside them, and may become one token each.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    alone = r"</?think>| ?\d" if split_digits else r"</?think>"
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(f"{alone}|{_WORDS}"), "isolated"), words])
    core.decoder = decoders.ByteLevel()
    if num_merges:
        trainer = trainers.BpeTrainer(vocab_size=256 + num_merges, initial_alphabet=alphabet, show_progress=False)
        core.train_from_iterator(corpus, trainer)
    core.add_special_tokens(special := list(special))
    named = {f"{name}_token": SPECIAL_STRINGS[name] for name in ("bos", "eos", "mask") if SPECIAL_STRINGS[name] in special}
    config = {
        **named,
        **({"pad_token": named["eos_token"]} if "eos_token" in named else {}),
        "backend": "tokenizers",
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(1e30),  # no limit: as transformers writes it
        "tokenizer_class": "TokenizersBackend",
    }
    return TextTokenizer(core, config)


def check(tokenizer: TextTokenizer, layout: VocabLayout, family: Family = MMADA) -> None:
    """Raise TokenizerError unless the tokenizer has exactly the layout's text ids and the family's named tokens where the layout says.

    A tokenizer may also name the image codes.
    """
    if len(tokenizer) not in (layout.image_offset, layout.image_offset + layout.codebook_size):
        raise TokenizerError(
            f"the tokenizer has {len(tokenizer)} entries, the model's image codes start at {layout.image_offset}: every image code would be "
            "shifted; use the tokenizer that was saved with the model, and add no tokens to it"
        )
    found = {name: tokenizer.token_to_id(string) for name, string in family.strings.items()}
    wrong = [f"{family.strings[name]} is {i}, not {layout.special(name)}" for name, i in found.items() if i != layout.special(name)]
    wrong += [f"{tag} is no token" for tag in family.tags if tokenizer.token_to_id(tag) is None]
    if wrong:
        raise TokenizerError(f"the tokenizer is not the model's: {'; '.join(wrong)}; use the tokenizer that was saved with the model")


def load(directory: str | os.PathLike[str], layout: VocabLayout, family: Family = MMADA) -> TextTokenizer:
    """The tokenizer of a checkpoint directory, checked. Raises TokenizerError if there is none, or it does not fit."""
    if not any((Path(directory) / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise TokenizerError(f"{directory} has no tokenizer.json; copy the tokenizer files of the model into it")
    try:
        tokenizer = TextTokenizer.read(directory)
    except MissingDependencyError:
        raise
    except Exception as error:  # the library has no error of its own: a damaged file is a bare Exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TokenizerError(f"the tokenizer in {directory} cannot be read ({reason}); copy its files again") from error
    check(tokenizer, layout, family)
    if family.has_known_chat:
        _check_template(tokenizer, layout, family)
    return tokenizer


def _check_template(tokenizer: TextTokenizer, layout: VocabLayout, family: Family) -> None:
    """Raise TokenizerError if the files' own chat template, where there is one, lays a question out in another way."""
    if tokenizer.template is None:
        return
    asked = [Message("user", "What is this?")]
    own, theirs = family.prompts(layout, tokenizer).dialogue(asked), template_ids(tokenizer, asked)
    if own != theirs:
        raise TokenizerError(
            f"the chat template of these files reads {tokenizer.decode(theirs)!r}, that of {family.title} {tokenizer.decode(own)!r}; "
            "use the files that were published together, or remove the template"
        )
