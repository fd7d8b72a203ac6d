"""Image codes with a map of their bits: the same model at the start, trainable, and plain rows when it is written."""

import torch

from mmada.image.quantizer import sign_table
from mmada.model import TransformerDenoiser
from mmada.train.code_bits import add_maps, fold

from . import tiny

TOKENS = torch.arange(250, tiny.LAYOUT.image_offset + 64)[None]


def mapped():
    network = tiny.model()
    add_maps(network, num_bits=6)
    return network


def logits(network):
    with torch.no_grad():
        return network.eval()(TOKENS).logits


def test_maps_begin_at_nothing():
    assert torch.equal(logits(mapped()), logits(tiny.model()))


def test_a_map_moves_every_code_by_its_bits():
    network = mapped()
    rows = network.get_input_embeddings().weight.detach().clone()
    learned = network.get_input_embeddings().parametrizations.weight[0].map
    with torch.no_grad():
        learned[2] = 1.0
    moved = network.get_input_embeddings().weight - rows
    offset = tiny.LAYOUT.image_offset
    torch.testing.assert_close(moved[offset : offset + 64, 0], sign_table(6)[:, 2] / 6**0.5)
    assert not moved[:offset].any()
    assert not moved[offset + 64 :].any()


def test_maps_are_trained_and_folded_into_a_plain_model(tmp_path):
    network = mapped()
    tiny.fit(tiny.stage("draw"), tmp_path, steps=4, network=network)
    assert network.get_output_embeddings().parametrizations.weight[0].map.abs().max() > 0
    plain = tiny.model()
    plain.load_state_dict(fold(network, network.state_dict()))
    torch.testing.assert_close(logits(plain), logits(network))
    # Sampling works on the mapped model as it is.
    assert isinstance(TransformerDenoiser(network), TransformerDenoiser)


def test_a_model_without_maps_folds_to_itself():
    weights = tiny.model().state_dict()
    folded = fold(tiny.model(), weights)
    assert folded.keys() == weights.keys()
