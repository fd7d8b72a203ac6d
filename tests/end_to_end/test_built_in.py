"""The checkpoints that ship with the package: each of them loads, does what its stage taught, and can be trained on."""

import json

import pytest
import torch
from safetensors import safe_open

from mmada import MMaDA
from mmada.hub import checkpoint

pytestmark = pytest.mark.integration

FOLDER = checkpoint.find("mmada-emoji-tokenizer").parent
MODELS = [name for name in checkpoint.built_in() if name != "mmada-emoji-tokenizer"]


def test_the_family_is_complete_and_small():
    assert set(MODELS) == {"mmada-emoji-base", "mmada-emoji-mixcot", "mmada-emoji-max", "mmada-emoji-chat"}
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= 60e6


OLDER = ("mmada-emoji-base", "mmada-emoji-mixcot")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in OLDER else name for name in MODELS])
def test_every_model_looks_draws_and_answers(name):
    model = MMaDA.from_pretrained(name, device="cpu")
    assert {p.dtype for p in model.model.parameters()} == {torch.float32}  # whatever the file holds
    drawing = model.draw("a red heart on a white background", seed=1, think=False)
    assert model.ask(drawing.image, "What colour is the background?").text == "white"
    assert model.chat("What is a dog: an animal or a vehicle?").text


@pytest.mark.parametrize("name", MODELS)
def test_files_hold_what_their_configuration_says(name):
    with safe_open(checkpoint.find(name) / "model.safetensors", "pt") as file:
        kinds = {str(file.get_slice(key).get_dtype()) for key in file.keys()}  # noqa: SIM118  not a mapping
    assert kinds == ({"F8_E4M3", "F16"} if name == "mmada-emoji-base" else {"F16"})
    config = json.loads((checkpoint.find(name) / "config.json").read_text())
    assert config["dtype"] == "float32"
