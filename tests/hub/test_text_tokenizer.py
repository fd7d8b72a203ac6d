"""The same ids and strings as transformers' fast tokenizer, for every text and every built-in checkpoint."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mmada.canvas import SPECIAL_STRINGS
from mmada.hub import checkpoint
from mmada.hub.family import token_ids_of
from mmada.hub.text_tokenizer import TextTokenizer
from mmada.hub.tokenizer import byte_level

from ..lazy import later

transformers = later("transformers")

NAMES = ["bytes", "merges", "mmada-emoji-base", "mmada-emoji-chat", "mmada-emoji-max", "mmada-emoji-mixcot"]
CORPUS = ["<think> the cat sat</think> on 12 mats, didn't it ? \n"] * 20
PIECES = st.sampled_from([*SPECIAL_STRINGS.values(), "<think>", "</think>", "<eot_id>", " .", " n't", "  ", "\n", "\u200d", "12", " the"])
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=8).map("".join)


def directory(name, tmp_path_factory) -> Path:
    if name in ("bytes", "merges"):
        path = tmp_path_factory.mktemp(name)
        byte_level(CORPUS, num_merges=12 if name == "merges" else 0).save_pretrained(path)
        return path
    return checkpoint.find(name)


@pytest.fixture(scope="module", params=NAMES)
def pair(request, tmp_path_factory):
    """(ours, transformers')"""
    path = directory(request.param, tmp_path_factory)
    return TextTokenizer.read(path), transformers.AutoTokenizer.from_pretrained(path)


@settings(derandomize=True, deadline=None)
@example("naïve 日本語 😀\u200d\r\n\x00\t  end<|eot_id|>[iPAD]<|mdm_mask|>")
@example("")
@given(TEXTS)
def test_any_text_has_the_same_ids_and_comes_back_alike(pair, text):
    ours, theirs = pair
    for special in (False, True, False):
        ids = ours.encode(text, special_tokens=special)
        assert ids == theirs(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


@settings(derandomize=True, deadline=None)
@given(st.data())
def test_any_ids_have_the_same_text(pair, data):
    ours, theirs = pair
    ids = data.draw(st.lists(st.integers(0, len(ours) - 1), max_size=20))
    for skip in (False, True):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_the_entries_are_the_same(pair):
    ours, theirs = pair
    assert (len(ours), ours.get_vocab()) == (len(theirs), theirs.get_vocab())
    assert all(ours.id_to_token(ours.token_to_id(token)) == token for token in SPECIAL_STRINGS.values())
    assert ours.token_to_id("no such entry") is None


def test_what_is_saved_is_read_by_both(pair, tmp_path):
    ours, theirs = pair
    ours.save_pretrained(tmp_path)
    text = "the cat 42<|eot_id|> sat"
    for again in (TextTokenizer.read(tmp_path), TextTokenizer.of(transformers.AutoTokenizer.from_pretrained(tmp_path))):
        assert again.encode(text, special_tokens=True) == theirs(text, add_special_tokens=False)["input_ids"]
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (fast.bos_token_id, fast.eos_token_id, fast.mask_token_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.mask_token_id)


WORDS = ["hello", "world", ".", "?", "n't", "'s", "I", "did", "[UNK]"]


@pytest.mark.parametrize("kind", ["words", "byte pairs"])
@pytest.mark.parametrize("tidy", [True, False])
def test_decoded_text_is_tidied_where_transformers_tidies_it(tmp_path, kind, tidy):
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "byte pairs":
        core = Tokenizer(models.BPE({word: i for i, word in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    TextTokenizer(core, {"clean_up_tokenization_spaces": tidy}).save_pretrained(tmp_path)
    ours, theirs = TextTokenizer.read(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = ours.encode("hello world . I did n't ?")
    assert ours.decode(ids) == theirs.decode(ids)
    assert (" ." in ours.decode(ids)) == (not tidy or kind == "byte pairs")


def test_tokens_of_the_configuration_are_added_as_transformers_adds_them(tmp_path):
    byte_level().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    more = {"extra_special_tokens": ["<image>"], "unk_token": {"content": "<unk>", "lstrip": True, "__type": "AddedToken"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    ours, theirs = TextTokenizer.read(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (len(ours), ours.get_vocab()) == (len(theirs), theirs.get_vocab())
    for text in ("a <image> b", "x  <unk> y<image>"):
        assert ours.encode(text, special_tokens=True) == theirs(text, add_special_tokens=False)["input_ids"]


def test_a_class_of_its_own_is_read_through_transformers(tmp_path):
    byte_level(CORPUS, num_merges=12).save_pretrained(tmp_path, tokenizer_class="GPT2Tokenizer")
    ours, theirs = TextTokenizer.read(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the cat 12", "a<|eot_id|>b"):
        assert ours.encode(text, special_tokens=True) == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.config["tokenizer_class"] == "TokenizersBackend"


@settings(derandomize=True, deadline=None, max_examples=30)
@example("naïve 日本語 😀\u200d\r\n\x00\t  end<|im_end|>\n\n12 DON'T")
@example("e\u0301 \u0041\u030a")
@given(
    st.lists(
        st.one_of(st.sampled_from(["<|im_end|>", "<|mask|>", " the", "\n\n", "don't", "  ", "42"]), st.text(max_size=12)), max_size=8
    ).map("".join)
)
def test_two_files_of_qwen_are_read_without_transformers(tmp_path_factory, text):
    """vocab.json and merges.txt beside a tokenizer_class that is code of the hub, as Dream publishes them."""
    path = tmp_path_factory.getbasetemp() / "two-files"
    if not path.exists():
        path.mkdir()
        core = byte_level(CORPUS, num_merges=20, special=()).core
        core.model.save(str(path))
        added = {"content": "", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
        names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>")
        more = {str(core.get_vocab_size() + i): {**added, "content": name} for i, name in enumerate(names)}
        config = {"tokenizer_class": "DreamTokenizer", "added_tokens_decoder": more, "eos_token": "<|endoftext|>", "mask_token": "<|mask|>"}
        (path / "tokenizer_config.json").write_text(json.dumps({**config, "auto_map": {"AutoTokenizer": ["x.DreamTokenizer", None]}}))
    ours, text_ids = TextTokenizer.read(path), json.loads((path / "vocab.json").read_text())
    merges = [tuple(line.split()) for line in (path / "merges.txt").read_text().splitlines()[1:]]
    theirs = transformers.Qwen2Tokenizer(vocab=text_ids, merges=merges)
    theirs.add_tokens([transformers.AddedToken(name, special=True, normalized=False) for name in ours.special_strings])
    assert token_ids_of(path) == ours.get_vocab()
    for special in (False, True):
        ids = ours.encode(text, special_tokens=special)
        assert ids == theirs(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
        assert ours.decode(ids) == theirs.decode(ids)
