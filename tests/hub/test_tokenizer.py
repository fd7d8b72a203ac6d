import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mmada.canvas import PUBLISHED, SPECIAL_STRINGS, VocabLayout
from mmada.errors import TokenizerError
from mmada.hub.text_tokenizer import TextTokenizer
from mmada.hub.tokenizer import byte_level, check, load

BYTES = byte_level()
CORPUS = ["the cat sat on the mat, the cat sat on the hat\n"] * 20
MERGED = byte_level(CORPUS, num_merges=12)
LAYOUT = VocabLayout.compact(256, 16)

few = settings(derandomize=True, deadline=None)


def encode(tokenizer, text):
    return tokenizer.encode(text)


@few
@example("naïve 日本語 😀\u200d\r\n\x00\t  end")
@example("<|eot_id|>[iPAD]<|mdm_mask|>")
@given(st.text())
def test_any_text_survives_the_round_trip(text):
    for tokenizer in (BYTES, MERGED):
        assert tokenizer.decode(encode(tokenizer, text)) == text


@few
@given(st.text())
def test_without_merges_there_is_one_token_a_byte(text):
    assert len(encode(BYTES, text)) == len(text.encode())


def test_merges_shorten_the_text_they_were_learnt_from():
    assert len(MERGED) == 256 + 12 + 12
    assert len(encode(MERGED, CORPUS[0])) < len(CORPUS[0]) // 2


def test_digits_stay_tokens_of_their_own():
    corpus = ["x 1234 1234 1234"] * 50
    split, joined = (byte_level(corpus, num_merges=20, split_digits=flag) for flag in (True, False))
    digits = [split.token_to_id(c) for c in "1234"]
    assert encode(split, "1234") == digits
    assert encode(split, "x12y34")[1:3] == digits[:2]
    assert len(encode(joined, "1234")) < 4


def test_a_number_takes_the_space_before_it_along():
    tokenizer = byte_level(["3 + 12 = 15; 15 - 7 = 8"] * 50, num_merges=60)
    assert [tokenizer.id_to_token(i) for i in encode(tokenizer, "12 = 15")] == ["1", "2", "Ġ=", "Ġ1", "5"]


def test_a_tag_of_thinking_is_one_token_whatever_stands_beside_it():
    tokenizer = byte_level(["<think> a dog</think> yes"] * 50, num_merges=100)
    opened, closed = (encode(tokenizer, tag) for tag in ("<think>", "</think>"))
    assert len(opened) == len(closed) == 1
    for text in ("<think>x.</think>", "x<think>7</think>!", "? <think> a</think></think>"):
        assert set(opened + closed) <= set(encode(tokenizer, text))
        assert tokenizer.decode(encode(tokenizer, text)) == text


@pytest.mark.parametrize("tokenizer", [BYTES, MERGED], ids=["bytes", "merged"])
def test_special_tokens_lie_behind_the_text(tokenizer):
    layout = VocabLayout.compact(len(tokenizer) - 12, 16)
    check(tokenizer, layout)
    for name, string in SPECIAL_STRINGS.items():
        assert tokenizer.token_to_id(string) == layout.special_ids[name]
    fast = tokenizer.to_transformers()
    assert (fast.bos_token_id, fast.eos_token_id) == (layout.bos_id, layout.eos_id)
    assert (fast.mask_token_id, fast.pad_token_id) == (layout.mask_id, layout.eos_id)


@pytest.mark.parametrize("num_text", [255, 257])
def test_one_entry_too_few_or_too_many_is_refused(num_text):
    layout = VocabLayout.compact(num_text, 16)
    with pytest.raises(TokenizerError, match=f"has 268 entries, the model's image codes start at {num_text + 12}: every image code would"):
        check(BYTES, layout)


def test_an_added_token_is_refused():
    tokenizer = byte_level()
    tokenizer.core.add_tokens(["<new>"])
    with pytest.raises(TokenizerError, match="has 269 entries"):
        check(tokenizer, LAYOUT)


def test_every_shifted_special_token_is_listed():
    values = LAYOUT.to_dict()
    values["mask_id"], values["eot_id"] = values["eot_id"], values["mask_id"]
    with pytest.raises(TokenizerError) as error:
        check(BYTES, VocabLayout.from_dict(values))
    assert "<|mdm_mask|> is 258, not 261; <|eot_id|> is 261, not 258" in str(error.value)
    assert "<|startoftext|>" not in str(error.value)


def test_a_missing_special_token_is_refused():
    tokenizer = byte_level()
    core = json.loads(tokenizer.core.to_str())
    for token in core["added_tokens"]:
        token["content"] = token["content"].replace("<|eot_id|>", "<|other|>")
    tokenizer = TextTokenizer(Tokenizer.from_str(json.dumps(core)), tokenizer.config)
    assert len(tokenizer) == 268
    with pytest.raises(TokenizerError, match=r"<\|eot_id\|> is (None|\d+), not 261"):
        check(tokenizer, LAYOUT)


def test_load_gives_back_the_saved_tokenizer(tmp_path):
    MERGED.save_pretrained(tmp_path)
    loaded = load(tmp_path, VocabLayout.compact(268, 16))
    text = "the cat 42<|eot_id|> sat"
    assert encode(loaded, text) == encode(MERGED, text)
    assert loaded.decode(encode(loaded, text)) == text


def test_load_refuses_a_directory_without_a_tokenizer(tmp_path):
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json; copy the tokenizer files"):
        load(tmp_path, LAYOUT)


@pytest.mark.parametrize("half_written", ["{", "", "[]", '{"version": "1.0"}', "no model", "no pre-tokenizer"])
def test_load_refuses_a_damaged_file(tmp_path, half_written):
    BYTES.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    parts = json.loads(file.read_text())
    if half_written == "no model":
        half_written = json.dumps({**parts, "model": {}})
    if half_written == "no pre-tokenizer":
        half_written = json.dumps({**parts, "pre_tokenizer": {"type": "Nope"}})
    file.write_text(half_written)
    with pytest.raises(TokenizerError, match=r"cannot be read \(.+\); copy its files again") as error:
        load(tmp_path, LAYOUT)
    assert "\n" not in str(error.value)


def test_load_refuses_the_tokenizer_of_another_model(tmp_path):
    BYTES.save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="has 268 entries, the model's image codes start at 126349"):
        load(tmp_path, PUBLISHED)
