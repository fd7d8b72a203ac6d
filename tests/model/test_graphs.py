"""Layers as CUDA graphs. A recorder that computes again from the same tensors stands in for the GPU, so that all but recording itself is tested anywhere."""

import copy

import pytest
import torch

from mmada.canvas import Canvas, Field, IdRange
from mmada.model import TransformerDenoiser
from mmada.model.graphs import LayerGraphs
from mmada.sampling import CacheConfig, Denoising, SamplingParams, denoise, fast_image, fast_text

from ..lazy import later

peft = later("peft")

TEXT, CODES, MASK = IdRange(0, 32, (22,)), IdRange(32, 48), 22
RECIPES = {
    "no cache": SamplingParams(steps=16, block_length=8, stop_at_eos=False),
    "prefix": SamplingParams(steps=16, block_length=8, cache=CacheConfig(after=None), stop_at_eos=False),
    "dual": SamplingParams(steps=16, block_length=8, cache=CacheConfig(), stop_at_eos=False),
    "dual, refreshed": SamplingParams(steps=16, block_length=8, cache=CacheConfig(refresh=3), stop_at_eos=False),
    "blocks that do not see ahead": SamplingParams(
        steps=16, block_length=8, full_attention=False, cache=CacheConfig(after=None), stop_at_eos=False
    ),
    "threshold": fast_text(block_length=8),
}


class Recorder:
    """Replays by computing again: from the tensors that it was given, or it is wrong."""

    def __init__(self, *, error=None):
        self.num_recordings, self.error = 0, error

    def __call__(self, compute):
        if self.error is not None:
            raise self.error
        self.num_recordings += 1
        return compute


def canvas(num_given, num_open=16, ids=TEXT):
    tokens = torch.cat([torch.arange(num_given) % 20, torch.full((num_open,), MASK)])
    return Canvas(tokens, torch.ones(len(tokens)).bool(), (Field(torch.arange(num_given, len(tokens)), ids, num_open),))


def graphs_of(model, recorder, **settings):
    return LayerGraphs(model, model.layers, record=recorder, device="cpu", **settings)


def run(model, layers, denoisings):
    denoiser = TransformerDenoiser(model)
    denoiser._layers = layers
    for _ in denoise(denoisings, denoiser):
        pass
    return [d.token_ids(row).tolist() for d in denoisings for row in range(len(d.counts))]


def answers(params, lengths):
    return [Denoising([canvas(n) for n in lengths], params, mask_id=MASK, eos_id=1)]


@pytest.mark.parametrize("lengths", [(9,), (9, 9, 12)], ids=["one row", "three rows"])
@pytest.mark.parametrize("params", RECIPES.values(), ids=RECIPES)
def test_recorded_passes_give_the_same_tokens(model, params, lengths):
    recorder = Recorder()
    layers = graphs_of(model, recorder)
    assert run(model, layers, answers(params, lengths)) == run(model, None, answers(params, lengths))
    assert recorder.num_recordings <= len(layers._graphs)
    if params.threshold is None:
        assert layers.num_replays > 0


def test_requests_of_every_kind_share_recorded_passes(model):
    def mixture():
        drawing = fast_image(steps=6, guidance_scale=2.0)
        return [
            *(Denoising([canvas(n)], params, mask_id=MASK) for n, params in zip((9, 5, 7), list(RECIPES.values()), strict=False)),
            Denoising([canvas(6, ids=CODES)], drawing, mask_id=MASK, negatives=[canvas(2, ids=CODES)], seeds=[3]),
        ]

    layers = graphs_of(model, Recorder(), after=1)
    assert run(model, layers, mixture()) == run(model, None, mixture())
    assert layers.num_replays > 0


def test_where_nothing_is_recorded_the_last_block_computes_only_what_is_asked_for(model):
    """With graphs, which every pipeline has, a CPU computed the last block for all tokens."""
    sizes = []
    hook = model.model.transformer["blocks"][-1].ff_proj.register_forward_hook(lambda *called: sizes.append(called[1][0].shape[1]))
    try:
        params = SamplingParams(steps=16)
        found = run(model, LayerGraphs(model, model.layers), [Denoising([canvas(9)], params, mask_id=MASK)])
    finally:
        hook.remove()
    assert sizes == [max(4, num_open) for num_open in range(16, 0, -1)]  # of 25 tokens
    assert found == run(model, graphs_of(model, Recorder()), [Denoising([canvas(9)], params, mask_id=MASK)])


def test_a_shape_is_recorded_once_when_it_returns(model):
    recorder = Recorder()
    layers = graphs_of(model, recorder, after=2)
    run(model, layers, answers(RECIPES["no cache"], (9,)))
    assert recorder.num_recordings == 1
    assert layers.num_replays == 14  # of 16 passes
    run(model, layers, answers(RECIPES["no cache"], (9,)))
    assert (recorder.num_recordings, layers.num_replays) == (1, 30)


def test_one_recording_serves_every_block_of_a_dual_cache(model):
    recorder = Recorder()
    layers = graphs_of(model, recorder, after=1)
    params = SamplingParams(steps=16, block_length=4, cache=CacheConfig(before=0, after=0), stop_at_eos=False)
    run(model, layers, [Denoising([canvas(9)], params, mask_id=MASK)])
    # 4 blocks of 4 steps: a whole pass each, the first of which fills the memory, then windows, in one shape wherever they stand
    assert recorder.num_recordings == 2
    assert layers.num_replays == (3 - 1) + (12 - 1)


def test_weights_that_moved_are_recorded_anew(model):
    model = copy.deepcopy(model)
    recorder = Recorder()
    layers = graphs_of(model, recorder)
    run(model, layers, answers(RECIPES["no cache"], (9,)))
    norm = model.model.transformer["ln_f"]
    norm.weight = torch.nn.Parameter(norm.weight * 2)
    again = run(model, layers, answers(RECIPES["no cache"], (9,)))
    assert recorder.num_recordings == 2
    assert again == run(model, None, answers(RECIPES["no cache"], (9,)))


def test_few_recordings_are_kept_and_long_passes_have_none(model):
    recorder = Recorder()
    layers = graphs_of(model, recorder, max_graphs=2, after=0)
    for length in (5, 6, 7, 5):
        run(model, layers, answers(SamplingParams(steps=4), (length,)))
    assert len(layers._graphs) == 2
    assert recorder.num_recordings == 4
    layers = graphs_of(model, recorder, max_tokens=20)
    run(model, layers, answers(RECIPES["no cache"], (9,)))
    assert (recorder.num_recordings, layers.num_replays) == (4, 0)


def test_what_cannot_be_recorded_runs_as_ever(model):
    layers = graphs_of(model, Recorder(error=RuntimeError("operation not permitted when stream is capturing")))
    with pytest.warns(RuntimeWarning, match="not recorded as CUDA graphs, and take longer: operation not permitted"):
        found = run(model, layers, answers(RECIPES["no cache"], (9,)))
    assert found == run(model, None, answers(RECIPES["no cache"], (9,)))


def test_without_memory_for_a_recording_the_others_are_given_up_and_later_ones_tried(model):
    recorder = Recorder()
    layers = graphs_of(model, recorder)
    run(model, layers, answers(RECIPES["no cache"], (9,)))
    recorder.error = torch.OutOfMemoryError("CUDA out of memory")
    assert run(model, layers, answers(RECIPES["no cache"], (7,))) == run(model, None, answers(RECIPES["no cache"], (7,)))
    assert not layers._graphs
    recorder.error = None
    run(model, layers, answers(RECIPES["no cache"], (7,)))
    assert recorder.num_recordings == 2


def test_adapters_that_can_be_turned_off_and_autocast_are_not_recorded(model):
    recorder = Recorder()
    layers = graphs_of(model, recorder, after=0)
    with torch.autocast("cpu", torch.bfloat16):
        run(model, layers, answers(RECIPES["no cache"], (9,)))
    adapted = copy.deepcopy(model)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["q_proj"]), adapted)
    layers = graphs_of(adapted, recorder, after=0)
    run(adapted, layers, answers(RECIPES["no cache"], (9,)))
    assert recorder.num_recordings == 0


def test_elsewhere_nothing_is_recorded(model):
    recorder = Recorder()
    layers = LayerGraphs(model, model.layers, record=recorder)  # for CUDA devices, as by default
    run(model, layers, answers(RECIPES["no cache"], (9,)))
    tokens = torch.arange(4)[None]
    model.trunk(tokens, torch.ones(1, 4).bool(), layers=graphs_of(model, recorder, after=0))  # not packed
    assert recorder.num_recordings == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("params", RECIPES.values(), ids=RECIPES)
def test_on_a_gpu_graphs_give_the_same_bits(build_model, params):
    model, row = build_model().to("cuda", torch.bfloat16), canvas(40).to("cuda")

    def answer(graphs):
        denoising, denoiser = Denoising([row, row], params, mask_id=MASK), TransformerDenoiser(model, graphs=graphs)
        logits = []
        while not denoising.done:
            logits += denoiser([denoising.inputs()])
            denoising.advance(logits[-1])
        return logits, denoiser

    expected, _ = answer(False)
    found, denoiser = answer(True)
    assert denoiser._layers.num_replays > 0 or params.threshold is not None
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
