"""A checkpoint's lexicon: what of a prompt is not known, what is nearest, and how it is kept in a file."""

import pytest

from mmada.errors import CheckpointError
from mmada.generation.lexicon import LEXICON_NAME, Lexicon

LEXICON = Lexicon(("dog", "dogs", "airplane"), ("a", "and", "red car", "the animal that barks"), {"zeppelin": ("airplane",), "rain": ()})


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("A Dog and 2 dogs!", ()),
        ("a red car", ()),
        ("a red dog", ("red",)),
        ("a flying zeppelin, a dog, a zeppelin", ("flying zeppelin", "zeppelin")),
        ("the animal that barks", ()),
        ("the animal", ("the animal",)),
        ("a ... ?", ()),
    ],
)
def test_what_is_unknown(text, unknown):
    assert LEXICON.unknown(text) == unknown


def test_nearest_by_meaning_then_by_spelling():
    assert LEXICON.nearest(("old zeppelins",)) == ("airplane",)
    assert LEXICON.nearest(("doog",)) == ("dog",)
    assert LEXICON.nearest(("rain", "xyz")) == ()
    assert LEXICON.sentence(("zeppelin",)) == "I cannot draw: zeppelin. Nearest that I know: airplane."
    assert LEXICON.sentence(("rain",)) == "I cannot draw: rain."


def test_what_a_rule_read_otherwise():
    assert LEXICON.respelled("an airplene and a dogg", "an airplane and a dog") == (("airplene", "airplane"), ("dogg", "dog"))
    assert LEXICON.respelled("an airplane for my wife, a zeppelin", "an airplane") == ()
    assert LEXICON.respelled("a dog", "one red dog") == ()


def test_words_of_a_finetuning_run_are_known_and_no_rule_reads_them(tmp_path):
    assert LEXICON.new_words("Two Florbs, a dog and 3 zeppelins!") == {"two", "florbs", "zeppelins"}
    taught = Lexicon(LEXICON.things, LEXICON.words, taught={"flora": 9, "dog": 9}).with_own({"florb", "two"})
    assert taught.unknown("two florb, a dog, a zeppelin") == ("zeppelin",)
    assert taught.speller.read("a florb") == ("a florb", ())
    assert taught.speller.read("a florz")[0] != "a florb"  # nothing is read as what is the user's own
    assert (taught.is_own("A florb."), taught.is_own("a dog"), LEXICON.is_own("a florb")) == (True, False, False)
    taught.save(tmp_path)
    assert Lexicon.load(tmp_path) == taught


def test_a_color_that_records_name_leaves_other_prompts_to_the_rules():
    phrases = [f"red {thing}" for thing in ("car", "book", "rose", "phone", "guitar", "apple", "heart", "circle", "square", "chili")]
    known = Lexicon(("dog",), ("a", "flag of peru", *phrases))
    taught = known.with_own(known.new_words("a red flag"))
    assert (taught.own, taught.unknown("a red flag")) == (("flag", "red"), ())
    assert [taught.is_own(text) for text in ("a red flag", "a flag", "a red car", "a red dog")] == [True, True, False, False]


def test_files(tmp_path):
    assert Lexicon.load(tmp_path) is None
    LEXICON.save(tmp_path)
    assert Lexicon.load(tmp_path) == LEXICON
    (tmp_path / LEXICON_NAME).write_text('{"things": 3}')
    with pytest.raises(CheckpointError, match="is no lexicon"):
        Lexicon.load(tmp_path)
