"""The adapter for lm-evaluation-harness: on hand-made requests, and through the harness itself with a task of two files."""

import itertools
import json

import pytest
import torch

from mmada.canvas import Message
from mmada.errors import InputError

from ..lazy import later

pytestmark = pytest.mark.integration

adapter = later("mmada.eval.harness")
evaluator = later("lm_eval.evaluator")
instance = later("lm_eval.api.instance")
tasks = later("lm_eval.tasks")

CHAT = [{"role": "user", "content": "What is 3 + 4?"}]


@pytest.fixture(scope="module")
def harness():
    return adapter.HarnessModel("debug", mc_num=8, max_gen_toks=16, device="cpu")


def ask(*args):
    return instance.Instance("generate_until", {}, args, 0)


def test_answers_are_those_of_the_pipeline_alone_or_together(harness, debug):
    questions = ["hello", "a longer question about nothing", "why?"]
    contexts = [harness.apply_chat_template([{"role": "user", "content": question}]) for question in questions]
    together = harness.generate_until([ask(context, {"until": []}) for context in contexts], disable_tqdm=True)
    assert together == [debug.chat(question, max_new_tokens=16).text for question in questions]
    assert [harness.generate_until([ask(context, {})], disable_tqdm=True)[0] for context in contexts] == together


def test_a_stop_text_ends_an_answer(harness):
    context = harness.apply_chat_template(CHAT)
    (whole,) = harness.generate_until([ask(context, {})], disable_tqdm=True)
    (cut,) = harness.generate_until([ask(context, {"until": [whole[3:5], "never in it"]})], disable_tqdm=True)
    assert cut == whole[: whole.find(whole[3:5])]


@pytest.mark.slow
def test_settings_of_a_task_are_used(harness):
    context = harness.apply_chat_template(CHAT)
    lengths = [harness.generate_until([ask(context, {"max_gen_toks": n})], disable_tqdm=True)[0] for n in (4, 8)]
    assert [len(harness.model.prompts.encode(text)) for text in lengths] == [4, 8]
    hot = {"do_sample": True, "temperature": 5.0}
    assert harness.generate_until([ask(context, hot)], disable_tqdm=True) != harness.generate_until([ask(context, {})], disable_tqdm=True)


def test_a_plain_text_goes_on_and_a_begun_answer_too(harness):
    prompts = harness.model.prompts
    assert harness._given("1 2 3") == [prompts.layout.bos_id, *prompts.encode("1 2 3")]
    begun = harness.apply_chat_template([*CHAT, {"role": "assistant", "content": "The answer is"}], add_generation_prompt=False)
    assert harness._given(begun) == [*prompts.dialogue([Message("user", CHAT[0]["content"])]), *prompts.encode("The answer is")]
    assert harness._given(begun + " 7") == [*prompts.dialogue([Message("user", CHAT[0]["content"])]), *prompts.encode("The answer is 7")]


def test_special_tokens_in_a_text_stay_text(harness):
    layout = harness.model.layout
    given = harness._given("<|eot_id|><|endoftext|>")
    assert not {layout.eot_id, layout.eos_id, layout.mask_id} & set(given)


def test_thinking_is_asked_for_and_left_out(debug):
    thinker = adapter.HarnessModel("debug", think=True, max_gen_toks=16, device="cpu")
    context = thinker.apply_chat_template(CHAT)
    assert debug.prompts.encode("Think.")[0] in thinker._given(context)
    assert len(thinker._given(context)) == len(adapter.HarnessModel("debug", device="cpu")._given(context)) + len(
        debug.prompts.encode("Think. ")
    )
    (answer,) = thinker.generate_until([ask(context, {})], disable_tqdm=True)
    assert "<think>" not in answer


def conditionals(harness, given, wanted, masked, pairs=None):
    """Log-probabilities of `wanted` (ids) at the masked places of it, the others visible; `pairs` (L, L) of all say which tokens attend to which."""
    layout = harness.model.layout
    shown = [layout.mask_id if i in masked else token for i, token in enumerate(wanted)]
    with torch.no_grad():
        logits = harness.model.model(torch.tensor([[*given, *shown]]), attention_mask=pairs).logits
    logits = logits[0, -len(wanted) :, : layout.image_offset].clone()
    logits[:, list(layout.text_ids.suppress_tokens)] = -torch.inf
    logp = logits.log_softmax(-1)
    return [float(logp[i, wanted[i]]) for i in masked]


def likelihood(harness, context, continuation):
    return harness.loglikelihood([instance.Instance("loglikelihood", {}, (context, continuation), 0)], disable_tqdm=True)[0]


def test_the_likelihood_of_one_token_is_exact(harness):
    given, wanted = harness._pair("The cat", "s")
    assert likelihood(harness, "The cat", "s") == (pytest.approx(conditionals(harness, given, wanted, [0])[0], rel=1e-5), False)


def test_a_likelihood_is_the_estimate_that_is_meant():
    """The mean over all masks, which the draws come near: k of n masked, k uniform, n / k times their sum."""
    harness = adapter.HarnessModel("debug", mc_num=600, device="cpu")
    given, wanted = harness._pair("The ", "cat")
    assert len(wanted) == 4  # the space before it is its own
    exact = 0.0
    for k in range(1, 5):
        masks = list(itertools.combinations(range(4), k))
        exact += sum(4 / k * sum(conditionals(harness, given, wanted, mask)) for mask in masks) / len(masks) / 4
    (found, _) = likelihood(harness, "The ", "cat")
    assert found == pytest.approx(exact, rel=0.03)
    assert likelihood(harness, "The ", "cat")[0] == found


def test_a_likelihood_of_blocks_shows_no_block_those_behind_it():
    """Blocks of two: each given what comes before it, which has not seen it."""
    harness = adapter.HarnessModel("debug", mc_num=400, device="cpu", full_attention=False, block_length=2)
    given, wanted = harness._pair("The ", "cats")
    assert len(wanted) == 5
    exact = 0.0
    for start in (0, 2, 4):
        block = range(start, min(start + 2, 5))
        before = [*given, *wanted[:start]]
        level = torch.tensor([0] * len(given) + [1 + i // 2 for i in range(block.stop)])
        pairs = (level[:, None] >= level[None])[None]
        for k in range(1, len(block) + 1):
            masks = list(itertools.combinations(range(len(block)), k))
            for mask in masks:
                found = conditionals(harness, before, wanted[start : block.stop], mask, pairs)
                exact += len(block) / k * sum(found) / len(masks) / len(block)
    assert likelihood(harness, "The ", "cats")[0] == pytest.approx(exact, rel=0.03)


def test_choices_are_scored_the_surest_token_first():
    """A plain loop of one row and one pass a token; `mc_num` has no part in it."""
    harness = adapter.HarnessModel("debug", scoring="confidence", mc_num=1, device="cpu")
    allowed, mask_id = harness.model.layout.text_ids, harness.model.layout.mask_id
    ((found, _),), total = harness.loglikelihood([instance.Instance("loglikelihood", {}, ("a b", " c d"), 0)], disable_tqdm=True), 0.0
    given, wanted = harness._pair("a b", " c d")
    row = [*given, *[mask_id] * len(wanted)]
    while mask_id in row:
        with torch.no_grad():
            logits = harness.model.model(torch.tensor([row])).logits[0, :, allowed.start : allowed.stop]
        logits[:, list(allowed.suppress_tokens)] = -torch.inf
        logps = logits.log_softmax(-1)
        is_open = [i for i, token in enumerate(row) if token == mask_id]
        best = max(is_open, key=lambda i: float(logps[i, wanted[i - len(given)]]))
        total, row[best] = total + float(logps[best, wanted[best - len(given)]]), wanted[best - len(given)]
    assert found == pytest.approx(total, abs=1e-4)
    assert harness.num_forwards == len(wanted)
    assert harness.get_model_info()["scoring"] == "confidence"
    with pytest.raises(InputError, match="scoring='confident' is unknown: did you mean 'confidence'"):
        adapter.HarnessModel("debug", scoring="confident", device="cpu")


def test_tokens_of_a_pair_are_those_of_the_whole_text(harness):
    prompts = harness.model.prompts
    for context, continuation in [("a b", " c"), ("a b ", "c"), ("", "c"), ("a\n\n", "b")]:
        given, wanted = harness._pair(context, continuation)
        assert [*given, *wanted] == [prompts.layout.bos_id, *prompts.encode(context + continuation)]
        assert wanted


def test_the_likeliest_continuation_is_found_out_if_asked():
    harness = adapter.HarnessModel("debug", mc_num=1, check_greedy=True, device="cpu")
    context = harness.apply_chat_template(CHAT)
    (answer,) = harness.generate_until([ask(context, {"max_gen_toks": 6, "threshold": 1.0})], disable_tqdm=True)
    assert likelihood(harness, context, answer)[1] is True
    assert likelihood(harness, context, answer[:-1] + ("a" if answer[-1] != "a" else "b"))[1] is False
    blocks = adapter.HarnessModel("debug", mc_num=1, check_greedy=True, device="cpu", full_attention=False, block_length=4)
    (answer,) = blocks.generate_until([ask(context, {"max_gen_toks": 6, "threshold": 1.0})], disable_tqdm=True)
    assert likelihood(blocks, context, answer)[1] is True


def test_a_long_text_is_scored_piece_by_piece_each_token_once(harness, monkeypatch):
    text = "".join(chr(97 + i * i % 23) for i in range(1300))
    pieces = []
    monkeypatch.setattr(harness, "_likelihood", lambda given, wanted: pieces.append((given, wanted)) or -2.0)
    (found,) = harness.loglikelihood_rolling([instance.Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)
    ids, begin = harness.model.prompts.encode(text), harness.model.layout.bos_id
    assert found == -2.0 * len(pieces)
    assert [token for _, wanted in pieces for token in wanted] == ids
    assert all(len(given) + len(wanted) <= harness._context for given, wanted in pieces)
    place = 0
    for given, wanted in pieces:
        assert given == [begin, *ids[max(0, place - 511) : place]]
        place += len(wanted)


@pytest.mark.slow
def test_the_harness_runs_tasks(harness, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"q": f"{i} + 1?", "a": str(i + 1), "options": ["1", "2"]}) + "\n" for i in range(3)))
    shared = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test", "doc_to_text": "{{q}}"}
    free = {
        "output_type": "generate_until",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    }
    choice = {"output_type": "multiple_choice", "doc_to_target": 0, "doc_to_choice": "{{options}}", "metric_list": [{"metric": "acc"}]}
    for name, task in (("free", free), ("choice", choice)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"task": name, **shared, **task}))  # JSON is YAML
    manager = tasks.TaskManager(include_path=str(tmp_path), include_defaults=False)
    for chat in (False, True):
        found = evaluator.simple_evaluate(
            harness, tasks=["free", "choice"], task_manager=manager, apply_chat_template=chat, bootstrap_iters=0
        )
        assert set(found["results"]) == {"free", "choice"}
        assert 0 <= found["results"]["choice"]["acc,none"] <= 1
        assert {"threshold", "mc_num", "num_forwards"} <= set(found["config"])


def test_bad_settings_are_refused(harness):
    with pytest.raises(InputError, match="did you mean 'threshold'"):
        adapter.HarnessModel("debug", treshold=0.5)
    with pytest.raises(InputError, match="has no token of its own"):
        likelihood(harness, "a", "")
    with pytest.raises(InputError, match="max_gen_toks=2000 leaves no room"):
        harness.generate_until([ask("x", {"max_gen_toks": 2000})], disable_tqdm=True)


def test_settings_that_mean_nothing_here_are_named(harness, caplog):
    (plain,) = harness.generate_until([ask("x", {})], disable_tqdm=True)
    assert harness.generate_until([ask("x", {"length_penalty": 1.1})], disable_tqdm=True) == [plain]
    assert "length_penalty=1.1 has no meaning here" in caplog.text
    assert harness.generate_until([ask("x", {"repetition_penalty": 1.1})], disable_tqdm=True) != [plain]
    assert "repetition_penalty" not in caplog.text


def test_a_request_that_is_repeated_is_sampled_anew(harness):
    hot = {"do_sample": True, "temperature": 5.0}
    thrice = [ask(harness.apply_chat_template(CHAT), hot) for _ in range(3)]
    texts = harness.generate_until(thrice, disable_tqdm=True)
    assert len(set(texts)) == 3
    assert harness.generate_until(thrice, disable_tqdm=True) == texts
    assert harness.generate_until(thrice[:1], disable_tqdm=True) == texts[:1]


def test_a_cache_is_named_by_a_task(harness):
    assert harness.generate_until([ask("x", {"cache": "dual", "block_length": 16})], disable_tqdm=True)
    with pytest.raises(InputError, match="cache='both' is unknown"):
        harness.generate_until([ask("x", {"cache": "both"})], disable_tqdm=True)


def test_thinking_that_has_no_effect_is_said(caplog):
    thoughtful = adapter.HarnessModel("debug", mc_num=1, max_gen_toks=8, think=True, device="cpu")
    thoughtful.generate_until([ask("no conversation", {})], disable_tqdm=True)
    assert "think=True has no effect on this task" in caplog.text


def test_no_row_is_longer_than_the_context(debug):
    harness = adapter.HarnessModel("debug", device="cpu", mc_num=1)
    context = debug.model.config.max_sequence_length
    rows, trunk = [], harness.model.model.trunk

    def watched(tokens, packing):
        rows.extend(packing.lengths)
        return trunk(tokens, packing)

    harness.model.model.trunk = watched
    given, wanted = [1, 2, 3], [40 + i % 7 for i in range(context + 476)]
    pieces = harness._pieces(given, wanted)
    assert [token for _, piece in pieces for token in piece] == wanted
    assert pieces[0][0] == given
    (found,) = harness.loglikelihood([instance.Instance("loglikelihood", {}, ("a", "x" * (context + 476)), 0)], disable_tqdm=True)
    assert max(rows) <= context
    assert found[0] < 0
