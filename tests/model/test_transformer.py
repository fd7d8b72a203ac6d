import pytest
import torch

from mmada.canvas import VocabLayout
from mmada.errors import InputError
from mmada.model import Packing, Transformer, preset
from mmada.model.image_positions import image_position_ids
from mmada.model.layers import RMSNorm

LAYOUT = VocabLayout.compact(36, 64)


def naive_logits(model, tokens, pairs):
    """The published forward pass in float64 from the tensors alone: tokens (L,), pairs (L, L) bool -> (L, V)."""
    w, c = {name: tensor.double() for name, tensor in model.state_dict().items()}, model.config
    length, hd = len(tokens), c.d_model // c.n_heads

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + c.rms_norm_eps).sqrt() * w[name]

    angle = torch.arange(length).double()[:, None] * c.rope_theta ** (-torch.arange(0, hd, 2).double() / hd)

    def heads(x):
        """(L, H * hd) -> (H, L, hd), rotated."""
        a, b = x.reshape(length, -1, hd).transpose(0, 1).chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    x = w["model.transformer.wte.weight"][tokens]
    for i in range(c.n_layers):
        block = f"model.transformer.blocks.{i}."
        h = norm(x, block + "attn_norm.weight")
        q, k, v = (h @ w[f"{block}{name}_proj.weight"].T for name in "qkv")
        if c.attention_layer_norm:
            q, k = norm(q, block + "q_norm.weight"), norm(k, block + "k_norm.weight")
        q, k = heads(q), heads(k).repeat_interleave(c.n_heads // c.n_kv_heads, 0)
        v = v.reshape(length, -1, hd).transpose(0, 1).repeat_interleave(c.n_heads // c.n_kv_heads, 0)
        scores = (q @ k.transpose(1, 2) / hd**0.5).masked_fill(~pairs, -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, -1)
        x = x + mixed @ w[block + "attn_out.weight"].T
        h = norm(x, block + "ff_norm.weight")
        gate = h @ w[block + "ff_proj.weight"].T
        x = x + (gate * gate.sigmoid() * (h @ w[block + "up_proj.weight"].T)) @ w[block + "ff_out.weight"].T
    head = "wte" if c.weight_tying else "ff_out"
    return norm(x, "model.transformer.ln_f.weight") @ w[f"model.transformer.{head}.weight"].T


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_kv_heads": 2},
        {"multi_query_attention": True},
        {"attention_layer_norm": True},
        {"n_kv_heads": 1, "attention_layer_norm": True},
        {"weight_tying": True},
        {"rope_theta": 100.0, "rms_norm_eps": 0.1},
    ],
)
@torch.no_grad()
def test_logits_equal_the_naive_formula(build_model, tokens, changes):
    model = build_model(**changes)
    pairs = torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(2)) < 0.7
    pairs[:, range(10), range(10)] = True
    everything, masked = model(tokens).logits, model(tokens, pairs).logits
    for row in range(3):
        expected = naive_logits(model, tokens[row], torch.ones(10, 10).bool())
        torch.testing.assert_close(everything[row].double(), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(masked[row].double(), naive_logits(model, tokens[row], pairs[row]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_early_positions_see_late_ones(model, tokens):
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 48
    assert (model(changed).logits[:, 0] - model(tokens).logits[:, 0]).abs().amax(-1).min() > 1e-3


# Padding.


@torch.no_grad()
def test_padding_never_changes_the_logits_of_the_rest(model, tokens):
    attend = torch.ones(3, 10).bool()
    attend[0, :4], attend[1, 7:] = False, False
    other = torch.where(attend, tokens, (tokens + 5) % 48)
    for mask in (attend, attend[:, :, None] & attend[:, None]):
        assert torch.equal(model(other, mask).logits[attend], model(tokens, mask).logits[attend])
        for row in range(3):
            alone = model(tokens[row : row + 1, attend[row]]).logits[0]
            torch.testing.assert_close(model(tokens, mask).logits[row, attend[row]], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_mask_of_all_true_is_no_mask(model, tokens):
    for shape in ((3, 10), (3, 10, 10)):
        torch.testing.assert_close(model(tokens, torch.ones(shape).bool()).logits, model(tokens).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_soft_mask_lies_between_hidden_and_visible(model, tokens):
    attend = torch.ones(3, 10).bool()
    attend[:, :4] = False
    attn_bias, soft, hidden = (model(tokens, attend, mask_value=s).logits[:, 4:] for s in (0.0, -1.0, None))
    torch.testing.assert_close(attn_bias, model(tokens).logits[:, 4:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(tokens, attend, mask_value=-1e9).logits[:, 4:], hidden, rtol=1e-5, atol=1e-5)
    for other in (attn_bias, hidden):
        assert (soft - other).abs().max() > 1e-2


@pytest.mark.parametrize("lengths", [[6, 6, 6], [1, 4, 4, 9], [3]])
@torch.no_grad()
def test_packed_rows_equal_each_row_alone(model, lengths):
    rows = torch.randint(48, (sum(lengths),), generator=torch.Generator().manual_seed(4)).split(lengths)
    packed = model(torch.cat(rows)[None], Packing.of(lengths)).logits[0].split(lengths)
    for row, logits in zip(rows, packed, strict=True):
        torch.testing.assert_close(logits, model(row[None]).logits[0], rtol=1e-5, atol=1e-5)
    changed = [(row + 1) % 48 if i else row for i, row in enumerate(rows)]
    again = model(torch.cat(changed)[None], Packing.of(lengths)).logits[0]
    assert torch.equal(again[: lengths[0]], packed[0])  # the first row does not see its neighbors


@torch.no_grad()
def test_packed_rows_of_one_length_are_bit_equal_to_a_batch(model, tokens):
    packed = model(tokens.reshape(1, 30), Packing.of([10, 10, 10])).logits
    assert torch.equal(packed.reshape(3, 10, 48), model(tokens).logits)


@pytest.mark.parametrize("mask", [torch.ones(3, 10), torch.full((3, 10), 2), torch.ones(3, 9).bool(), torch.ones(3, 4, 10, 10).bool()])
def test_refused_masks(model, tokens, mask):
    with pytest.raises(InputError, match="attention_mask h"):
        model(tokens, mask)


# Only what is needed.


@torch.no_grad()
def test_positions_and_vocabulary_slice_give_the_same_bits(model, tokens):
    full = model(tokens).logits
    positions = torch.tensor([[0, 3, 9], [5, 5, 1], [9, 8, 7]])
    picked = torch.stack([full[row, positions[row]] for row in range(3)])
    assert torch.equal(model(tokens, positions=positions).logits, picked)
    assert torch.equal(model(tokens, vocab=(32, 48)).logits, full[..., 32:48])
    assert torch.equal(model(tokens, positions=positions, vocab=(4, 31)).logits, picked[..., 4:31])
    assert torch.equal(model.head(model.trunk(tokens)), full)


@torch.no_grad()
def test_embeddings_instead_of_ids(model, tokens):
    embeddings = model.get_input_embeddings()(tokens)
    assert torch.equal(model(inputs_embeds=embeddings).logits, model(tokens).logits)


def test_ids_or_embeddings_but_not_both(model, tokens):
    for given in ({}, {"input_ids": tokens, "inputs_embeds": torch.zeros(3, 10, 32)}):
        with pytest.raises(InputError, match="give either input_ids or inputs_embeds"):
            model(**given)


@torch.no_grad()
def test_hidden_states_are_the_input_of_each_block_and_the_result(model, tokens):
    out = model(tokens, output_hidden_states=True)
    assert [tuple(h.shape) for h in out.hidden_states] == [(3, 10, 32)] * 3
    assert torch.equal(out.hidden_states[0], model.get_input_embeddings()(tokens))
    assert torch.equal(out.hidden_states[-1], model.trunk(tokens))
    assert torch.equal(model.head(out.hidden_states[-1]), out.logits)
    assert model(tokens).hidden_states is None


# Numerics and training.


def test_the_norm_casts_back_before_the_weight():
    norm = RMSNorm(16, 1e-5).bfloat16()
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    x = 3 * torch.randn(4, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    wide = x.float()
    expected = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).bfloat16() * norm.weight
    assert torch.equal(norm(x), expected)
    assert not torch.equal((wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * norm.weight.float()).bfloat16(), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_norm_has_the_gradient_of_its_formula(dtype):
    generator = torch.Generator().manual_seed(2)
    x, weight, grad = (torch.randn(shape, generator=generator).to(dtype) for shape in ((3, 5, 16), (16,), (3, 5, 16)))
    norm = RMSNorm(16, 1e-5).to(dtype)
    norm.weight.data.copy_(weight)
    ours = torch.autograd.grad(norm(x.requires_grad_()), (x, norm.weight), grad)
    wide, w = x.detach().double().requires_grad_(), weight.double().requires_grad_()
    formula = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * w
    expected = torch.autograd.grad(formula, (wide, w), grad.double())
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_autocast_with_a_mask(model, tokens):
    attend = torch.ones(3, 10).bool()
    attend[:, :3] = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(tokens, attend).logits
    assert logits.dtype == torch.bfloat16
    exact = model(tokens, attend).logits
    assert (logits.float() - exact)[attend].abs().mean() < 0.05 * exact[attend].abs().mean()


def test_gradient_checkpointing_gives_the_same_gradients(build_model, tokens):
    model = build_model(n_kv_heads=2).train()

    def gradients():
        model.zero_grad()
        model(tokens).logits.square().mean().backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    calls = []
    handle = model.model.transformer["blocks"][0].q_proj.register_forward_hook(lambda *_: calls.append(1))
    model.checkpoint_gradients()
    recomputed = gradients()
    handle.remove()
    assert len(calls) == 2  # forward, and again in the backward pass
    for a, b in zip(plain, recomputed, strict=True):
        assert torch.equal(a, b)


def test_one_batch_is_learnt(build_model, tokens):
    model = build_model(seed=3).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(tokens).logits.flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3
    assert losses[-1] < 0.1


def test_initial_weights():
    # Each spread over at least 4,096 numbers within 9 of its standard errors: a false alarm for one seed in 10^17.
    torch.manual_seed(0)
    config = preset("debug", layout=LAYOUT)
    model = Transformer(config)
    shrunk = config.init_std / (2 * config.n_layers) ** 0.5
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == 1).all(), name
        else:
            into_residual = "blocks" in name and ("attn_out" in name or "ff_out" in name)
            assert parameter.std().item() == pytest.approx(shrunk if into_residual else config.init_std, rel=0.1), name


def test_tied_weights_are_one_tensor(build_model):
    model = build_model(weight_tying=True)
    assert model.get_output_embeddings() is model.get_input_embeddings()
    assert "model.transformer.ff_out.weight" not in model.state_dict()
    untied = build_model()
    assert untied.get_output_embeddings() is not untied.get_input_embeddings()


SOI, EOI, MASK = (LAYOUT.special_ids[name] for name in ("soi", "eoi", "mask"))
CODE = LAYOUT.image_offset


def test_places_count_from_each_begin_of_an_image():
    ids = torch.tensor(
        [[5, SOI, CODE, MASK, CODE + 3, EOI, 5, MASK, SOI, MASK, EOI], [SOI, SOI, CODE, 5, EOI, EOI, CODE, SOI, CODE, CODE, CODE]]
    )
    assert image_position_ids(ids, LAYOUT).tolist() == [[-1, -1, 0, 1, 2, -1, -1, -1, -1, 0, -1], [-1, -1, 0, 1, -1, -1, -1, -1, 0, 1, 2]]


@pytest.fixture(scope="module")
def placed():
    """A model that embeds three places of an image."""
    model = Transformer(preset("debug", layout=LAYOUT, image_positions=3)).eval()
    torch.nn.init.normal_(model.model.transformer["wpe_image"].weight, generator=torch.Generator().manual_seed(0))
    return model


@torch.no_grad()
def test_a_place_is_added_to_the_embedding(placed):
    ids = torch.tensor([[5, SOI, CODE, MASK, CODE + 3, CODE + 4, EOI, 7]])
    plain = Transformer(preset("debug", layout=LAYOUT)).eval()
    plain.load_state_dict({name: tensor for name, tensor in placed.state_dict().items() if "wpe_image" not in name})
    table = placed.model.transformer["wpe_image"].weight
    embeddings = plain.get_input_embeddings()(ids)
    embeddings[0, 2:5] += table  # the fourth token of the image has no vector, nor has the text
    torch.testing.assert_close(placed(ids).logits, plain(inputs_embeds=embeddings).logits, rtol=1e-5, atol=1e-5)
    assert (placed(ids).logits - plain(ids).logits).abs().max() > 1e-2


@torch.no_grad()
def test_places_do_not_run_over_packed_rows(placed):
    rows = [torch.tensor(row) for row in ([5, SOI, CODE, MASK, EOI], [6, 7, 8], [SOI, MASK, MASK, CODE, EOI])]
    packed = placed(torch.cat(rows)[None], Packing.of([len(row) for row in rows])).logits[0].split([len(row) for row in rows])
    for row, logits in zip(rows, packed, strict=True):
        torch.testing.assert_close(logits, placed(row[None]).logits[0], rtol=1e-5, atol=1e-5)


def test_embeddings_do_not_say_where_images_are(placed):
    with pytest.raises(InputError, match="give input_ids"):
        placed(inputs_embeds=torch.zeros(1, 4, placed.config.d_model))


@pytest.fixture(scope="module")
def convolved():
    """A model whose embeddings carry two neighbors on each side."""
    model = Transformer(preset("debug", layout=LAYOUT, short_conv=5)).eval()
    torch.nn.init.normal_(model.model.transformer["conv"].weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return model


def naive_embeddings(model, tokens, seen):
    """(L,) ids, seen (L, L) bool -> (L, D): each token's embedding and, tap by tap, those of its neighbors that are seen."""
    rows, taps = model.get_input_embeddings().weight, model.model.transformer["conv"].weight
    out = rows[tokens].clone()
    for i in range(len(tokens)):
        for tap in range(5):
            j = i + tap - 2
            if 0 <= j < len(tokens) and seen[i, j]:
                out[i] += taps[tap] * rows[tokens[j]]
    return out


def plain_twin(model):
    """The same model without the convolution."""
    plain = Transformer(preset("debug", layout=LAYOUT)).eval()
    plain.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "conv" not in name})
    return plain


@pytest.mark.parametrize("kind", ["all", "padding", "pairs"])
@torch.no_grad()
def test_neighbours_are_added_where_they_are_seen(convolved, kind):
    ids = torch.tensor([[5, 7, 9, 11, 2, 3], [8, 1, 4, 4, 6, 0]])
    generator = torch.Generator().manual_seed(0)
    mask = {
        "all": None,
        "padding": torch.tensor([[False, True, True, True, True, False], [True] * 6]),
        "pairs": (torch.rand(2, 6, 6, generator=generator) < 0.6) | torch.eye(6).bool(),
    }[kind]
    seen = torch.ones(2, 6, 6).bool() if mask is None else mask[:, None].expand(2, 6, 6) if mask.dim() == 2 else mask
    embeddings = torch.stack([naive_embeddings(convolved, row, pairs) for row, pairs in zip(ids, seen, strict=True)])
    expected = plain_twin(convolved)(inputs_embeds=embeddings, attention_mask=mask).logits
    torch.testing.assert_close(convolved(ids, mask).logits, expected, rtol=1e-5, atol=1e-5)
    assert (expected - plain_twin(convolved)(ids, mask).logits).abs().max() > 1e-3


@torch.no_grad()
def test_neighbours_are_of_the_same_packed_row(convolved):
    rows = [torch.tensor(row) for row in ([5, 9], [6, 7], [8], [3, 4, 5, 6, 7])]
    packed = convolved(torch.cat(rows)[None], Packing.of([len(row) for row in rows])).logits[0].split([len(row) for row in rows])
    for row, logits in zip(rows, packed, strict=True):
        torch.testing.assert_close(logits, convolved(row[None]).logits[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_embeddings_are_convolved_too(convolved):
    ids = torch.tensor([[5, 7, 9]])
    assert torch.equal(convolved(ids).logits, convolved(inputs_embeds=convolved.get_input_embeddings()(ids)).logits)


def test_a_row_longer_than_the_context_is_refused_whoever_asks():
    model = Transformer(preset("debug", layout=LAYOUT, max_sequence_length=6)).eval()
    assert model(torch.zeros(2, 6, dtype=torch.long)).logits.shape[1] == 6
    with pytest.raises(InputError, match="a row has 7 positions, and the model's context max_sequence_length=6"):
        model(torch.zeros(1, 7, dtype=torch.long))
    with pytest.raises(InputError, match="a row has 7 positions"):
        model(inputs_embeds=torch.zeros(1, 7, model.config.d_model))
    packed = torch.zeros(1, 11, dtype=torch.long)
    model.trunk(packed, Packing.of([6, 5]))  # rows count, not their sum
    with pytest.raises(InputError, match="a row has 7 positions"):
        model.trunk(packed, Packing.of([4, 7]))


@pytest.mark.parametrize("short_conv", [0, 5])
def test_a_mask_of_whole_numbers_means_the_same(short_conv):
    model = Transformer(preset("debug", layout=LAYOUT, short_conv=short_conv)).eval()
    ids = torch.arange(10).view(2, 5)
    keys = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    expected = model(ids, keys.bool()).logits
    for dtype in (torch.int64, torch.int32, torch.uint8):
        assert torch.equal(model(ids, keys.to(dtype)).logits, expected)
    pairs = keys[:, None, :].expand(-1, 5, -1)
    for mask in (pairs, pairs[:, None]):
        assert torch.equal(model(ids, mask).logits, model(ids, pairs.bool()).logits)
