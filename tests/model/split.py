"""What the processes of tests/model/test_tensor_parallel.py do."""

import gc
import os
import signal
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from mmada.canvas import Canvas, Field, KVCache, Query
from mmada.errors import MMaDAError
from mmada.hub import weights
from mmada.model import TransformerDenoiser
from mmada.model.mirror import LeadingDenoiser, follow
from mmada.model.tensor_parallel import TPGroup, own_range, split_dim
from mmada.sampling import CACHES, Denoising, SamplingParams, denoise, named_cache

from .conftest import LAYOUT, build

CHANGES = [{"weight_tying": True, "image_positions": 3, "short_conv": 5}, {"n_kv_heads": 2, "attention_layer_norm": True}]
TOKENS = torch.randint(48, (3, 10), generator=torch.Generator().manual_seed(1))


def main(folder):
    """One of two processes: passes and gradients of split models beside those of whole ones; then one leads and one follows."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    tp = TPGroup(dist.get_rank(), dist.get_world_size())
    facts = [compared(changes, tp) for changes in CHANGES]
    narrow = narrow_logits(tp)
    part = build(**CHANGES[1])
    weights.split(part, tp)
    if tp.rank:
        followed = TransformerDenoiser.__call__

        def noted(denoiser, queries):
            gc.collect()
            counts.append(sum(isinstance(one, KVCache) for one in gc.get_objects()))
            return followed(denoiser, queries)

        counts, TransformerDenoiser.__call__ = [], noted
        follow(part, dist.new_group(backend="gloo"))
        torch.save(counts, Path(folder) / "counts.pt")
        return
    leading = LeadingDenoiser(part, dist.new_group(backend="gloo"))
    whole = TransformerDenoiser(build(**CHANGES[1]))
    answers = {name: [answered(denoiser, name) for denoiser in (whole, leading)] for name in CACHES}
    refused = [refusal(lambda: part(TOKENS)), refusal(lambda: leading([too_long()]))]
    interrupted(leading)
    again = answered(leading, "none")  # neither an error of the queries nor an interrupt drives the processes apart
    leading.close()
    refused.append(refusal(lambda: answered(leading, "none")))
    torch.save({"compared": facts, "narrow": narrow, "answers": answers, "again": again, "refused": refused}, Path(folder) / "facts.pt")


def narrow_logits(tp):
    """Of weights in bfloat16: those of a whole model and of a split one."""
    found = []
    for is_split in (False, True):
        model = build(**CHANGES[1]).bfloat16()
        if is_split:
            weights.split(model, tp)
        query = Query(TOKENS, ((0, 10),) * 3, torch.arange(10).repeat(3, 1), LAYOUT.text_ids)
        found += TransformerDenoiser(model)([query])
    return found


def refusal(call):
    try:
        call()
    except MMaDAError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def interrupted(leading):
    """Ctrl-C in a pass."""
    trunk = leading.model.trunk
    leading.model.trunk = lambda *args, **kwargs: (os.kill(os.getpid(), signal.SIGINT), trunk(*args, **kwargs))[1]
    try:
        answered(leading, "none")
    except KeyboardInterrupt:
        del leading.model.trunk
        return
    raise AssertionError("the interrupt was lost")


def compared(changes, tp):
    """Largest differences: of logits, of those of a slice, and, as a share of the largest number, of gradients."""
    whole, part = build(**changes), build(**changes)
    weights.split(part, tp)
    with torch.inference_mode():
        logits = [model(TOKENS).logits for model in (whole, part)]
        images = [model(TOKENS, vocab=(32, 48)).logits for model in (whole, part)]
    for model in (whole, part):
        model.train().checkpoint_gradients()
        model(TOKENS).logits.logsumexp(-1).square().mean().backward()
    worst, named = 0.0, dict(whole.named_parameters())
    for name, parameter in part.named_parameters():
        gradient = named[name].grad
        if (dim := split_dim(name)) is not None:
            start, stop = own_range(gradient.shape[dim], tp.rank, tp.size)
            gradient = gradient.narrow(dim, start, stop - start)
        worst = max(worst, float((parameter.grad - gradient).abs().max() / gradient.abs().max()))
    return [float((one - other).abs().max()) for one, other in (logits, images)] + [worst]


def answered(denoiser, cache):
    """Tokens of two rows that are written block by block."""
    torch.manual_seed(0)
    canvases = []
    for given in (5, 7):
        tokens = torch.cat([torch.randint(20, (given,)), torch.full((12,), LAYOUT.mask_id)])
        canvases.append(
            Canvas(tokens, torch.ones_like(tokens, dtype=torch.bool), (Field(torch.arange(given, given + 12), LAYOUT.text_ids, 12),))
        )
    params = SamplingParams(steps=6, block_length=4, stop_at_eos=False, cache=named_cache(cache))
    denoising = Denoising(canvases, params, mask_id=LAYOUT.mask_id)
    for _ in denoise([denoising], denoiser):
        pass
    return [denoising.token_ids(row) for row in range(2)]


def too_long():
    """A row beyond the context."""
    tokens = torch.zeros(1, 4097, dtype=torch.long)
    return Query(tokens, ((0, 4097),), torch.zeros(1, 1, dtype=torch.long), LAYOUT.text_ids)
