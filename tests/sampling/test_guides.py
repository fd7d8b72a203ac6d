"""Guides: what somebody knows of a text for certain is written, and the model goes on from there."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmada.errors import InputError
from mmada.sampling import CacheConfig, Denoising, SamplingParams, denoise

from .toy_denoiser import CODES, EOS, MASK, Toy, canvas, run

BLOCKS = SamplingParams(threshold=0.9, block_length=3)
ROW = [1, 2, *[MASK] * 12]


def start(guide, params=BLOCKS, row=ROW, **more):
    return Denoising([canvas(row)], params, mask_id=MASK, guides=[guide], record=True, **more)


def knows(known):
    """A guide whose text begins with `known`."""

    def guide(ids):
        agrees = next((i for i, (a, b) in enumerate(zip(ids, known, strict=False)) if a != b), min(len(ids), len(known)))
        return [*ids[:agrees], *known[agrees:]] if agrees < len(known) else None

    return guide


def test_what_is_known_is_written_and_the_model_goes_on_from_there():
    alone = run(start(None)).token_ids(0).tolist()
    known = [*alone[:4], *((token + 1) % 10 for token in alone[4:8])]
    toy, guided = Toy(), start(knows(known))
    for _ in denoise([guided], toy):
        pass
    assert guided.token_ids(0).tolist()[:8] == known
    assert MASK not in guided.token_ids(0).tolist()
    # What follows is what the model says behind the known text.
    behind = run(Denoising([canvas([1, 2, *known[:6], *[MASK] * 6])], BLOCKS, mask_id=MASK, guides=[knows(known[6:])]))
    assert guided.token_ids(0)[6:].tolist() == behind.token_ids(0).tolist()


def test_the_model_is_not_asked_about_what_is_known():
    alone = run(start(None))
    known = alone.token_ids(0).tolist()[:9]
    guided = run(start(knows(known)))
    assert guided.token_ids(0).tolist() == alone.token_ids(0).tolist()
    assert guided.num_forwards[0] < alone.num_forwards[0]
    slots = [slot for step in guided.trace for slot in step.slots]
    assert sorted(slots) == list(range(12))


def test_a_guide_that_has_nothing_to_say_changes_nothing():
    asked = []
    silent = run(start(lambda ids: asked.append(list(ids))))
    assert silent.trace == run(start(None)).trace
    whole = silent.token_ids(0).tolist()
    assert asked == [whole[:stop] for stop in (3, 6, 9, 12)]
    assert run(start(lambda ids: [*ids])).trace == silent.trace


def test_a_shorter_text_leaves_the_rest_of_its_block_open():
    alone = run(start(None)).token_ids(0).tolist()
    other = (alone[0] + 1) % 10
    calls = []

    def guide(ids):
        calls.append(list(ids))
        return [other] if ids[0] != other else None

    guided = run(start(guide))
    assert guided.token_ids(0)[0] == other
    assert calls[0] == alone[:3]
    assert (calls[1][0], len(calls[1])) == (other, 3)


def test_an_end_token_that_came_too_early_is_taken_back():
    def ends_at_once(tokens):
        logits = torch.zeros(len(tokens), 24)
        logits[:, 5] = 1.0
        logits[3:5, EOS] = 9.0  # slots 1 and 2
        return logits

    early = run(start(None, eos_id=EOS), ends_at_once)
    assert early.token_ids(0).tolist() == [5, *[EOS] * 11]
    late = run(start(knows([5, 6, 7, 8]), eos_id=EOS), ends_at_once)
    assert late.token_ids(0).tolist() == [5, 6, 7, 8, *[5] * 8]
    assert late.finish_reasons == ["length"]


def test_nothing_of_a_block_is_final_before_its_guide_was_asked():
    alone = run(start(None)).token_ids(0).tolist()
    guided, sent = start(knows([*alone[:2], (alone[2] + 1) % 10])), []
    for _ in denoise([guided], Toy()):
        final = guided.token_ids(0)[: guided.num_final(0)].tolist()
        assert final[: len(sent)] == sent
        sent = final
    assert sent == guided.token_ids(0).tolist()


def test_a_guide_that_disagrees_with_a_finished_block_is_not_followed():
    alone = run(start(None)).token_ids(0).tolist()
    late = run(start(lambda ids: [(ids[0] + 1) % 10, *ids[1:]] if len(ids) > 3 else None))
    assert late.token_ids(0).tolist() == alone


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=14), st.integers(1, 5), st.booleans())
def test_any_known_text_is_written_in_any_blocks(known, block_length, full_attention):
    params = SamplingParams(threshold=0.6, block_length=block_length, full_attention=full_attention)
    guided = run(start(knows(known), params))
    assert guided.token_ids(0).tolist()[: len(known)] == known[:12]
    assert sorted({slot for step in guided.trace for slot in step.slots}) == list(range(12))


def test_rows_have_guides_of_their_own():
    params = BLOCKS.with_(full_attention=False)
    one, two = [8] * 7, [9] * 2
    rows = [canvas(ROW), canvas([3, *ROW]), canvas(ROW)]
    together = run(Denoising(rows, params, mask_id=MASK, guides=[knows(one), knows(two), None], seeds=[1, 2, 3]))
    for i, (row, guide) in enumerate(zip(rows, [knows(one), knows(two), None], strict=True)):
        alone = run(Denoising([row], params, mask_id=MASK, guides=[guide], seeds=[i + 1]))
        assert together.token_ids(i).tolist() == alone.token_ids(0).tolist()
        assert together.num_forwards[i] == alone.num_forwards[0]


def test_what_was_written_unseen_is_evaluated_with_the_next_block():
    """Without full attention a cache is exact, so keys of text that no pass has seen must not be missed."""
    params = SamplingParams(steps=4, block_length=2, full_attention=False, cache=CacheConfig())
    toy, row = Toy(), canvas([1, 2, *[MASK] * 8])
    denoising = Denoising([row], params, mask_id=MASK, guides=[knows([3, 4, 5, 6, 7])])
    for _ in denoise([denoising], toy):
        pass
    assert [query.windows[0] for (query,) in toy.queries] == [(0, 4), (2, 8), (6, 10)]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (SamplingParams(threshold=0.9), "guides= need a text that is written block by block"),
        (SamplingParams(steps=4, block_length=3, propose_any=True), "guides= need a text that is written block by block"),
    ],
)
def test_what_cannot_be_guided_is_refused(params, message):
    with pytest.raises(InputError, match=message):
        start(knows([1]), params)


def test_ids_that_the_field_does_not_allow_are_refused():
    with pytest.raises(InputError, match=r"a guide wrote \[16\]"):
        run(start(lambda ids: [*ids, CODES.start]))
