"""Rollouts: reproducible alone and together, recorded, and taken apart."""

from dataclasses import replace

import pytest
import torch

from mmada.errors import InputError
from mmada.generation.requests import ChatRequest, DrawRequest
from mmada.model import TransformerDenoiser
from mmada.rl.prompts import RecordPrompts, WorldPrompts
from mmada.rl.records import Prompt
from mmada.rl.rollout import Decoding, roll_out
from mmada.worlds.shapes import Shapes

from . import tiny


@pytest.fixture(scope="module")
def model():
    return tiny.pipeline()


def ask(model, prompts, *, num=3, seed=0, decoding=None, **changes):
    decoding = decoding or Decoding(max_new_tokens=16, guidance_scale=0.0)
    return roll_out(prompts, model.planner, TransformerDenoiser(model.model), decoding, num=num, seed=seed, **changes)


def prompt(request, task="text", index=0):
    return Prompt(task=task, index=index, request=request)


def tokens(rollouts):
    return [[part.canvas.tokens.tolist() for part in r.parts] for r in rollouts]


def test_decoding_sets_the_room_of_thoughts_before_a_drawing_too(model):
    asked = [prompt(DrawRequest("c", think=True), "reason_draw"), prompt(ChatRequest("abc", think=True), index=1)]
    for room in (8, 24):
        for rollout in ask(model, asked, num=1, decoding=Decoding(max_new_tokens=room)):
            assert rollout.sample.room == len(rollout.parts[0].field.positions) == room


def test_a_rollout_is_the_same_alone_and_in_any_batch(model):
    prompts = [prompt(ChatRequest("abc")), prompt(DrawRequest("b"), "draw", 1), prompt(DrawRequest("c", think=True), "reason_draw", 2)]
    together = ask(model, prompts)
    assert [r.sample.prompt.index for r in together] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    alone = [rollout for one in prompts for rollout in ask(model, [one])]
    assert tokens(together) == tokens(alone)
    assert tokens(ask(model, prompts[:1], num=2)) == tokens(together[:2])
    assert tokens(ask(model, prompts[:1], seed=1)) != tokens(together[:3])
    assert len({str(t) for t in tokens(together)}) == 9  # temperature 1: all differ


def test_temperature_zero_repeats_itself(model):
    greedy = ask(model, [prompt(ChatRequest("abc"))], decoding=Decoding(max_new_tokens=16, temperature=0.0))
    assert len({str(t) for t in tokens(greedy)}) == 1


def test_parts_say_how_they_were_filled(model):
    (text,) = ask(model, [prompt(ChatRequest("abc"))], num=1, record=True)
    (part,) = text.parts
    ids = part.canvas.tokens[part.field.positions]
    assert (part.is_image, part.block_length, part.sees_ahead, part.temperature) == (False, 8, False, 1.0)
    assert model.layout.mask_id not in ids.tolist()
    ends = [i for i, value in enumerate(ids.tolist()) if value in (model.layout.eos_id, model.layout.eot_id)]
    assert part.num_tokens == text.sample.num_tokens == (ends[0] + 1 if ends else 16)
    assert text.sample.has_ended == bool(ends)
    assert text.sample.text == model.prompts.decode(ids)
    assert bool((part.steps[: part.num_tokens] >= 0).all())
    first, second = part.steps[:8], part.steps[8:]
    assert int(second[second >= 0].min() if bool((second >= 0).any()) else 99) > int(first.max())  # block after block
    both = ask(model, [prompt(DrawRequest("c", think=True), "reason_draw")], num=1, record=True)[0]
    thought, image = both.parts
    assert (thought.is_image, image.is_image) == (False, True)
    assert image.num_tokens == len(image.field.positions) == 64
    assert image.field.ids == model.layout.image_ids
    assert sorted(set(image.steps.tolist())) == [0, 1, 2, 3]
    assert both.sample.image.size == (32, 32)
    assert both.sample.num_tokens == thought.num_tokens
    assert ask(model, [prompt(DrawRequest("c"), "draw")], num=1)[0].parts[0].steps is None


def test_decoding_rules_reach_the_sampler(model):
    decoding = Decoding(max_new_tokens=16, block_length=4, steps=8, threshold=1.0, temperature=0.7)
    part = ask(model, [prompt(ChatRequest("a"))], num=1, record=True, decoding=decoding)[0].parts[0]
    assert (part.block_length, part.temperature) == (4, 0.7)
    counts = torch.bincount(part.steps[part.steps >= 0])
    assert set(counts.tolist()) <= {1, 2}
    with pytest.raises(InputError, match=r"decoding.temperature=-1"):
        Decoding(temperature=-1.0)
    with pytest.raises(InputError, match="context"):
        ask(model, [prompt(ChatRequest("a"))], decoding=Decoding(max_new_tokens=5000))


def test_processes_that_wait_for_each_other_evaluate_one_token_meanwhile(model):
    """What others still have to do is answered by `agree`; results do not change."""
    asked = []

    def agree(has_work):
        asked.append(has_work)
        return has_work or len(asked) in (3, 9)  # another process is busy then

    found = ask(model, [prompt(ChatRequest("abc"))], agree=agree)
    assert tokens(found) == tokens(ask(model, [prompt(ChatRequest("abc"))]))
    calls = []

    def denoiser(queries):
        calls.append(sum(len(q.spans) for q in queries))
        return TransformerDenoiser(model.model)(queries)

    turns = iter([True, True, True, False, False])
    assert roll_out([], model.planner, denoiser, Decoding(), num=2, seed=0, agree=lambda _: next(turns)) == []
    assert calls == [1, 1]


def shapes(task, **settings):
    return WorldPrompts(Shapes(), task, **settings)


def test_prompts_of_a_world_depend_on_their_index_alone():
    many = shapes("understand", seed=0, think=0.5).take(range(20))
    again = shapes("understand", seed=0, think=0.5).take([7])
    assert (again[0].text, again[0].request.think) == (many[7].text, many[7].request.think)
    assert {p.request.think for p in many} == {True, False}
    assert all(p.reference == p.origin and len(p.request.images) == 1 for p in many)
    assert {p.text for p in shapes("understand", seed=0, kinds=("color", "shape")).take(range(20))} == {
        "what color is it?",
        "what shape is it?",
    }
    train, test = ({p.text for p in shapes("draw", seed=1, split=split).take(range(400))} for split in ("train", "test"))
    assert (len(train), len(test), train & test) == (40, 8, set())
    assert all(p.request.size == (32, 32) and not p.request.think for p in shapes("draw", seed=0).take(range(3)))
    assert all(p.request.think for p in shapes("reason_draw", seed=0, think=0.0).take(range(3)))
    with pytest.raises(InputError, match=r"kind='count' is none of task text"):
        shapes("text", seed=0, kinds=("count",))
    with pytest.raises(InputError, match=r"world 'shapes' has no task 'dance'"):
        shapes("dance", seed=0)


def test_records_are_prompts_with_a_reference(tmp_path):
    from mmada.data import Epochs, JsonlReader

    file = tmp_path / "prompts.jsonl"
    line = '{"task": "text", "messages": [{"role": "user", "content": "2 + %d?"}], "answer": {"text": "%d"}}\n'
    file.write_text("".join(line % (i, 2 + i) for i in range(4)))
    source = RecordPrompts(Epochs(JsonlReader(str(file)), seed=0), seed=0)
    found = source.take(range(8))
    assert sorted(p.reference for p in found) == ["2", "2", "3", "3", "4", "4", "5", "5"]
    assert all(int(p.text.split()[-1].rstrip("?")) + 2 == int(p.reference) and p.request.think for p in found)
    assert not RecordPrompts(Epochs(JsonlReader(str(file))), seed=0, think=0.0).take([0])[0].request.think
    assert replace(found[0], index=9).index == 9
