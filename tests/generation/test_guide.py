"""The calculator: what a world knows of a thought, written by the sampler; and who asks for it."""

from dataclasses import replace

import pytest

from mmada.canvas import Message
from mmada.errors import InputError
from mmada.generation.engine import Engine
from mmada.generation.guide import guide_of
from mmada.generation.programs import program_of
from mmada.generation.requests import ChatRequest
from mmada.pipeline import MMaDA
from mmada.sampling import infill

PROBLEM = "what is 71 - 34?"
RIGHT = "71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 37"


@pytest.fixture(scope="module")
def chat():
    return MMaDA.from_pretrained("mmada-emoji-chat", device="cpu")


def test_an_answer_says_that_a_picture_is_asked_for(chat):
    wanted, greeting = chat.run([ChatRequest("draw a cat"), ChatRequest("hello")])
    assert (wanted.thinking, wanted.wants_picture, greeting.wants_picture) == ("picture wanted", True, False)
    assert not chat.use(picture_thought="").chat("draw a cat").wants_picture


def test_a_thought_is_completed_in_fewer_passes(chat):
    with_it, without = chat.run([ChatRequest(PROBLEM), ChatRequest(PROBLEM, calculator=False)])
    assert (with_it.thinking, with_it.text) == (RIGHT, "37")
    assert with_it.num_forwards < without.num_forwards
    assert chat.chat(PROBLEM, calculator=False).text == without.text


def test_alone_or_among_others_and_with_any_cache(chat):
    requests = [ChatRequest(PROBLEM), ChatRequest("hello"), ChatRequest("what is 44 / 4?"), ChatRequest("is 52 more than 29?")]
    together = chat.run(requests)
    assert [answer.token_ids for answer in together] == [chat.run([request])[0].token_ids for request in requests]
    plain = chat.planner.text_params().with_(cache=None)
    assert [a.token_ids for a in chat.run([replace(request, params=plain) for request in requests])] == [a.token_ids for a in together]
    assert [answer.text for answer in together[2:]] == ["11", "yes"]


def test_what_a_stream_has_sent_stays(chat):
    engine = Engine(chat.denoiser, chat.planner.layout)
    state, sent = engine.add(program_of(ChatRequest(PROBLEM), chat.planner)), []
    while not state.done:
        engine.step()
        final = state.sequence.ids[: state.sequence.num_final].tolist()
        assert final[: len(sent)] == sent
        sent = final
    assert chat.prompts.decode(sent) == f"<think> {RIGHT}</think> 37"


def test_who_does_not_think_needs_no_calculator(chat):
    quick = ChatRequest(PROBLEM, think=False)
    assert chat.planner.guide(quick, chat.planner.text_params()) is None
    assert chat.planner.guide(ChatRequest(PROBLEM), infill()) is None
    assert chat.planner.guide(ChatRequest(PROBLEM, calculator=False), chat.planner.text_params()) is None


def test_a_checkpoint_without_a_world_has_none(debug):
    assert debug.planner.guide(ChatRequest("hello", think=True), debug.planner.text_params()) is None
    with pytest.raises(InputError, match="calculator=True needs a checkpoint with a world"):
        debug.chat("hello", think=True, calculator=True)


def ids_of(chat, text):
    return chat.prompts.encode(text)


def test_only_what_changes_is_written_anew(chat):
    guide = guide_of(chat.prompts, lambda thought, closed: (thought.replace("b", "c") + "!", None))
    written = ids_of(chat, "<think> a b")
    new = guide(written)
    assert new is not None
    assert chat.prompts.decode(new) == "<think> a c!"
    assert new[:2] == written[:2]
    assert guide(ids_of(chat, "no thought")) is None


def test_a_thought_that_ends_has_its_answer_and_nothing_behind(chat):
    guide, end = guide_of(chat.prompts, lambda thought, closed: ("a", "c")), chat.planner.layout.eos_id
    whole = ids_of(chat, "<think> a</think> c")
    for written in ("<think> a b</think> d", "<think> a", "<think> a</think> c and more", "<think> a</think> c"):
        assert guide(ids_of(chat, written)) == [*whole, end]
    assert guide([*whole, end]) is None


def test_numbers_beyond_those_of_training_are_worked_out(chat):
    asked = {
        "What is 99 + 99?": "198",
        "what is 3 - 9?": "-6",
        "what is 7 / 2": "3 1/2",
        "what's 9 divided by 0": "Nothing can be divided by 0.",
    }
    answers = chat.run([ChatRequest(prompt) for prompt in asked])
    assert [(answer.text, answer.finish_reason) for answer in answers] == [(said, "stop") for said in asked.values()]


def test_a_turn_may_hold_what_looks_like_a_thought(chat):
    """Only what the model writes is looked at."""
    turns = [Message("user", "2 + 2: 5"), Message("assistant", "<think> 9 - 9: 3</think> 3"), Message("user", PROBLEM)]
    assert chat.chat(turns).thinking == RIGHT
