"""What we wear of transformers' interface we keep: every registered Auto class, from the tokenizer's output to a saved and loaded model.

docs/compatibility.md is the list of what is kept and of what is refused; here it is shown.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from PIL import Image

from mmada import MMaDA
from mmada.canvas import Message, Style, messages_of
from mmada.errors import CheckpointError, InputError, MMaDAError
from mmada.hub import labels as labels_of

from ..lazy import later

AutoConfig = later("transformers", "AutoConfig")
AutoImageProcessor = later("transformers", "AutoImageProcessor")
AutoModel = later("transformers", "AutoModel")
AutoModelForCausalLM = later("transformers", "AutoModelForCausalLM")
AutoModelForMaskedLM = later("transformers", "AutoModelForMaskedLM")
AutoProcessor = later("transformers", "AutoProcessor")
AutoTokenizer = later("transformers", "AutoTokenizer")
DataCollatorForLanguageModeling = later("transformers", "DataCollatorForLanguageModeling")
GenerationConfig = later("transformers", "GenerationConfig")
StopStringCriteria = later("transformers", "StopStringCriteria")
TextStreamer = later("transformers", "TextStreamer")
Trainer = later("transformers", "Trainer")
TrainingArguments = later("transformers", "TrainingArguments")
pipeline = later("transformers", "pipeline")
transformers = later("transformers")
MMadaModelLM = later("mmada.hub.pretrained", "MMadaModelLM")
MaskedDiffusionCollator = later("mmada", "MaskedDiffusionCollator")

TURNS = [{"role": "system", "content": " be  brief\n"}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
TURNS += [{"role": "user", "content": " What is 3 + 4?\n"}]
QUESTION = TURNS[-1:]


@pytest.fixture(scope="module")
def directory(saved_debug):
    return saved_debug


@pytest.fixture(scope="module")
def tokenizer(directory):
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def model(directory):
    """Do not change it; `copy.deepcopy` is a contract, too."""
    return AutoModelForMaskedLM.from_pretrained(directory)


@pytest.fixture
def batch(tokenizer):
    return tokenizer(["What is 3 + 4?", "hi"], padding=True, return_tensors="pt")


@pytest.fixture
def asked(tokenizer):
    return tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=True, return_tensors="pt")


@torch.no_grad()
def test_every_auto_class(directory, model, batch):
    assert type(AutoConfig.from_pretrained(directory)) is type(model.config)
    assert torch.equal(AutoModel.from_pretrained(directory)(**batch).logits, model(**batch).logits)
    made = AutoProcessor.from_pretrained(directory)("hi", images=[Image.new("RGB", (8, 8))])
    assert made["pixel_values"].shape == AutoImageProcessor.from_pretrained(directory)(Image.new("RGB", (8, 8)))["pixel_values"].shape
    assert AutoModel.from_config(model.config).get_output_embeddings().weight.shape == model.head_weight.shape
    assert AutoModel.from_pretrained(directory / "image_tokenizer").encode(made["pixel_values"]).shape == (1, 8, 8)


# Forward.


@torch.no_grad()
def test_what_the_tokenizer_gives_is_taken(model, batch):
    ids, mask = batch["input_ids"], batch["attention_mask"]
    logits = model(**batch).logits
    assert set(batch) == {"input_ids", "attention_mask"}
    assert torch.equal(logits, model(ids, mask.bool()).logits)
    torch.testing.assert_close(logits[1:, :2], model(ids[1:], mask[1:]).logits[:, :2])
    torch.testing.assert_close(logits[1, :2], model(ids[1:, :2]).logits[0], rtol=1e-4, atol=1e-4)  # padding changes nothing
    assert torch.equal(model(ids, torch.ones_like(ids)).logits, model(ids, torch.ones_like(ids).bool()).logits)
    assert torch.equal(model(ids, mask, token_type_ids=torch.zeros_like(ids), cache_position=None).logits, logits)


@torch.no_grad()
def test_positions_are_taken_where_they_say_what_is_computed(model, tokenizer):
    padded = tokenizer(["What is 3 + 4?", "hi"], padding=True, padding_side="left", return_tensors="pt")
    logits, mask = model(**padded).logits, padded["attention_mask"]
    counted = (mask.cumsum(1) - 1).clamp(min=0)  # as transformers' generate counts them
    assert torch.equal(model(**padded, position_ids=counted).logits, logits)
    assert torch.equal(model(**padded, position_ids=torch.arange(mask.shape[1]) + 5).logits, logits)
    for wrong, message in (
        (counted.flip(1), "must count up by one along each row"),
        (counted[:, 1:], r"must have the shape \(B, L\) or \(L,\)"),
    ):
        with pytest.raises(InputError, match=f"position_ids {message}"):
            model(**padded, position_ids=wrong)


@torch.no_grad()
def test_forms_of_an_answer(model, batch):
    whole = model(**batch, output_hidden_states=True, use_cache=False, return_dict=True)
    assert len(whole.hidden_states) == model.config.num_hidden_layers + 1
    logits, states = model(**batch, output_hidden_states=True, return_dict=False)
    assert torch.equal(logits, whole.logits)
    assert torch.equal(states[-1], whole["hidden_states"][-1])
    assert model(**batch).hidden_states is None
    assert len(model(**batch, labels=batch["input_ids"], return_dict=False)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use_cache": True}, "use_cache=True: every token attends to every other"),
        ({"past_key_values": ((torch.zeros(1),),)}, "past_key_values: every token attends to every other"),
        ({"output_attentions": True}, "output_attentions=True: attention weights are never made"),
        ({"attention_mask": torch.ones(2, 14)}, "attention_mask has dtype torch.float32, where 0 may mean hidden or visible"),
        ({"token_type_ids": torch.ones(2, 14, dtype=torch.long)}, "token_type_ids other than 0"),
        ({"start_positions": torch.zeros(2)}, "start_positions is no argument of this model"),
        ({"lables": torch.zeros(2, 14)}, "lables is no argument of this model, .* did you mean 'labels'"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_sentence(model, batch, arguments, message):
    with pytest.raises(InputError, match=message):
        model(**{**batch, **arguments})


def test_a_row_beyond_the_context_is_refused(model):
    with pytest.raises(InputError, match="a row has 1025 positions, and the model's context max_sequence_length=1024"):
        model(torch.zeros(1, 1025, dtype=torch.long))


# Labels.


def weighted(model, xt, labels, mask):
    """The definition, row by row, in float64."""
    logps = model(xt, mask).logits.double().log_softmax(-1)
    total, learned = 0.0, 0
    for row in range(len(xt)):
        maskable = [i for i in range(xt.shape[1]) if labels[row, i] != -100]
        masked = [i for i in maskable if xt[row, i] == model.config.layout.mask_id]
        total += len(maskable) / max(1, len(masked)) * sum(-float(logps[row, i, labels[row, i]]) for i in masked)
        learned += len(maskable)
    return total / learned


@torch.no_grad()
def test_labels_give_the_masked_diffusion_loss(model, batch):
    ids, mask, mask_id = batch["input_ids"], batch["attention_mask"], model.config.layout.mask_id
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, :4] = -100
    xt = ids.clone()
    xt[0, 5:8], xt[1, 1] = mask_id, mask_id
    found = model(xt, mask, labels=labels)
    assert float(found.loss) == pytest.approx(weighted(model, xt, labels, mask), rel=1e-5)
    torch.testing.assert_close(found.logits, model(xt, mask).logits)
    assert float(model(xt, mask, labels=labels, num_items_in_batch=50).loss) == pytest.approx(float(found.loss) * (10 + 2) / 50, rel=1e-5)
    alone = labels.masked_fill(xt != mask_id, -100)  # as BERT's collators write them: the plain mean
    expected = torch.nn.functional.cross_entropy(found.logits.flatten(0, 1), alone.flatten())
    assert float(model(xt, mask, labels=alone).loss) == pytest.approx(float(expected), rel=1e-5)
    assert float(model(ids, mask, labels=torch.full_like(ids, -100)).loss) == 0


@torch.no_grad()
def test_labels_without_masks_are_noised(model, batch):
    ids, mask = batch["input_ids"], batch["attention_mask"]
    torch.manual_seed(3)
    loss = model(ids, mask, labels=ids).loss
    torch.manual_seed(3)
    drawn = labels_of.labeled(ids, ids, mask_id=model.config.layout.mask_id, attention_mask=mask.bool())
    assert float(loss) == pytest.approx(weighted(model, drawn.xt, ids.masked_fill(mask == 0, -100), mask), rel=1e-5)
    assert not bool((drawn.is_masked & (mask == 0)).any())  # padding is not learned, whatever its label
    assert drawn.is_masked.any(1).all()


def test_how_many_are_masked_is_uniform():
    torch.manual_seed(0)
    maskable = torch.zeros(3000, 6, dtype=torch.bool)
    maskable[:2000, :4] = True
    counts = labels_of.uniform_counts(maskable)
    assert counts[2000:].eq(0).all()
    # Stratified: without the strata, a share would leave 0.25 by 0.05 once in 10^6 runs.
    assert all(abs(float((counts[:2000] == k).float().mean()) - 0.25) < 0.05 for k in range(1, 5))


def test_labels_that_mean_something_else_are_refused(model, batch):
    ids = batch["input_ids"]
    with pytest.raises(InputError, match=r"labels differ from input_ids at .* positions that are not masked; .* unshifted"):
        model(ids, labels=ids.roll(-1, 1))
    with pytest.raises(InputError, match=r"labels have the shape \(2, 13\), input_ids \(2, 14\)"):
        model(ids, labels=ids[:, 1:])
    with pytest.raises(InputError, match="labels need input_ids"):
        model(inputs_embeds=torch.zeros(1, 2, 64), labels=ids[:1, :2])


def test_the_collator_writes_the_rows_of_training(directory):
    debug = MMaDA.from_pretrained(directory)
    collator = MaskedDiffusionCollator(AutoProcessor.from_pretrained(directory), answer_lengths=(8, 12))
    torch.manual_seed(0)
    records = [{"messages": [*TURNS, {"role": "assistant", "content": "seven"}]}, {"text": "once"}]
    records += [
        {"messages": [*QUESTION, {"role": "assistant", "content": "7"}], "think": "3, 4, 7"},
        {"input_ids": [65, 66, 67], "labels": [-100, 66, 67]},
    ]
    made = collator(records)
    row = debug.prompts.chat(messages_of(TURNS), 8, answer="seven")
    thought = debug.prompts.chat(messages_of(QUESTION), 26, thinking=True, answer="<think> 3, 4, 7</think> 7")
    for i, canvas in ((0, row), (2, thought)):
        ids, labels, seen = (made[name][i] for name in ("input_ids", "labels", "attention_mask"))
        assert labels[: len(canvas)].tolist() == torch.where(canvas.is_open, canvas.tokens, -100).tolist()
        is_masked = ids[: len(canvas)] == debug.layout.mask_id
        assert torch.equal(ids[: len(canvas)].where(~is_masked, canvas.tokens), canvas.tokens)
        assert 1 <= int(is_masked.sum()) <= int(canvas.is_open.sum())
        assert seen.tolist() == [1] * len(canvas) + [0] * (len(ids) - len(canvas))
    assert made["labels"][1, :6].tolist() == [debug.layout.bos_id, *debug.prompts.encode("once"), debug.layout.eos_id]
    assert made["labels"][3, :4].tolist() == [-100, 66, 67, -100]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "hi"}, r"record 0 has the fields \['question'\]: give messages, text or input_ids"),
        ({"messages": QUESTION}, "record 0 ends with a turn of 'user'"),
        ({"input_ids": [1, 2], "labels": [1]}, "record 0 has 2 input_ids and 1 labels"),
    ],
)
def test_records_that_cannot_be_learned_are_refused(debug, record, message):
    with pytest.raises(InputError, match=message):
        MaskedDiffusionCollator(debug.prompts)([record])


def trainer(model, records, collator, path, **settings):
    arguments = TrainingArguments(
        output_dir=str(path), per_device_train_batch_size=4, learning_rate=3e-3, report_to=[], remove_unused_columns=False,
        use_cpu=True, disable_tqdm=True, save_strategy="no", logging_strategy="no", **settings,
    )  # fmt: skip
    return Trainer(model, arguments, data_collator=collator, train_dataset=records, eval_dataset=records)


def test_trainer_trains(directory, tokenizer, asked, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(directory)
    records = [{"messages": [{"role": "user", "content": f"Who is {i}?"}, {"role": "assistant", "content": "a cat"}]} for i in range(4)]
    collator = MaskedDiffusionCollator(AutoProcessor.from_pretrained(directory))
    training = trainer(model, records, collator, tmp_path, max_steps=30)
    before = training.evaluate()["eval_loss"]
    training.train()
    assert training.evaluate()["eval_loss"] < before / 2
    training.save_model(str(tmp_path / "model"))
    found = AutoModelForMaskedLM.from_pretrained(tmp_path / "model").generate(**asked, max_new_tokens=8)
    assert tokenizer.decode(found[0, asked["input_ids"].shape[1] :], skip_special_tokens=True).startswith("a")


def test_gradient_accumulation_is_the_whole_batch(directory, tokenizer, tmp_path):
    """One optimizer step over two halves of a batch equals that over the batch: the masks are given, and rows differ in length."""
    records = []
    for text in ("a", "some words", "b", "a long row of words"):
        ids = tokenizer(text)["input_ids"]
        records.append({"input_ids": [258, *ids[1:]], "labels": ids})

    def collate(features):
        made = tokenizer.pad([{"input_ids": one["input_ids"]} for one in features], return_tensors="pt")
        clean = tokenizer.pad([{"input_ids": one["labels"]} for one in features], return_tensors="pt")
        return {**made, "labels": clean["input_ids"].masked_fill(clean["attention_mask"] == 0, -100)}

    weights = []
    for size, steps in ((4, 1), (2, 2)):
        model = AutoModelForMaskedLM.from_pretrained(directory)
        plain = {"max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0, "train_sampling_strategy": "sequential"}
        arguments = TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=size, gradient_accumulation_steps=steps, learning_rate=0.1, report_to=[],
            remove_unused_columns=False, use_cpu=True, disable_tqdm=True, save_strategy="no", logging_strategy="no", **plain,
        )  # fmt: skip
        Trainer(model, arguments, data_collator=collate, train_dataset=records).train()
        weights.append(model.head_weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_collators_of_transformers(directory, tokenizer):
    model = AutoModelForMaskedLM.from_pretrained(directory)
    records = [dict(tokenizer(text)) for text in ("hello there", "a cat and a dog", "some more of them")]
    for collator in (
        DataCollatorForLanguageModeling(tokenizer, mlm=False),
        DataCollatorForLanguageModeling(tokenizer, mlm=True, mask_replace_prob=1.0, random_replace_prob=0.0),
    ):
        loss = model(**collator(records)).loss
        assert loss.isfinite()
        loss.backward()
    torch.manual_seed(0)
    with pytest.raises(InputError, match="labels differ from input_ids"):  # random words in the place of masks, which are BERT's
        model(**DataCollatorForLanguageModeling(tokenizer, mlm=True, mask_replace_prob=0.0, random_replace_prob=1.0)(records))


# Generate.


def test_generate_is_our_sampler(directory, model, tokenizer, asked):
    found = model.generate(**asked, max_new_tokens=24)
    given = asked["input_ids"].shape[1]
    assert torch.equal(found[:, :given], asked["input_ids"])
    answer = MMaDA.from_pretrained(directory).chat(QUESTION, max_new_tokens=24)
    assert tuple(found[0, given:].tolist()) == answer.token_ids[: found.shape[1] - given]
    assert found.shape[1] - given == 24
    assert torch.equal(model.generate(inputs=asked["input_ids"], generation_config=GenerationConfig(max_new_tokens=24)), found)
    assert torch.equal(model.generate(asked["input_ids"], max_length=given + 24, use_cache=True), found)
    assert torch.equal(model.generate(**asked, max_new_tokens=24, return_dict_in_generate=True).sequences, found)
    assert model.generation_config.block_length == 16  # of mmada.json
    assert model.generate(**asked).shape[1] == given + 32
    assert model.can_generate()


def test_what_the_processor_gives_is_taken(directory, model, asked):
    made = AutoProcessor.from_pretrained(directory)(QUESTION, num_new=3)
    assert model(**made).logits.shape[1] == asked["input_ids"].shape[1] + 3
    assert torch.equal(model.generate(**made, max_new_tokens=8), model.generate(**asked, max_new_tokens=8))


def test_generate_takes_padding_on_either_side(model, tokenizer, asked):
    alone = model.generate(**asked, max_new_tokens=8)[0, asked["input_ids"].shape[1] :]
    for side in ("left", "right"):
        texts = tokenizer.apply_chat_template([QUESTION, TURNS], add_generation_prompt=True, tokenize=False)
        padded = tokenizer(texts, padding=True, padding_side=side, return_tensors="pt")
        assert torch.equal(model.generate(**padded, max_new_tokens=8)[0, padded["input_ids"].shape[1] :], alone)


def test_generate_draws_with_a_temperature(model, asked):
    def drawn(seed, **settings):
        torch.manual_seed(seed)
        return model.generate(**asked, max_new_tokens=8, **settings).tolist()

    assert drawn(0, temperature=1.0) == drawn(0, temperature=1.0, do_sample=True) == drawn(0, do_sample=True)
    assert drawn(0, temperature=1.0) != drawn(1, temperature=1.0)
    assert drawn(0, temperature=1.0, do_sample=False) == drawn(1)
    several = drawn(0, temperature=1.0, num_return_sequences=3, top_k=20, top_p=0.95)
    assert len(several) == 3
    assert several[0] != several[1]


def test_an_answer_ends_with_its_end_token(model, asked, tokenizer):
    ending = copy.deepcopy(model)
    with torch.no_grad():
        ending.head_weight.zero_()
        ending.head_weight[model.config.layout.eos_id] = torch.nn.functional.normalize(
            model(asked["input_ids"], output_hidden_states=True).hidden_states[-1].mean((0, 1)), dim=0
        )
    found = ending.generate(**asked, max_new_tokens=8)
    assert found.shape[1] == asked["input_ids"].shape[1] + 1
    assert int(found[0, -1]) == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 4}, "num_beams=4 has no meaning for masked diffusion"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 has no meaning"),
        ({"past_key_values": ()}, None),
        ({"num_beams": 1, "repetition_penalty": 1.0, "stopping_criteria": [], "pad_token_id": 0}, None),
        ({"stop_strings": ["a"]}, r"stop_strings=\['a'\] are found in the text of an answer; give the tokenizer, too"),
        ({"stop_strings": [""]}, r"stop_strings=\[''\] must be a text or a list of texts, none of them empty"),
        ({"stop_strings": []}, None),
        ({"pixel_values": torch.zeros(1)}, "pixel_values=Tensor has no meaning .* pictures become codes first"),
        ({"max_new_token": 4}, "max_new_token=4 is no setting of generate: did you mean 'max_new_tokens'"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 leaves no token to fill"),
        ({"max_new_tokens": 4096}, "need .* positions, and the model's context has 1024"),
        ({"eos_token_id": 5}, r"eos_token_id=\[5\] is not how this model ends an answer"),
        ({"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        ({"cache": "fast"}, "cache='fast' is unknown"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 needs a temperature above 0"),
    ],
)
def test_settings_of_generate_are_kept_or_refused(model, asked, settings, message):
    if message is None:
        assert model.generate(**asked, **{"max_new_tokens": 4, **settings}).shape[1] == asked["input_ids"].shape[1] + 4
        return
    with pytest.raises(InputError, match=message):
        model.generate(**asked, **settings)


def whole(ids, tokenizer):
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_stop_strings_end_an_answer_with_the_token_that_completes_one(model, asked, tokenizer, monkeypatch):
    given = asked["input_ids"].shape[1]
    free = model.generate(**asked, max_new_tokens=24, block_length=8)[0, given:]
    text = whole(free, tokenizer)
    assert len(text) == 24  # bytes: a token is a character
    wanted = text[5:7]
    end = text.index(wanted) + 2
    steps = []
    trunk = type(model).trunk
    monkeypatch.setattr(type(model), "trunk", lambda self, *args, **kwargs: steps.append(1) or trunk(self, *args, **kwargs))
    for named in (wanted, ["never there", wanted]):
        found = model.generate(**asked, max_new_tokens=24, block_length=8, stop_strings=named, tokenizer=tokenizer)[0, given:]
        assert torch.equal(found, free[:end])
    stopped = len(steps) // 2
    model.generate(**asked, max_new_tokens=24, block_length=8, stop_strings="never there", tokenizer=tokenizer)
    assert len(steps) - 2 * stopped >= 2 * stopped  # of three blocks the last ones were not begun
    streamer = watched(tokenizer)
    model.generate(**asked, max_new_tokens=24, block_length=8, stop_strings=wanted, tokenizer=tokenizer, streamer=streamer)
    assert streamer.text == text[:end]
    criteria = StopStringCriteria(tokenizer, [wanted])
    grown = [torch.cat([asked["input_ids"], free[None, :n]], 1) for n in range(1, 25)]
    assert next(n for n, ids in enumerate(grown, 1) if bool(criteria(ids, None))) == end


def test_stop_strings_of_a_batch_and_over_the_edge_of_a_prompt(model, asked, tokenizer):
    given = asked["input_ids"].shape[1]
    config = GenerationConfig(stop_strings=["no such text"], max_new_tokens=8)
    both = asked["input_ids"].repeat(2, 1)
    both[1, 4:] = both[1, 4:].flip(0)
    free = model.generate(both, max_new_tokens=8)[:, given:]
    assert torch.equal(model.generate(both, generation_config=config, tokenizer=tokenizer)[:, given:], free)
    text, other = (whole(row, tokenizer) for row in free)
    alone = next(text[i : i + 2] for i in range(7) if text[i : i + 2] not in other)
    found = model.generate(both, max_new_tokens=8, stop_strings=alone, tokenizer=tokenizer)[:, given:]
    length = text.index(alone) + 2
    assert torch.equal(found[1], free[1])
    assert found[0].tolist() == [*free[0, :length].tolist(), *[tokenizer.eos_token_id] * (8 - length)]
    edge = whole(both[0, -1:], tokenizer) + whole(free[0, :1], tokenizer)
    assert model.generate(both[:1], max_new_tokens=8, stop_strings=edge, tokenizer=tokenizer).shape[1] == given + 1
    within = whole(both[0, -3:], tokenizer)
    assert within not in whole(free[0], tokenizer)
    assert model.generate(both[:1], max_new_tokens=8, stop_strings=within, tokenizer=tokenizer).shape[1] == given + 8


def test_prompts_of_another_kind_are_refused(model, asked, tokenizer):
    with pytest.raises(InputError, match=r"give a tensor \(B, L\), or \*\*inputs"):
        model.generate(asked)
    with pytest.raises(InputError, match=r"of the shape \(3,\); give a tensor"):
        model.generate(torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match=r"input_ids hold \[MASK\]"):
        model.generate(torch.tensor([[tokenizer.mask_token_id, 5]]), max_new_tokens=4)


def watched(tokenizer):
    from transformers import TextStreamer

    class Watched(TextStreamer):
        """What a streamer of text diffusion sees."""

        def __init__(self, tokenizer):
            super().__init__(tokenizer, skip_prompt=True)
            self.put_ids, self.drafts, self.text, self.ended = [], [], "", False

        def put(self, value):
            self.put_ids.append(value.flatten().tolist())
            super().put(value)

        def put_draft(self, value, **_):
            self.drafts.append(value.tolist())

        def on_finalized_text(self, text, stream_end=False):
            self.text += text
            self.ended |= stream_end

    return Watched(tokenizer)


def test_streamers(model, asked, tokenizer):
    streamer = watched(tokenizer)
    found = model.generate(**asked, max_new_tokens=24, streamer=streamer)
    given = asked["input_ids"].shape[1]
    assert streamer.put_ids[0] == asked["input_ids"][0].tolist()
    assert [token for piece in streamer.put_ids[1:] for token in piece] == found[0, given:].tolist()
    assert streamer.text == tokenizer.decode(found[0, given:])
    assert streamer.ended
    assert len(streamer.drafts) > 2
    assert len(streamer.drafts[0]) > len(streamer.drafts[-1])
    with pytest.raises(InputError, match="streamer=Watched follows one answer, and 2 are asked for"):
        model.generate(asked["input_ids"].repeat(2, 1), streamer=streamer)


@pytest.mark.parametrize("given", ["a directory", "a model"])
def test_pipeline(directory, model, tokenizer, asked, given, caplog):
    named = {"model": str(directory)} if given == "a directory" else {"model": model, "tokenizer": tokenizer}
    generator = pipeline("text-generation", **named)
    (found,) = generator(QUESTION, max_new_tokens=8, do_sample=False)
    answer = model.generate(**asked, max_new_tokens=8)[0, asked["input_ids"].shape[1] :]
    assert found["generated_text"][-1] == {"role": "assistant", "content": tokenizer.decode(answer, skip_special_tokens=True)}
    several = generator(["hi", "hello you"], max_new_tokens=4, batch_size=2)
    assert [one[0]["generated_text"].startswith(text) for one, text in zip(several, ("hi", "hello you"), strict=True)] == [True, True]
    assert "not supported" not in caplog.text
    assert "output_modalities" in repr(generator)


def test_other_pipelines(model, tokenizer):
    (best, *_) = pipeline("fill-mask", model=model, tokenizer=tokenizer)(f"a {tokenizer.mask_token} b")
    assert set(best) >= {"score", "token", "sequence"}
    assert len(pipeline("feature-extraction", model=model, tokenizer=tokenizer)("ab")[0]) == 2


@pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
def test_pipelines_for_pictures_are_refused_in_a_sentence(directory, model, task, caplog):
    """By directory before anything is loaded; for an object, which transformers asks for nothing but its name, by the call."""
    with pytest.raises(MMaDAError, match=r"pictures become codes by a second one; use MMaDA\.from_pretrained, whose ask"):
        pipeline(task, model=str(directory))
    assert not caplog.text
    made = pipeline(task, model=model, processor=AutoProcessor.from_pretrained(directory))
    content = [{"type": "image", "image": Image.new("RGB", (8, 8))}, {"type": "text", "text": "What?"}]
    with pytest.raises(InputError, match=r"pixel_values=.*MMaDA.ask takes a picture"):
        made(text=[{"role": "user", "content": content}], max_new_tokens=4)


def test_auto_classes_for_pictures_are_refused_in_a_sentence(directory, model):
    for name in ("AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
        auto = getattr(transformers, name)
        for load in (lambda auto=auto: auto.from_pretrained(directory), lambda auto=auto: auto.from_config(model.config)):
            with pytest.raises(MMaDAError, match="expect one network that takes pixels"):
                load()


def test_no_bar_of_transformers_is_shown_where_mmada_loads(directory, capfd):
    from huggingface_hub.utils import are_progress_bars_disabled

    before = transformers.utils.logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    MMaDA.from_pretrained(directory, device_map="cpu")
    assert "Loading weights" not in capfd.readouterr().err
    assert (transformers.utils.logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == before


def test_causal_models_are_refused_since_logits_are_not_shifted(directory, model):
    for load in (lambda: AutoModelForCausalLM.from_pretrained(directory), lambda: AutoModelForCausalLM.from_config(model.config)):
        with pytest.raises(InputError, match=r"AutoModelForCausalLM expects logits of the next token, .* use AutoModelForMaskedLM"):
            load()


# Chat templates.


@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize(
    "style",
    [Style(), Style(separator="literal"), Style(whitespace="single", thinking='Say "why" first,\n\tthen answer. ')],
    ids=["published", "literal", "single"],
)
def test_the_chat_template_gives_the_ids_of_our_own_prompts(tmp_path, style, thinks):
    made = MMaDA.debug().use(style=style)
    made.save_pretrained(tmp_path)
    tokenizer, processor = AutoTokenizer.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    turns = [*TURNS[:-1], {"role": "user", "content": " two\u00a0 red\nhearts "}]
    expected = made.prompts.dialogue(messages_of(turns), thinking=style.thinking if thinks else None)
    for one in (tokenizer, processor):
        found = one.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True, enable_thinking=thinks)
        assert list(found["input_ids"]) == expected
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    assert tokenizer.apply_chat_template(parts, add_generation_prompt=True, return_dict=False, enable_thinking=thinks) == expected
    assert tokenizer.model_max_length == made.model.config.max_sequence_length
    again = tmp_path / "again"
    MMaDA.from_pretrained(tmp_path).save_pretrained(again)
    assert (again / "chat_template.jinja").read_text() == (tmp_path / "chat_template.jinja").read_text()


@pytest.mark.parametrize("name", ["mmada-emoji-base", "mmada-emoji-mixcot", "mmada-emoji-max", "mmada-emoji-chat"])
def test_the_built_in_checkpoints_have_their_template(name):
    from mmada.canvas import Prompts
    from mmada.generation.requests import GenerationConfig as OwnConfig
    from mmada.hub import checkpoint, networks
    from mmada.hub.text_tokenizer import TextTokenizer

    path = checkpoint.find(name)
    prompts = Prompts(networks.transformer_config(path).layout, TextTokenizer.read(path), OwnConfig.load(path).style)
    turns = [{"role": "user", "content": "two \u00a0red\nhearts"}]
    found = AutoTokenizer.from_pretrained(path).apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert found == prompts.dialogue(messages_of(turns)) == prompts.dialogue([Message("user", "two red hearts")])


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"role": "tool", "content": "a"}], "role='tool' of message 0 is unknown; use system, user or assistant"),
        ([*QUESTION, {"role": "assistant", "content": "\n "}], "content of message 1 is empty"),
        ([{"role": "user", "content": None}], "content of message 0 is empty"),
        ([{"role": "user", "content": [{"type": "image"}]}], "holds a part of type 'image', which is no text; give it to the processor"),
    ],
)
def test_a_conversation_that_cannot_be_had_is_refused(tokenizer, turns, message):
    with pytest.raises(Exception, match=message):  # jinja2's TemplateError
        tokenizer.apply_chat_template(turns)


def test_pictures_in_a_conversation(directory, debug):
    processor = AutoProcessor.from_pretrained(directory)
    turns = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (40, 32))}, {"type": "text", "text": "hi"}]}]
    made = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    canvas = debug.prompts.chat([Message("user", "hi")], 1, images=[torch.zeros(64, dtype=torch.long)])
    expected = torch.where(canvas.tokens == debug.layout.image_offset, debug.layout.pad_id, canvas.tokens)[:-1]
    assert torch.equal(made["input_ids"][0], expected)
    assert made["pixel_values"].shape == (1, 3, 32, 32)
    assert made["attention_mask"].all()
    with pytest.raises(InputError, match="1 images stand before the ids of one conversation; set tokenize=True"):
        processor.apply_chat_template(turns)
    with pytest.raises(InputError, match="holds no picture"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=True)


# Saving and loading.


def equal(one, other, batch):
    with torch.no_grad():
        return torch.equal(one(**batch).logits, other(**batch).logits)


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ({}, {}),
        ({"variant": "fp16"}, {"variant": "fp16"}),
        ({"max_shard_size": "50KB"}, {}),
        ({"variant": "x", "max_shard_size": "50KB"}, {"variant": "x"}),
        ({"safe_serialization": True, "is_main_process": True}, {"use_safetensors": True, "low_cpu_mem_usage": True}),
        ({"save_original_format": False}, {"attn_implementation": "sdpa"}),
        ({}, {"device_map": "cpu"}),
        ({}, {"device_map": "auto"}),
        ({}, {"device_map": {"": "cpu"}}),
        ({}, {"ignore_mismatched_sizes": True}),
        ({}, {"generation_config": {"max_new_tokens": 3}}),
    ],
    ids=str,
)
def test_every_keyword_of_saving_and_loading(directory, batch, tmp_path, saved, loaded):
    model = AutoModel.from_pretrained(directory)
    model.save_pretrained(tmp_path, **saved)
    if "generation_config" in loaded:
        loaded = {"generation_config": GenerationConfig(**loaded["generation_config"])}
    again = AutoModel.from_pretrained(tmp_path, **loaded)
    assert equal(again, model, batch)
    assert again.generation_config.max_new_tokens == (3 if "generation_config" in loaded else 32)
    assert getattr(again.generation_config, "block_length", None) == (None if "generation_config" in loaded else 16)


def test_weights_of_a_variant_are_named_where_they_are_not_asked_for(directory, tmp_path):
    model = AutoModel.from_pretrained(directory)
    model.save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(CheckpointError, match="has no weights of variant=None; there are variant='fp16'"):
        AutoModel.from_pretrained(tmp_path)
    again = MMadaModelLM.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert torch.equal(again.head_weight, model.head_weight)
    _, info = MMadaModelLM.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]


def test_resize_save_load(directory, batch, tmp_path):
    model = AutoModel.from_pretrained(directory)
    rows = model.config.embedding_size
    before = model(**batch).logits
    model.resize_token_embeddings(rows + 3, mean_resizing=False)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert again.get_input_embeddings().weight.shape[0] == again.get_output_embeddings().weight.shape[0] == rows + 3
    assert again.config.layout.vocab_size == again.config.vocab_size == again.config.embedding_size == rows + 3
    assert equal(again, model, batch)
    torch.testing.assert_close(again(**batch).logits[..., :rows], before)
    model.resize_token_embeddings(pad_to_multiple_of=64, mean_resizing=False)
    model.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).config.embedding_size == rows + 64
    with pytest.raises(InputError, match=r"image codes 268\.\.331 leave the vocabulary of vocab_size=269"):
        model.resize_token_embeddings(269)  # len(tokenizer) + 1
    assert model.config.embedding_size == model.head_weight.shape[0] == rows + 64
    with pytest.raises(InputError, match="resize_token_embeddings is of transformers' class"):
        MMaDA.debug().model.resize_token_embeddings(rows + 3)


def test_a_published_vocabulary_can_grow(build_model):
    model = build_model(
        vocab_layout=None, embedding_size=134656, vocab_size=134656, codebook_size=8192, mask_token_id=126336, d_model=8, mlp_hidden_size=8
    )
    model.resize_token_embeddings(134720, mean_resizing=False)
    assert model.config.layout.vocab_size == 134720
    assert model.config.layout.image_offset == 126349


def test_the_image_tokenizer_is_kept_alike(directory, tmp_path):
    images = AutoModel.from_pretrained(directory / "image_tokenizer")
    pixels = AutoImageProcessor.from_pretrained(directory)(Image.new("RGB", (32, 32), "red"))["pixel_values"]
    codes = images.encode(pixels)
    for keywords in ({"variant": "fp16"}, {"max_shard_size": "50KB"}):
        images.save_pretrained(tmp_path, **keywords)
        again = AutoModel.from_pretrained(tmp_path, **{name: value for name, value in keywords.items() if name == "variant"})
        assert torch.equal(again.encode(pixels), codes)
        (tmp_path / "model.fp16.safetensors").unlink(missing_ok=True)
    assert torch.equal(copy.deepcopy(images).encode(pixels), codes)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "mmada-image-tokenizer"


# Copies, compilers, the package's own loader.


def test_pickle_and_deepcopy(model, batch, tokenizer, directory):
    processor = AutoProcessor.from_pretrained(directory)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert equal(again, model, batch)
        assert again.config.layout == model.config.layout
    for again in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert again.apply_chat_template(TURNS) == processor.apply_chat_template(TURNS)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    assert equal(torch.load(stream, weights_only=False), model, batch)


def test_pickle_and_deepcopy_of_the_whole(debug):
    answer, drawing = debug.chat("hi", max_new_tokens=8), debug.draw("a cat", steps=2)
    for again in (copy.deepcopy(debug), pickle.loads(pickle.dumps(debug))):
        assert again.chat("hi", max_new_tokens=8) == answer
        assert torch.equal(again.draw("a cat", steps=2).codes, drawing.codes)
        assert again.defaults == debug.defaults
        assert again.model is not debug.model
        assert again.planner is not debug.planner
    assert pickle.loads(pickle.dumps(debug.prompts)).encode("hi") == debug.prompts.encode("hi")


def test_torch_compile(model, batch):
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # no guard of ours breaks the graph
    with torch.no_grad():
        torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits)


@pytest.mark.slow
def test_torch_compile_with_labels(model, batch):
    loss = torch.compile(model, backend="aot_eager")(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    assert loss.isfinite()
    model.zero_grad(set_to_none=True)


def test_the_package_takes_options_of_transformers(directory, debug, tmp_path):
    answer = debug.chat("hi", max_new_tokens=8).text
    for options in (
        {"device_map": "cpu"},
        {"device_map": "auto"},
        {"torch_dtype": "float32"},
        {"local_files_only": True, "device_map": None},
    ):
        assert MMaDA.from_pretrained(directory, **options).chat("hi", max_new_tokens=8).text == answer
    split = dict.fromkeys(("model.transformer.wte", "model.transformer.ln_f", "model.transformer.ff_out"), "cpu") | {
        "model.transformer.blocks": "disk"
    }
    for options, message in (
        (
            {"device_map": split, "offload_folder": str(tmp_path)},
            "device_map puts parts of the model on cpu, disk, .* give device_map='cpu'",
        ),
        (
            {"quantization_config": {"quant_method": "none such"}},
            "transformers cannot load it with quantization_config: Unknown quantization type",
        ),
        ({"quantization_config": "int4"}, "transformers cannot load it with quantization_config"),
        ({"load_in_4bit": True}, "load_in_4bit=True is no option of from_pretrained: known names are .*quantization_config"),
        ({"device_mapp": "cpu"}, "device_mapp='cpu' is no option of from_pretrained: did you mean 'device_map'"),
        (
            {"quantize": "int4", "device_map": "cpu"},
            "quantize='int4' is our own loading, and device_map that of transformers; leave one of them out",
        ),
        ({"quantize": "int3"}, "quantize='int3' is unknown: did you mean 'int"),
        ({"quantise": "int4"}, "did you mean 'quantize'"),
        ({"device": "cpu", "device_map": "cpu"}, "device='cpu' and device_map='cpu' both say where the model goes"),
    ):
        with pytest.raises(InputError, match=message):
            MMaDA.from_pretrained(directory, **options)
    with pytest.raises(InputError, match="the debug model has no files to load, and device_map is about loading"):
        MMaDA.from_pretrained("debug", device_map="cpu")
