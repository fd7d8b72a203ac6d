"""Dream on the backbone of Qwen2: files as transformers writes them, shifted logits in every path, and turns as ChatML.

The published sampler is in tests/golden/families/test_golden_dream.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmada.canvas import Canvas, Field, IdRange, Message
from mmada.errors import CheckpointError, InputError
from mmada.families import named
from mmada.families.dream import published_dream
from mmada.hub import networks, tokenizer
from mmada.hub.family import family_of
from mmada.model import Packing, Transformer, TransformerDenoiser
from mmada.model.quantized import QuantizedLinear
from mmada.pipeline import MMaDA
from mmada.sampling import CacheConfig, Denoising, SamplingParams, denoise
from mmada.sampling.params import MaxLogitCacheConfig, TransferState, time_share

from ..lazy import later
from .tiny import published, tiny

transformers = later("transformers")
pretrained = later("mmada.hub.pretrained")

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}


@pytest.fixture(scope="module")
def model() -> MMaDA:
    return tiny(named("dream"), n_kv_heads=2)


def qwen2(layout, directory: Path):
    """A model of transformers' own class in several files, with a config.json as Dream's."""
    torch.manual_seed(0)
    made = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(vocab_size=layout.vocab_size, tie_word_embeddings=False, **SMALL)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(directory, max_shard_size="20KB")
    own = {"architectures": ["DreamModel"], "model_type": "Dream", "mask_token_id": layout.mask_id, "eos_token_id": layout.eos_id}
    values = {"vocab_size": layout.vocab_size, "hidden_act": "silu", "rope_scaling": None, "tie_word_embeddings": False, **SMALL, **own}
    (directory / "config.json").write_text(json.dumps(values))
    return made


def bidirectional(theirs, tokens: torch.Tensor) -> torch.Tensor:
    """Their logits with a mask that hides nothing, each in the place of the token that it predicts."""
    length = tokens.shape[1]
    logits = theirs(tokens, attention_mask=torch.zeros(len(tokens), 1, length, length)).logits
    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1)


def test_files_of_transformers_are_read_and_logits_are_equal(tmp_path, monkeypatch):
    """Sharded files with the names of Qwen2, read by the family, by transformers' class, and written back."""
    family = named("dream")
    small = replace(
        family,
        layout=replace(
            family.layout,
            vocab_size=128,
            image_offset=100,
            **{f"{name}_id": 90 + i for i, name in enumerate(("mask", "bos", "eos", "start_header", "eot"))},
        ),
    )
    monkeypatch.setattr("mmada.families.choice.FAMILIES", {"dream": small})
    theirs = qwen2(small.layout, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = torch.randint(100, (2, 12), generator=torch.Generator().manual_seed(1))
    attend = torch.ones_like(tokens)
    attend[0, :4] = 0
    ours = networks.load_transformer(tmp_path)
    hub = pretrained.MMadaModelLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = bidirectional(theirs, tokens)
        assert (ours(tokens).logits - expected).abs().max() < 1e-4
        assert (hub(tokens).logits - expected).abs().max() < 1e-4
        alone = bidirectional(theirs, tokens[:1, 4:])
        for found in (ours, hub):
            assert (found(tokens, attend).logits[:1, 5:] - alone[:, 1:]).abs().max() < 1e-4
        packed = ours(torch.cat([tokens[0, 4:], tokens[1]])[None], Packing.of([8, 12])).logits[0]
        assert (packed[:8] - alone[0]).abs().max() < 1e-4
        assert (packed[8:] - expected[1]).abs().max() < 1e-4
    networks.save_transformer(ours, tmp_path / "ours")
    hub.save_pretrained(tmp_path / "hub")
    for written in ("ours", "hub"):
        again = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path / written)
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in theirs.state_dict().items())
        assert networks.load_transformer(tmp_path / written).config.layout == small.layout


def test_it_is_told_by_class_and_configuration(tmp_path):
    family = named("dream")
    directory = published(family, tmp_path / "Dream-v0-Instruct-7B", **SMALL, hidden_act="silu", rope_scaling=None)
    assert family_of(directory).layout == family.layout
    config = networks.transformer_config(directory)
    assert (config.backbone, config.include_qkv_bias, config.shifted_logits, config.rms_norm_eps) == ("qwen", True, True, 1e-6)
    wrong = {
        "hidden_act": ("gelu", "hidden_act is 'gelu', not 'silu'"),
        "use_sliding_window": (True, "use_sliding_window is True, not False"),
        "mask_token_id": (5, "mask_token_id is 5, not 151666"),
        "architectures": (["LLaDAModelLM"], "its vocabulary as Dream"),
    }
    for i, (name, (value, message)) in enumerate(wrong.items()):
        with pytest.raises(CheckpointError, match=message):
            family_of(published(family, tmp_path / str(i), **SMALL, **{name: value}))
    scaled = published(family, tmp_path / "scaled", **SMALL, rope_scaling={"type": "yarn", "factor": 4.0})
    with pytest.raises(InputError, match="rope_scaling has rope_type='yarn'"):
        networks.transformer_config(scaled)
    newer = published(
        family, tmp_path / "newer", **{**SMALL, "rope_theta": None}, rope_parameters={"rope_type": "default", "rope_theta": 7.0}
    )
    values = json.loads((newer / "config.json").read_text())
    del values["rope_theta"]
    (newer / "config.json").write_text(json.dumps(values))
    assert networks.transformer_config(newer).rope_theta == 7.0


def test_a_token_that_fills_the_room_ends_a_text(tmp_path):
    """DiffuCoder's tokenizer has one token more."""
    directory = published(named("dream"), tmp_path / "DiffuCoder-7B-Instruct")
    file = directory / "tokenizer.json"
    values = json.loads(file.read_text())
    values["added_tokens"].append({"content": "<|dlm_pad|>", "id": 151667})
    file.write_text(json.dumps(values))
    layout = family_of(directory).layout
    assert (layout.image_offset, layout.fill_id) == (151668, 151667)
    assert layout.fill_id in layout.end_ids


def test_turns_are_chatml_with_and_without_a_template(model, tmp_path):
    turns = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", " a <|im_end|> b ")]
    ids = model.prompts.dialogue(turns)
    assert model.prompts.tokenizer.decode(ids).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")
    assert ids.count(model.layout.eot_id) == 4
    model.save_pretrained(tmp_path)
    loaded = MMaDA.from_pretrained(tmp_path, device="cpu")
    assert loaded.prompts.tokenizer.template is not None
    assert loaded.prompts.dialogue(turns) == ids
    assert loaded.prompts.dialogue(turns, thinking="Think. ") == model.prompts.dialogue(turns, thinking="Think. ")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    plain = [{"role": turn.role, "content": turn.content} for turn in turns[:2]]
    assert list(theirs.apply_chat_template(plain, add_generation_prompt=True)["input_ids"]) == model.prompts.dialogue(turns[:2])
    # A template of the files stands over the plain form, and stays where it is.
    own = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(own)
    other = MMaDA.from_pretrained(tmp_path, device="cpu")
    assert other.prompts.tokenizer.decode(other.prompts.dialogue(turns[:2])) == "<|im_start|>Be brief.<|im_start|>Hi"
    other.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == own
    for wrong, message in (
        ([Message("robot", "x"), turns[1]], "role='robot' of message 0"),
        ([Message("user", " ")], "content='' of message 0"),
    ):
        with pytest.raises(InputError, match=message):
            model.prompts.dialogue(wrong)
    answer = model.fill("a [MASK:2] b", messages="What?")
    assert answer.text.startswith("a ")


def filled(model: MMaDA, params: SamplingParams) -> tuple[list[list[int]], int]:
    canvases = [model.prompts.chat([Message("user", text)], 16) for text in ("Hi", "What is it?")]
    denoising = Denoising(canvases, params, mask_id=model.layout.mask_id, seeds=[1, 2])
    denoiser = TransformerDenoiser(model.model)
    for _ in denoise([denoising], denoiser):
        pass
    return [denoising.token_ids(i).tolist() for i in range(2)], denoiser.num_tokens


def test_caches_know_that_the_token_before_predicts(model):
    """Exact where they say so: `refresh=1`, blocks that do not see ahead, and an ML-Cache that leaves nothing out."""
    plain = SamplingParams(steps=16, block_length=8, stop_at_eos=False, temperature=1.0)
    whole = filled(model, plain)
    assert filled(model, plain.with_(cache=CacheConfig(refresh=1)))[0] == whole[0]
    causal = plain.with_(full_attention=False)
    written, num_tokens = filled(model, causal)
    for cache in (CacheConfig(), CacheConfig(after=None)):
        again, less = filled(model, causal.with_(cache=cache))
        assert again == written
        assert less < num_tokens
    assert filled(model, plain.with_(cache=CacheConfig()))[1] < whole[1]
    one_block = plain.with_(block_length=None)
    cached = one_block.with_(cache=MaxLogitCacheConfig(cache_ratio=0, warmup_ratio=0))
    assert filled(model, cached)[0] == filled(model, one_block)[0]
    partly, less = filled(model, one_block.with_(cache=MaxLogitCacheConfig(cache_ratio=0.5, warmup_ratio=0)))
    assert less < filled(model, one_block)[1]
    assert all(model.layout.mask_id not in row for row in partly)


def test_labels_are_unshifted_and_the_loss_is_that_of_the_token_before(model, tmp_path):
    networks.save_transformer(model.model, tmp_path)
    hub = pretrained.MMadaModelLM.from_pretrained(tmp_path).eval()
    theirs = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path).eval()
    clean = torch.randint(250, (2, 10), generator=torch.Generator().manual_seed(0))
    shown, labels = clean.clone(), torch.full_like(clean, -100)
    shown[:, 4:7], labels[:, 4:7] = model.layout.mask_id, clean[:, 4:7]
    with torch.no_grad():
        expected = F.cross_entropy(bidirectional(theirs, shown)[:, 4:7].flatten(0, 1), clean[:, 4:7].flatten())
        assert float((hub(shown, labels=labels).loss - expected).abs()) < 1e-5


def test_quantized_matrices_keep_their_biases(model, tmp_path):
    with torch.no_grad():
        for block in model.model.blocks:
            block.self_attn.q_proj.bias.normal_()
    model.save_pretrained(tmp_path)
    packed = MMaDA.from_pretrained(tmp_path, device="cpu", quantize="int8")
    layer = packed.model.blocks[0].self_attn.q_proj
    assert isinstance(layer, QuantizedLinear)
    assert torch.equal(layer.bias, model.model.blocks[0].self_attn.q_proj.bias)
    assert sum(isinstance(part, QuantizedLinear) for part in packed.model.modules()) == 7 * 2
    packed.save_pretrained(tmp_path / "int8")
    again, tokens = MMaDA.from_pretrained(tmp_path / "int8", device="cpu"), torch.arange(20)[None]
    with torch.no_grad():
        plain, found = model.model(tokens).logits, packed.model(tokens).logits
        assert torch.equal(again.model(tokens).logits, found)
        assert 0 < (found - plain).abs().max() < 0.2 * plain.abs().max()


def test_the_times_are_those_of_linspace():
    for steps in (1, 2, 5, 20, 512):
        for eps in (1e-3, 0.05):
            times = torch.linspace(1, eps, steps + 1)
            count = torch.full((1,), steps)
            for step in range(steps):
                state = TransferState(count, count, count, torch.tensor([step]), count)
                expected = 1.0 if step == steps - 1 else float(1 - times[step + 1] / times[step])
                assert float(time_share(eps)(state)) == expected


def test_the_published_sampler_draws_as_it_says(model):
    """origin: each position by itself. alg_temp: the first position by the softmax of its confidence. False alarm: 1 in 10,000 each."""
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.5, 0.0, 0.0]]).repeat(1500, 1, 1)
    ids = IdRange(0, 3)
    canvas = Canvas(torch.tensor([3, 3]), torch.ones(2, dtype=torch.bool), (Field(torch.arange(2), ids, 2),))

    def first_step(**settings) -> torch.Tensor:
        params = published_dream(eps=0.0, **settings).with_(propose_any=False)
        denoising = Denoising([canvas] * 1500, params, mask_id=3)
        denoising.inputs()
        denoising.advance(logits)
        return torch.stack([denoising.token_ids(row) != 3 for row in range(1500)])

    share = 0.25
    committed = first_step(steps=4, alg="origin").float().mean(0)
    assert (committed - share).abs().max() < 4 * (share * (1 - share) / 1500) ** 0.5
    chosen = first_step(steps=2, alg="maskgit_plus", alg_temp=0.1)
    assert bool((chosen.sum(1) == 1).all())
    expected = float((logits[0].softmax(-1).amax(-1) / 0.1).softmax(0)[1])
    assert abs(float(chosen[:, 1].float().mean()) - expected) < 4 * (expected / 1500) ** 0.5
    with pytest.raises(InputError, match="alg='entropie' is unknown"):
        published_dream(alg="entropie")


def test_names_of_layers_are_understood_in_both_ways(model):
    from mmada.model.transformer import in_block, is_table, layer_names

    names = [name for name, _ in model.model.named_parameters()]
    assert {name for name in names if is_table(name)} == {"model.embed_tokens.weight", "lm_head.weight"}
    assert sum(map(in_block, names)) == len(names) - 3
    config = model.model.config
    assert layer_names(config, ["q_proj", "attn_out", "ff_out"]) == ["q_proj", "o_proj", "down_proj", "lm_head"]
    assert layer_names(config, ["o_proj", "attn_out"]) == ["o_proj"]
    assert layer_names(tiny(named("llada")).model.config, ["attn_out"]) == ["attn_out"]


def test_what_a_backbone_does_not_have_is_refused():
    for changes, message in (
        ({"backbone": "qwen", "short_conv": 9}, "short_conv=9 with backbone='qwen'"),
        ({"head_norm": True}, "head_norm=True with backbone='mmada'"),
        ({"backbone": "gwen"}, r"backbone='gwen' is unknown: did you mean 'qwen'\?"),
        ({"head_width": 3}, "head_width=3 must be an even number"),
    ):
        with pytest.raises(InputError, match=message):
            networks.TransformerConfig(**changes)


def test_an_old_tokenizer_of_two_files_makes_a_checkpoint(model, tmp_path):
    """vocab.json and merges.txt, as Dream publishes them."""
    model.save_pretrained(tmp_path)
    core = tokenizer.byte_level(special=()).core
    core.model.save(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    strings = {model.layout.special(name): string for name, string in model.family.strings.items()}
    added = {str(i): {"content": strings[i], **flags} for i in sorted(strings)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "DreamTokenizer", "added_tokens_decoder": added}))
    loaded = MMaDA.from_pretrained(tmp_path, device="cpu")
    assert loaded.prompts.dialogue([Message("user", "Hi you")]) == model.prompts.dialogue([Message("user", "Hi you")])


def test_adapters_have_the_names_that_peft_knows(model, tmp_path):
    from mmada.train.lora import Lora, inject, save_adapter

    adapted = Transformer(model.model.config)
    adapted.load_state_dict(model.model.state_dict())
    inject(adapted, Lora(rank=2), seed=0)
    save_adapter(adapted, adapted.state_dict(), tmp_path)
    names = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert set(names) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"}


def plainly(theirs, row: list[int], mask_id: int, *, steps: int, eps: float, score) -> list[int]:
    """The published sampler as a plain loop over one row: what is open is a list, times are floats, the network is transformers'."""
    times = torch.linspace(1, eps, steps + 1)
    for step in range(steps):
        is_open = [i for i, token in enumerate(row) if token == mask_id]
        with torch.no_grad():
            logits = bidirectional(theirs, torch.tensor([row]))[0, is_open]
        share = float(1 - times[step + 1] / times[step]) if step < steps - 1 else 1.0
        number = int(torch.tensor(len(is_open)) * torch.tensor(share))
        sure, tokens = score(logits.softmax(-1)), logits.argmax(-1).tolist()
        for k in sorted(range(len(is_open)), key=lambda k: -float(sure[k]))[:number]:
            row[is_open[k]] = tokens[k]
    return row


SCORES = {
    "maskgit_plus": lambda p: p.amax(-1),
    "topk_margin": lambda p: p.sort(-1, descending=True).values[:, 0] - p.sort(-1, descending=True).values[:, 1],
    "entropy": lambda p: (p * (p + 1e-10).log()).sum(-1),
}


@pytest.mark.parametrize("alg", SCORES)
def test_the_published_sampler_at_other_sizes_is_a_plain_loop(alg):
    """Other widths, heads, lengths, steps and seeds than the recorded ones; holes between given tokens, too."""
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        heads, rows = 2 + seed, 50 + 7 * seed
        sizes = {
            **SMALL,
            "hidden_size": 16 * heads,
            "num_attention_heads": heads,
            "num_key_value_heads": 1,
            "num_hidden_layers": 1 + seed % 2,
        }
        torch.manual_seed(seed)
        theirs = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(vocab_size=rows, tie_word_embeddings=False, **sizes)).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        ours = Transformer(replace(networks.TransformerConfig.from_dict({**sizes, "vocab_size": rows}), **named("dream").config)).eval()
        ours.load_state_dict(theirs.state_dict())
        mask_id, tokens = rows - 1, torch.randint(rows - 1, (14 + 5 * seed,), generator=generator)
        positions = torch.randperm(len(tokens) - 1, generator=generator)[: 8 + seed].sort().values + 1
        tokens[positions] = mask_id
        field = Field(positions, IdRange(0, rows), len(positions))
        params = published_dream(steps=4 + 3 * seed, alg=alg, eps=0.01)
        denoising = Denoising([Canvas(tokens, torch.ones_like(tokens, dtype=torch.bool), (field,))], params, mask_id=mask_id)
        for _ in denoise([denoising], TransformerDenoiser(ours)):
            pass
        expected = plainly(theirs, tokens.tolist(), mask_id, steps=4 + 3 * seed, eps=0.01, score=SCORES[alg])
        assert denoising.canvas(0).tokens.tolist() == expected
