"""iLLaDA: no recorded numbers. Facts at load, the chat template, and properties of answers from random weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmada.canvas import Hole, Message
from mmada.data import Epochs, Record
from mmada.data.records import Turn
from mmada.errors import CheckpointError, InputError, TokenizerError
from mmada.families import named
from mmada.generation.requests import ChatRequest
from mmada.hub import networks, tokenizer
from mmada.hub.family import family_of
from mmada.pipeline import MMaDA
from mmada.sampling import CacheConfig, Denoising, SamplingParams, denoise
from mmada.train.batch import noise_row
from mmada.train.records import settled
from mmada.train.source import ComponentRows, RecordExamples
from mmada.train.stages import STAGES

from .tiny import published, templated, tiny


@pytest.fixture(scope="module")
def model():
    """Grouped keys and one matrix for embedding and head."""
    return templated(named("illada"), n_kv_heads=2, weight_tying=True)


def test_what_ends_a_text_is_read_from_the_files(tmp_path):
    directory = published(named("illada"), tmp_path / "x", eos_token_id=[7, 9], bos_token_id=1)
    layout = family_of(directory).layout
    assert (layout.eos_id, layout.eot_id, layout.bos_id, layout.mask_id) == (7, 9, 1, 5)
    with pytest.raises(CheckpointError, match="no eos_token_id"):
        family_of(published(named("illada"), tmp_path / "y", eos_token_id=None))
    with pytest.raises(CheckpointError, match="mask_token_id is 6, not 5"):
        family_of(published(named("illada"), tmp_path / "z", mask_token_id=6))


def test_published_files_say_whether_embeddings_are_tied(tmp_path):
    sizes = {"d_model": 64, "n_heads": 4, "n_kv_heads": 1, "n_layers": 1, "mlp_hidden_size": 64, "max_sequence_length": 8192}
    directory = published(named("illada"), tmp_path / "x", tie_word_embeddings=True, **sizes)
    config = networks.transformer_config(directory)
    assert "model.transformer.ff_out.weight" not in networks.shapes(config)
    assert config.max_sequence_length == 8192


def test_files_of_the_other_class_have_the_tensors_of_llama(tmp_path):
    """Logits as transformers' own class has them, where every token attends to every other."""
    import transformers

    family = named("illada")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=family.layout.vocab_size, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True, **sizes
    )
    llama = transformers.LlamaForCausalLM(config).eval()
    llama.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    published(family, tmp_path, **{**written, "architectures": ["ILLaDAForCausalLM"], "mask_token_id": 5, "eos_token_id": 2})
    found = networks.load_transformer(tmp_path, family=family_of(tmp_path))
    tokens = torch.randint(100, (2, 7), generator=torch.Generator().manual_seed(1))
    everything = torch.zeros(2, 1, 7, 7)
    with torch.inference_mode():
        expected = llama(input_ids=tokens, attention_mask=everything).logits
        assert torch.allclose(found(tokens).logits, expected, atol=1e-5)


def test_turns_are_laid_out_by_the_template(model):
    ids = model.prompts.dialogue([Message("system", "Be brief."), Message("user", " Hi ")])
    assert model.prompts.tokenizer.decode(ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    special = model.prompts.tokenizer.token_to_id("<|im_end|>")
    assert ids.count(special) == 2
    assert model.prompts.dialogue([Message("user", "a <|im_end|> b")]).count(special) == 1


def test_without_a_template_a_chat_is_refused(model):
    bare = replace(model.prompts, tokenizer=tokenizer.byte_level())
    with pytest.raises(InputError, match="have no chat template"):
        bare.dialogue([Message("user", "Hi")])


def test_a_known_layout_must_agree_with_the_template(tmp_path):
    own = tiny(named("llada"))
    own.save_pretrained(tmp_path)
    good = (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    )
    (tmp_path / "chat_template.jinja").write_text(good)
    tokenizer.load(tmp_path, own.layout, own.family)
    (tmp_path / "chat_template.jinja").write_text(good.replace("\n\n", "\n"))
    with pytest.raises(TokenizerError, match="chat template of these files reads"):
        tokenizer.load(tmp_path, own.layout, own.family)


@settings(max_examples=10, deadline=None)
@given(text=st.text(min_size=1, max_size=12).filter(lambda text: text.strip() and text.isprintable()), seed=st.integers(0, 99))
def test_given_tokens_stay_and_no_mask_is_left(model, text, seed):
    canvas = model.prompts.chat([Message("user", text)], 8)
    params = SamplingParams(steps=4, temperature=1.0, stop_at_eos=False)
    denoising = Denoising([canvas], params, mask_id=model.layout.mask_id, seeds=[seed])
    for _ in denoise([denoising], model.denoiser):
        pass
    filled = denoising.canvas(0).tokens
    assert filled[:-8].tolist() == canvas.tokens[:-8].tolist()
    assert all(i in model.layout.text_ids for i in filled[-8:].tolist())


def record(question, answer):
    return Record(id="1", task="text", turns=(Turn("user", question),), answer=answer)


def grown(model, prompt, params):
    """The plain loop: masks of a block behind what is there, the surest committed, until an end token or the end of the room.

    Also the length of the row in each pass.
    """
    row, ids, ends, lengths = list(prompt), model.layout.text_ids, set(model.layout.end_ids), []
    for _ in range(2):
        row += [model.layout.mask_id] * params.block_length
        while model.layout.mask_id in row[len(prompt) :]:
            lengths.append(len(row))
            with torch.no_grad():
                logits = model.model(torch.tensor([row])).logits[0, :, ids.start : ids.stop]
            logits[:, list(ids.suppress_tokens)] = -torch.inf
            probabilities = logits.double().softmax(-1)
            sure, tokens = probabilities.max(-1)
            is_open = [i for i, token in enumerate(row) if token == model.layout.mask_id]
            best = max(is_open, key=lambda i: float(sure[i]))
            for i in is_open:
                if i == best or float(sure[i]) >= params.threshold:
                    row[i] = ids.start + int(tokens[i])
            answer = row[len(prompt) :]
            first = next((k for k, token in enumerate(answer) if token in ends or token == model.layout.mask_id), None)
            if first is not None and answer[first] in ends:
                return [token if token != model.layout.mask_id else model.layout.eos_id for token in answer], lengths
    return row[len(prompt) :], lengths


def test_a_row_grows_with_what_is_written(model):
    """Token for token and pass for pass as the plain loop, whether an end token ends the answer or the room does."""
    params = model.planner.text_params()
    assert params.variable_length
    params, found, alone = params.with_(threshold=0.05, block_length=8), set(), []
    ended = {"mask_id": model.layout.mask_id, "eos_id": model.layout.eos_id, "stop_ids": model.layout.end_ids}
    canvases = [model.prompts.chat([Message("user", text)], 16) for text in ("Hi", "What is it?", "a b c", "Tell me.")]
    for canvas in canvases:
        denoising = Denoising([canvas], params, **ended)
        sizes = []
        while not denoising.done:
            query = denoising.inputs()
            assert query.num_evaluated == denoising.num_tokens(0)
            sizes.append(query.num_evaluated)
            denoising.advance(model.denoiser([query])[0])
        expected, lengths = grown(model, canvas.tokens[:-16].tolist(), params)
        written = denoising.token_ids(0).tolist()
        assert written[: len(expected)] == expected
        assert set(written[len(expected) :]) <= {model.layout.eos_id}
        assert sizes == lengths
        found.add((denoising.finish_reasons[0], len(expected)))
        alone.append(written)
    assert found >= {("stop", 8), ("length", 16)}
    for cache in (None, CacheConfig(refresh=1)):
        together = Denoising(canvases, params.with_(cache=cache), **ended)
        for _ in denoise([together], model.denoiser):
            pass
        assert [together.token_ids(i).tolist() for i in range(len(canvases))] == alone


def test_a_training_row_shows_the_room_that_the_sampler_shows(model):
    """Rows of the sampler that end behind a block, with what stood there at a step: those of training, for the same answer."""
    stage = settled(STAGES["finetune"], replace(model.defaults, block_length=4), model.family)
    component = next(c for c in stage.components if c.name == "text")
    assert component.noise == ("last_block",)
    answer, prompts = "a b c d e", model.prompts
    samples = RecordExamples(Epochs([record("Hi?", answer)], shuffle=False), encode=None)
    (row,) = ComponentRows(component, stage, samples, prompts, seed=0, num_image_tokens=0).rows([0])
    first, ids = int(row.canvas.fields[0].positions[0]), row.canvas.tokens
    assert len(ids) == first + 12  # nine letters and the end, in blocks of 4
    params = model.planner.text_params().with_(block_length=4, threshold=None, steps=12)
    denoising = Denoising([row.canvas.masked(model.layout.mask_id)], params, mask_id=model.layout.mask_id)
    shown = dict[int, set[int]]()  # length of the row -> numbers of masks in its last block
    while not denoising.done:
        query = denoising.inputs()
        ((start, stop),) = query.spans
        seen = query.tokens[0, start:stop]
        is_masked = seen == model.layout.mask_id
        assert seen[~is_masked].tolist() == ids[:stop][~is_masked].tolist()
        assert not is_masked[:-4].any()
        assert query.block_masks == ()
        shown.setdefault(stop, set()).add(int(is_masked.sum()))
        logits = torch.zeros(1, query.positions.shape[1], query.ids.stop - query.ids.start)
        for i, position in enumerate(query.positions[0].tolist()):
            logits[0, i, int(ids[position]) - query.ids.start] = 20.0
        denoising.advance(logits)
    learned = dict[int, set[int]]()
    for index in range(64):
        (view,) = noise_row(replace(row, index=index), component, layout=model.layout, seed=0, stratified=True, block_length=4)
        view = view.cut()
        is_masked = view.tokens == model.layout.mask_id
        assert view.tokens[~is_masked].tolist() == ids[: len(view.tokens)][~is_masked].tolist()
        assert not is_masked[:-4].any()
        assert view.block_mask is None
        learned.setdefault(len(view.tokens), set()).add(int(is_masked.sum()))
    assert learned == shown == {first + 4 * n: {1, 2, 3, 4} for n in (1, 2, 3)}


def test_rows_that_cannot_grow_are_refused(model, saved, data, tmp_path):
    lumina = MMaDA.from_pretrained(saved("lumina-dimoo"), device="cpu")
    stage = settled(STAGES["finetune"], replace(lumina.defaults, variable_length=True), lumina.family)
    component = next(c for c in stage.components if c.name == "text")
    with pytest.raises(
        InputError, match=r"last_block, or defaults\.variable_length=true, needs an answer that ends its row, and LuminaPrompts"
    ):
        ComponentRows(component, stage, RecordExamples([], encode=None), lumina.prompts, seed=0, num_image_tokens=0)
    fixed = settled(STAGES["finetune"], replace(model.defaults, variable_length=False), model.family)
    assert next(c for c in fixed.components if c.name == "text").noise == ("count",)
    with pytest.raises(InputError, match="variable_length=True needs full_attention=True"):
        replace(model.defaults, full_attention=False)


def test_updates_of_rewards_show_the_room_that_the_sampler_shows(model):
    """Each look of an update ends behind its block, and sees itself whole."""
    from mmada.rl.batch import TrainSegment, collate
    from mmada.rl.mask_samples import blocks_of, draw_mask_samples
    from mmada.rl.prompts import Prompt
    from mmada.rl.rollout import Decoding, generate_rollouts
    from mmada.rl.settings import ObjectiveConfig

    prompt = Prompt(task="text", index=0, request=ChatRequest("Hi?", think=False))
    decoding = Decoding(block_length=4, threshold=0.05, max_new_tokens=12)
    (rollout,) = generate_rollouts([prompt], model.planner, model.denoiser, decoding, num=1, seed=3, record=True)
    (part,) = rollout.parts
    assert part.variable_length
    assert not part.looks_ahead
    first = int(part.field.positions[0])
    assert [b.num_kept for b in blocks_of(part, "block")] == [4 * (n + 1) for n in range(-(-part.num_tokens // 4))]
    for name in ("unigrpo", "trace"):
        (looks,) = draw_mask_samples(part, ObjectiveConfig(name=name, updates=1), torch.Generator().manual_seed(0))
        batch = collate(
            [TrainSegment(part=part, mask_samples=looks, advantage=1.0, task=0)], layout=model.layout, normalizers=torch.ones(1)
        )
        assert sorted(batch.packing.lengths) == sorted(first + look.num_kept for look in looks)
        assert batch.packing.block_ids is None or not batch.packing.block_ids.any()
    with pytest.raises(InputError, match="variable_length=True never see it; use masking='block'"):
        blocks_of(part, "whole")


def test_surfaces_write_as_the_model_was_taught(model):
    """Answers of the pipeline, of the server and of rollouts grow; holes do not."""
    from mmada.rl.rollout import Decoding
    from mmada.serve.config import ServeConfig
    from mmada.serve.request_parser import RequestParser
    from mmada.serve.schema import ChatBody

    parser = RequestParser(model.planner, ServeConfig(), factor=1)
    body = ChatBody.model_validate({"messages": [{"role": "user", "content": "What is it?"}], "seed": 3})
    (asked,) = parser.chat(body).engine_requests
    assert asked.request.params.variable_length
    fixed = model.planner.text_params(variable_length=False)
    assert model.run([asked.request])[0].text == model.chat("What is it?", seed=3).text
    assert Decoding().text(model.planner).variable_length
    assert not model.planner.fill_params().variable_length
    assert fixed.looks_ahead
    for changes in ({"block_length": None}, {"full_attention": False}, {"propose_any": True, "steps": 4}):
        with pytest.raises(InputError, match="variable_length=True needs a block_length"):
            model.planner.text_params(**changes)
    with pytest.raises(InputError, match="variable_length=True needs open positions that are one run at the end"):
        Denoising([model.prompts.infill(["a", Hole(2), "b"])], model.planner.text_params(), mask_id=model.layout.mask_id)


def test_it_is_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = MMaDA.from_pretrained(tmp_path, device="cpu")
    assert (loaded.family.name, loaded.model.config.weight_tying, loaded.model.config.n_kv_heads) == ("illada", True, 2)
    values = json.loads((tmp_path / "config.json").read_text())
    assert (values["architectures"], values["model_type"]) == (["LLaDAModelLM"], "llada")
    assert loaded.fill("a [MASK:4]", seed=2) == model.fill("a [MASK:4]", seed=2)
