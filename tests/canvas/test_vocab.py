import pytest

from mmada.canvas import PUBLISHED, SPECIAL_STRINGS, IdRange, VocabLayout
from mmada.errors import InputError

NEEDED = ["vocab_size", "image_offset", "codebook_size", "mask_id", "eos_id"]


def changed(layout=PUBLISHED, **values):
    return VocabLayout.from_dict({**layout.to_dict(), **values})


def test_published_ids():
    assert PUBLISHED.to_dict() == {
        "vocab_size": 134656,
        "image_offset": 126349,
        "codebook_size": 8192,
        "mask_id": 126336,
        "bos_id": 126080,
        "eos_id": 126081,
        "pad_id": 126093,
        "soi_id": 126084,
        "eoi_id": 126085,
        "t2i_id": 126088,
        "mmu_id": 126089,
        "r2i_id": 126094,
        "start_header_id": 126346,
        "end_header_id": 126347,
        "eot_id": 126348,
    }
    image = PUBLISHED.image_ids
    assert (image.start, image.stop - 1) == (126349, 134540)
    assert PUBLISHED.vocab_size - image.stop == 115  # rows that nothing uses


def test_text_ids_leave_out_what_an_answer_may_not_contain():
    text = PUBLISHED.text_ids
    assert PUBLISHED.eos_id in text
    assert PUBLISHED.eot_id in text
    refused = {name for name, i in PUBLISHED.special_ids.items() if i not in text}
    assert refused == set(SPECIAL_STRINGS) - {"eos", "eot"}
    assert 0 in text
    assert 126349 not in text
    assert 134540 not in text
    assert len(text) == 126349 - 10


def test_image_ids_are_the_codes_and_any_ids_are_every_row():
    layout = VocabLayout.compact(256, 16)
    assert [i in layout.image_ids for i in (267, 268, 283, 284)] == [False, True, True, False]
    assert (layout.any_ids.start, layout.any_ids.stop, layout.any_ids.suppress_tokens) == (0, layout.vocab_size, ())
    assert layout.mask_id in layout.any_ids


def test_id_range_membership_and_length():
    ids = IdRange(10, 15, (11, 13))
    assert [i for i in range(20) if i in ids] == [10, 12, 14]
    assert len(ids) == 3


@pytest.mark.parametrize(("start", "stop"), [(5, 5), (5, 4), (-1, 3)])
def test_an_empty_range_is_refused(start, stop):
    with pytest.raises(InputError, match=f"start={start}, stop={stop} is empty"):
        IdRange(start, stop)


@pytest.mark.parametrize("suppress_tokens", [(9,), (15,), (10, 99)])
def test_never_must_lie_inside_the_range(suppress_tokens):
    with pytest.raises(InputError, match=r"never=.* lies outside the range 10\.\.14"):
        IdRange(10, 15, suppress_tokens)


@pytest.mark.parametrize("name", SPECIAL_STRINGS)
def test_a_special_id_may_not_repeat_another_or_be_an_image_code(name):
    other = "eos_id" if name != "eos" else "bos_id"
    with pytest.raises(InputError, match="must differ from each other"):
        changed(**{f"{name}_id": getattr(PUBLISHED, other)})
    for value in (PUBLISHED.image_offset, PUBLISHED.vocab_size, -1):
        with pytest.raises(InputError, match=f"{{'{name}': {value}}} must be text ids below image_offset=126349"):
            changed(**{f"{name}_id": value})


def test_image_codes_must_fit_the_vocabulary():
    assert changed(vocab_size=134541).image_ids.stop == 134541
    with pytest.raises(
        InputError, match=r"image codes 126349\.\.134540 leave the vocabulary of vocab_size=134540; make it at least 134541"
    ):
        changed(vocab_size=134540)


@pytest.mark.parametrize("name", ["image_offset", "codebook_size"])
@pytest.mark.parametrize("value", [0, -3])
def test_sizes_must_be_positive(name, value):
    with pytest.raises(InputError, match=f"{name}={value}.* must be positive"):
        changed(**{name: value})


@pytest.mark.parametrize(
    ("num_text", "codebook_size", "multiple_of", "vocab_size"), [(256, 16, 64, 320), (256, 52, 64, 320), (30, 5, 1, 47)]
)
def test_compact_layout(num_text, codebook_size, multiple_of, vocab_size):
    layout = VocabLayout.compact(num_text, codebook_size, multiple_of=multiple_of)
    assert layout.vocab_size == vocab_size
    assert layout.image_offset == num_text + 12
    assert layout.image_ids.stop <= vocab_size
    assert layout.special_ids == {name: num_text + i for i, name in enumerate(SPECIAL_STRINGS)}


def test_every_special_id_has_a_string():
    assert set(PUBLISHED.special_ids) == set(SPECIAL_STRINGS)


@pytest.mark.parametrize("layout", [PUBLISHED, VocabLayout.compact(300, 64)])
def test_to_dict_and_from_dict_are_inverse(layout):
    assert VocabLayout.from_dict(layout.to_dict()) == layout


def test_a_misspelt_field_is_named_with_the_nearest_one():
    values = PUBLISHED.to_dict()
    values["maskid"] = values.pop("mask_id")
    with pytest.raises(InputError, match=r"unknown vocabulary field 'maskid': did you mean 'mask_id'\?"):
        VocabLayout.from_dict(values)


@pytest.mark.parametrize("name", [*NEEDED, "soi_id", "eoi_id"])
def test_a_missing_field_is_named(name):
    values = PUBLISHED.to_dict()
    del values[name]
    with pytest.raises(InputError, match=f"vocabulary layout lacks {name}; "):
        VocabLayout.from_dict(values)


TEXT_ONLY = VocabLayout(vocab_size=264, image_offset=260, codebook_size=0, mask_id=5, eos_id=2)


def test_a_vocabulary_may_have_no_images():
    assert VocabLayout.from_dict(TEXT_ONLY.to_dict()) == TEXT_ONLY
    assert TEXT_ONLY.to_dict() == {"vocab_size": 264, "image_offset": 260, "codebook_size": 0, "mask_id": 5, "eos_id": 2}
    assert [i in TEXT_ONLY.text_ids for i in (0, 2, 5, 259, 260)] == [True, True, False, True, False]
    with pytest.raises(InputError, match="has no image codes; use a model that"):
        _ = TEXT_ONLY.image_ids
    with pytest.raises(InputError, match="has no 't2i' token, which the request needs; its special tokens are mask, eos"):
        TEXT_ONLY.special("t2i")
    with pytest.raises(InputError, match="image_offset=260 and codebook_size=0 must be positive"):
        changed(TEXT_ONLY, soi_id=7, eoi_id=8)


def test_what_ends_a_text_may_stand_in_an_answer():
    layout = changed(TEXT_ONLY, answer_start_id=7, answer_end_id=8, fill_id=9, newline_id=10)
    assert layout.end_ids == (2, 8, 9)
    assert [i in layout.text_ids for i in (7, 8, 9, 10)] == [False, True, True, False]
    assert PUBLISHED.end_ids == (PUBLISHED.eos_id, PUBLISHED.eot_id)
