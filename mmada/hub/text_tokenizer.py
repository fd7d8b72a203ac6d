"""A text tokenizer as the `tokenizers` library runs it: the ids and strings of transformers' fast tokenizer, without transformers.

    tokenizer.json          the algorithm, its vocabulary and added tokens
    tokenizer_config.json   named special tokens, further added tokens, whether decoded text is tidied
    chat_template.jinja     for other tools (hub/chat_template.py), and for families that have no other layout (families/chat_template.py)

A directory whose tokenizer_config.json names a class of its own (LlamaTokenizer, ...) is read by transformers, once, and is afterwards the
same object. What is written here is read by AutoTokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from mmada.errors import MissingDependencyError
from mmada.hub import checkpoint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["NAMED", "TextTokenizer"]

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that tokenizer_config.json names."""

_OF_QWEN = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "DreamTokenizer")
"""Values of tokenizer_class whose files may be vocab.json and merges.txt alone: published ones of models that were made of Qwen."""

_PLAIN_CLASSES = (None, "TokenizersBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizer", *_OF_QWEN)
"""Values of tokenizer_class that add nothing to tokenizer.json."""

_WORDS_OF_QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Qwen2's pattern: endings of contractions, words with one sign before them, single digits, other signs, line ends, spaces."""

_ABOUT_CALLS = ("model_max_length", "model_input_names", "padding_side", "truncation_side")
"""Of tokenizer_config.json, what transformers' tokenizers do when they are called."""

_FILE, _CONFIG, _TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
_VOCABULARY, _MERGES = "vocab.json", "merges.txt"
_TIDIED = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
"""What is tidied in decoded text, in this order, where tokenizer_config.json asks for it; never of byte-pair tokenizers."""


class TextTokenizer:
    """Text <-> ids.

    core      the tokenizer of the `tokenizers` library
    config    tokenizer_config.json
    template  chat_template.jinja
    """

    def __init__(self, core: Tokenizer, config: Mapping[str, Any], *, template: str | None = None) -> None:
        self.core, self.config, self.template = core, dict(config), template
        core.no_truncation()
        core.no_padding()
        self._lock = Lock()  # whether special tokens are taken apart is a state of the core: threads must not come between
        tidies = bool(self.config.get("clean_up_tokenization_spaces", False))
        corrupts = bool(self.config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False))
        self._tidies = tidies and (corrupts or type(core.model).__name__ != "BPE")

    @classmethod
    def read(cls, directory: str | PathLike[str]) -> TextTokenizer:
        """The tokenizer of a directory. Raises whatever a damaged file provokes: the library has no error of its own."""
        path = Path(directory)
        file = path / _CONFIG
        config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if not isinstance(config, dict):
            raise ValueError(f"{_CONFIG} is not a JSON object")
        kind, has_file = config.get("tokenizer_class"), (path / _FILE).exists()
        in_two_files = not has_file and kind in _OF_QWEN and (path / _VOCABULARY).exists()
        if kind not in _PLAIN_CLASSES or not (has_file or in_two_files):
            return cls._through_transformers(path)
        from tokenizers import Tokenizer

        core = _of_qwen(path) if in_two_files else Tokenizer.from_str((path / _FILE).read_text(encoding="utf-8"))
        _add_tokens(core, config)
        template, named = path / _TEMPLATE, config.get("chat_template")
        found = template.read_text(encoding="utf-8") if template.exists() else named if isinstance(named, str) else None
        return cls(core, config, template=found)

    @classmethod
    def _through_transformers(cls, path: Path) -> TextTokenizer:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise MissingDependencyError(
                f"the tokenizer in {path} is of a class that only transformers knows; pip install 'mmada[transformers]'"
            ) from error
        return cls.of(AutoTokenizer.from_pretrained(path, trust_remote_code=False))

    @classmethod
    def of(cls, fast: Any) -> TextTokenizer:
        """A fast tokenizer of transformers, which shares its core. Raises AttributeError for a slow one."""
        config: dict[str, Any] = {name: str(token) for name in NAMED if (token := getattr(fast, name, None)) is not None}
        config |= {
            "backend": "tokenizers",
            "clean_up_tokenization_spaces": fast.clean_up_tokenization_spaces,
            "model_max_length": fast.model_max_length,
            "tokenizer_class": "TokenizersBackend",
        }
        template = fast.chat_template if isinstance(fast.chat_template, str) else None
        return cls(fast.backend_tokenizer, config, template=template)

    def for_model(self, template: str | None, *, context: int) -> TextTokenizer:
        """The same as it is saved with a model: its chat template, and what other tools are told about a call.

        template  None: the one that it has
        context  most tokens of a row
        """
        about = {"model_max_length": context, "model_input_names": ["input_ids", "attention_mask"]}
        config = {name: value for name, value in self.config.items() if name != "chat_template" or template is None}
        return TextTokenizer(self.core, config | about, template=self.template if template is None else template)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    def to_transformers(self) -> Any:
        """The same as a `PreTrainedTokenizerFast`, with a core of its own."""
        from transformers import PreTrainedTokenizerFast

        passed = (*NAMED, *_ABOUT_CALLS, "clean_up_tokenization_spaces", "chat_template")
        values = {name: _content(value) for name, value in self.config.items() if name in passed}
        values |= {} if self.template is None else {"chat_template": self.template}
        return PreTrainedTokenizerFast(tokenizer_object=self.core, **values)

    def save_pretrained(self, directory: str | PathLike[str], **changes: Any) -> None:
        """Write what `read` and AutoTokenizer take. changes: of tokenizer_config.json. Raises InputError if it cannot be written."""
        path = Path(directory)
        self.core.encode_special_tokens = False
        with checkpoint.writing(path):
            (path / _FILE).write_text(self.core.to_str(pretty=True), encoding="utf-8")
            text = json.dumps(self.config | changes, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
            (path / _CONFIG).write_text(text, encoding="utf-8")
            if self.template is not None:
                (path / _TEMPLATE).write_text(self.template, encoding="utf-8")

    def __len__(self) -> int:
        """Entries, added tokens included."""
        return int(self.core.get_vocab_size(with_added_tokens=True))

    @property
    def special_strings(self) -> tuple[str, ...]:
        """Strings that are one token each, whatever stands beside them."""
        return tuple(token.content for token in self.core.get_added_tokens_decoder().values() if token.special)

    def get_vocab(self) -> dict[str, int]:
        """Entry -> id, added tokens included."""
        return dict(self.core.get_vocab(with_added_tokens=True))

    def token_to_id(self, token: str) -> int | None:
        """The id of an entry, None if there is none."""
        found: int | None = self.core.token_to_id(token)
        return found

    def id_to_token(self, index: int) -> str | None:
        """The entry of an id, None if there is none."""
        found: str | None = self.core.id_to_token(index)
        return found

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """Ids of a text; no begin or end is added. special_tokens: strings such as <|eot_id|> become the one token of that name."""
        with self._lock:
            self.core.encode_special_tokens = not special_tokens
            return list(self.core.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ids; bytes that make no character become U+FFFD."""
        text = str(self.core.decode(list(ids), skip_special_tokens=skip_special_tokens))
        return _tidy(text) if self._tidies else text


def _of_qwen(path: Path) -> Tokenizer:
    """Byte-level BPE of vocab.json and merges.txt, as Qwen2's tokenizer of transformers builds it."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    core = Tokenizer(models.BPE.from_file(str(path / _VOCABULARY), str(path / _MERGES)))
    core.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(_WORDS_OF_QWEN), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    return core


def _add_tokens(core: Tokenizer, config: Mapping[str, Any]) -> None:
    """Give the core what tokenizer_config.json has beyond tokenizer.json, in transformers' order."""
    from tokenizers import AddedToken

    known = {repr(token) for token in core.get_added_tokens_decoder().values()}
    more: list[AddedToken] = []
    for _, value in sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0])):
        token = AddedToken(**{name: part for name, part in value.items() if name != "__type"})
        more += [token] if repr(token) not in known else []
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    named = [config[name] for name in NAMED if config.get(name) is not None]
    strings = {token.content for token in core.get_added_tokens_decoder().values()} | {token.content for token in more}
    for value in [*named, *(extra.values() if isinstance(extra, dict) else extra)]:
        if _content(value) not in strings:
            strings.add(_content(value))
            flags = {k: v for k, v in value.items() if k not in ("__type", "content", "special")} if isinstance(value, dict) else {}
            more.append(AddedToken(_content(value), special=True, **flags))
    if more:
        core.add_tokens(more)


def _content(value: Any) -> Any:
    """A token's string, of which tokenizer_config.json may make an object."""
    return value["content"] if isinstance(value, dict) else value


def _tidy(text: str) -> str:
    for before, after in _TIDIED:
        text = text.replace(before, after)
    return text
