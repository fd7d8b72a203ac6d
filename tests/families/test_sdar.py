"""SDAR on the backbone of Qwen3: files as transformers writes them, rows in blocks in every path, and what it cannot do.

The published sampler is in tests/golden/families/test_golden_sdar.py, rows of training in tests/train/test_batch.py.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mmada.canvas import BlockMask, Canvas, Message, causal_block_ids
from mmada.errors import CheckpointError, InputError
from mmada.families import named
from mmada.generation.requests import GenerationConfig
from mmada.hub import networks
from mmada.hub.family import family_of
from mmada.model import Packing, TransformerDenoiser
from mmada.pipeline import MMaDA
from mmada.rl.batch import TrainSegment, collate
from mmada.rl.mask_samples import draw_mask_samples
from mmada.rl.objective import ObjectiveConfig
from mmada.rl.records import Segment
from mmada.rl.step import Policy
from mmada.sampling import CacheConfig, Denoising, SamplingParams, denoise

from ..lazy import later
from .tiny import published, tiny

transformers = later("transformers")
adapter = later("mmada.eval.harness")

SIZES = {
    "hidden_size": 40,
    "intermediate_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def model() -> MMaDA:
    made = tiny(named("sdar"), n_kv_heads=2, head_width=24)
    return made.use(block_length=4)


def test_it_is_told_by_class_and_configuration(tmp_path):
    family = named("sdar")
    directory = published(family, tmp_path / "SDAR-8B-Chat-b32", **SIZES, attention_bias=False, block_size=32)
    found = family_of(directory)
    assert found.layout == family.layout
    defaults = GenerationConfig.load(directory, found)
    assert (defaults.block_length, defaults.full_attention, defaults.prompt_in_blocks, defaults.cache) == (32, False, True, "dual")
    assert GenerationConfig.load(directory, family).block_length == 4
    config = networks.transformer_config(directory)
    assert (config.backbone, config.head_norm, config.head_dim, config.shifted_logits) == ("qwen", True, 16, False)
    with pytest.raises(CheckpointError, match="attention_bias is True, not False"):
        family_of(published(family, tmp_path / "x", **SIZES, attention_bias=True))
    moe = published(family, tmp_path / "y", **SIZES, architectures=["SDARMoeForCausalLM"])
    with pytest.raises(CheckpointError, match="its class 'SDARMoeForCausalLM' reads as none that is known, its vocabulary as SDAR"):
        family_of(moe)


def test_files_of_transformers_are_read_and_logits_are_equal(tmp_path):
    torch.manual_seed(0)
    theirs = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(vocab_size=96, tie_word_embeddings=True, **SIZES)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    layout = {"vocab_size": 96, "image_offset": 90, "codebook_size": 0, "mask_id": 80, "eos_id": 81, "start_header_id": 82, "eot_id": 83}
    values = {**named("sdar").config, **SIZES, "vocab_size": 96, "weight_tying": True, "mask_token_id": 80, "vocab_layout": layout}
    (tmp_path / "config.json").write_text(json.dumps({**values, "family": "sdar", "architectures": ["SDARForCausalLM"]}))
    ours, tokens = networks.load_transformer(tmp_path), torch.randint(80, (1, 18), generator=torch.Generator().manual_seed(1))
    ids = causal_block_ids(6, 12, 4, prompt_in_blocks=True)
    pairs = ids[None, :] <= ids[:, None]
    bias = torch.zeros(1, 1, 18, 18).masked_fill(~pairs, torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=bias).logits
        assert (ours(tokens, pairs[None]).logits - expected).abs().max() < 1e-4
        assert (ours(tokens, Packing.of([18], [BlockMask(ids)])).logits - expected).abs().max() < 1e-4
    networks.save_transformer(ours, tmp_path / "ours")
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert (saved["head_dim"], saved["hidden_size"], saved["family"]) == (16, 40, "sdar")
    assert networks.load_transformer(tmp_path / "ours").config == ours.config


def written(model: MMaDA, canvases: list[Canvas], params: SamplingParams) -> tuple[list[list[int]], int]:
    layout = model.layout
    denoising = Denoising(
        canvases, params, mask_id=layout.mask_id, eos_id=layout.eos_id, stop_ids=[layout.eot_id], seeds=range(len(canvases))
    )
    denoiser = TransformerDenoiser(model.model)
    for _ in denoise([denoising], denoiser):
        pass
    return [denoising.token_ids(i).tolist() for i in range(len(canvases))], denoiser.num_tokens


def test_a_cache_is_exact_and_answers_do_not_depend_on_their_room(model):
    """Prompts of every length modulo the block, alone and together."""
    params = model.planner.text_params(temperature=1.0)
    assert (params.full_attention, params.prompt_in_blocks, params.block_length, params.cache) == (False, True, 4, CacheConfig())
    prompts = [[Message("user", "a" * n)] for n in (1, 2, 3, 4)]
    canvases = [model.prompts.chat(prompt, 16) for prompt in prompts]
    assert len({len(canvas) % 4 for canvas in canvases}) == 4
    together, num_tokens = written(model, canvases, params.with_(stop_at_eos=False))
    plain, more = written(model, canvases, params.with_(stop_at_eos=False, cache=None))
    assert together == plain
    assert num_tokens < more / 2
    for i, prompt in enumerate(prompts[:2]):
        seeded = params.with_(stop_at_eos=False, temperature=0.0)
        longer, _ = written(model, [model.prompts.chat(prompt, 32)], seeded)
        assert longer[0][:12] == written(model, [canvases[i]], seeded)[0][0][:12]


def test_blocks_and_steps_are_counted_with_the_prompts_part(model):
    canvas = model.prompts.chat([Message("user", "abc")], 8)
    begun = (len(canvas) - 8) % 4
    params = SamplingParams(steps=4 * 3, block_length=4, full_attention=False, prompt_in_blocks=True)
    assert params.num_blocks(8, len(canvas) - 8) == -(-(8 + begun) // 4)
    if begun:
        assert params.steps_per_block(8, len(canvas) - 8) == 4
    with pytest.raises(InputError, match="prompt_in_blocks=True needs full_attention=False"):
        SamplingParams(steps=4, prompt_in_blocks=True)
    negative = Canvas(canvas.tokens[1:], canvas.attend[1:], (replace(canvas.fields[0], positions=canvas.fields[0].positions - 1),))
    with pytest.raises(InputError, match="whose prompts end at the same place of a block"):
        Denoising([canvas], params.with_(guidance_scale=1.0), mask_id=model.layout.mask_id, negatives=[negative])


def test_every_surface_samples_in_blocks(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = MMaDA.from_pretrained(tmp_path, device="cpu")
    assert loaded.defaults == model.defaults
    answer = model.chat("Hello", seed=3)
    assert loaded.chat("Hello", seed=3) == answer
    hub = later("mmada.hub.pretrained").MMadaModelLM.from_pretrained(tmp_path)
    assert hub.generation_config.prompt_in_blocks
    ids = torch.tensor([model.prompts.dialogue([Message("user", "Hello")])])
    found = hub.generate(ids, max_new_tokens=model.defaults.max_new_tokens)[0, ids.shape[1] :].tolist()
    expected = list(answer.token_ids)
    assert found == expected[: len(found)]
    with pytest.raises(InputError, match=r"^SDAR cannot fill holes in a text; MMaDA, "):
        model.fill("a [MASK:2] b")


def test_likelihoods_are_asked_block_by_block(model, tmp_path):
    """The surest token first: each block of what is wanted sees what comes before it, and the prompt's part of it."""
    model.save_pretrained(tmp_path)
    harness = adapter.HarnessModel(str(tmp_path), scoring="confidence", device="cpu")
    given, wanted = list(range(60, 66)), list(range(70, 77))
    found, total = harness._likelihood(given, wanted), 0.0
    ids, row = model.layout.text_ids, torch.tensor([*given, *wanted])
    for begin in (4, 8, 12):
        shown, stop = row.clone(), min(begin + 4, 13)
        opened = list(range(max(begin, 6), stop))
        shown[opened] = model.layout.mask_id
        levels = causal_block_ids(6, stop - 6, 4, prompt_in_blocks=True)
        while opened:
            with torch.no_grad():
                logits = model.model(shown[None, :stop], (levels[None, :] <= levels[:, None])[None]).logits[0, :, : ids.stop]
            logits[:, list(ids.suppress_tokens)] = -torch.inf
            logps = logits.double().log_softmax(-1)
            best = max(opened, key=lambda i: float(logps[i, row[i]]))
            total += float(logps[best, row[best]])
            shown[best] = row[best]
            opened.remove(best)
    assert abs(found - total) < 1e-3


@pytest.mark.parametrize("name", ["unigrpo", "espo", "diffu_grpo", "coupled", "spg", "trace"])
def test_views_of_reinforcement_learning_are_what_the_sampler_shows(model, name):
    """Log-probabilities of shared rows equal those of each view alone: what comes before its block as it is, and the block's part of the prompt."""
    layout, size = model.layout, 4
    for words in ("a", "ab", "abc", "abcd"):
        canvas = model.prompts.chat([Message("user", words)], 12)
        first, tokens = len(canvas) - 12, canvas.tokens.clone()
        tokens[first:] = torch.tensor([*range(60, 69), layout.eos_id, layout.eos_id, layout.eos_id])
        part = Segment(
            canvas=replace(canvas, tokens=tokens),
            num_tokens=10,
            is_image=False,
            temperature=1.0,
            block_length=size,
            full_attention=False,
            prompt_in_blocks=True,
            steps=torch.arange(12).where(torch.arange(12) < 10, -1),
        )
        (plan,) = draw_mask_samples(part, ObjectiveConfig(name=name, updates=1), torch.Generator().manual_seed(3))
        segment = TrainSegment(part=part, mask_samples=plan, advantage=1.0, task=0)
        batch = collate(
            [segment],
            layout=layout,
            normalizers=torch.ones(1),
        )
        with torch.no_grad():
            found = Policy(model.model)(batch)[0]
        expected, ids = [], part.field.ids
        for view in plan:
            stop = first + view.num_kept
            begin = (stop - 1) // size * size
            assert stop == min(begin + size, len(tokens))
            shown = tokens.clone()
            if view.given is not None:
                shown[view.given] = layout.mask_id
            shown[first:] = torch.where(view.is_masked & (torch.arange(first, len(tokens)) >= begin), layout.mask_id, tokens[first:])
            levels = causal_block_ids(first, stop - first, size, prompt_in_blocks=True)
            with torch.no_grad():
                logits = model.model(shown[None, :stop], (levels[None, :] <= levels[:, None])[None]).logits[0, :, ids.start : ids.stop]
            logits[:, list(ids.suppress_tokens)] = -torch.inf
            logps = logits.log_softmax(-1)
            expected += [(i, float(logps[i, tokens[i]])) for i in (first + (view.weight > 0).nonzero()[:, 0]).tolist()]
        got = [(int(token) % len(tokens), float(logp)) for token, logp in zip(batch.token, found, strict=True)]
        assert [i for i, _ in sorted(got)] == [i for i, _ in sorted(expected)]
        for (_, a), (_, b) in zip(sorted(got), sorted(expected), strict=True):
            assert abs(a - b) < 1e-4
