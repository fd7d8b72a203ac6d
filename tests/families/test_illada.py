"""iLLaDA: no recorded numbers. Facts at load, the chat template, and properties of answers from random weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmada.canvas import Hole, Message
from mmada.errors import CheckpointError, InputError, TokenizerError
from mmada.families import named
from mmada.hub import networks, tokenizer
from mmada.hub.family import family_of
from mmada.pipeline import MMaDA
from mmada.sampling import CacheConfig, Denoising, SamplingParams, denoise

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


def test_surfaces_write_as_the_model_was_taught(model):
    """Answers of the pipeline and of the server grow; what an update of reinforcement learning masks does not, nor do holes."""
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
    assert not Decoding().text(model.planner).variable_length
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
