"""Requests at the default sizes of published checkpoints fit the context that their files give, and nothing larger does. Rows are laid out only."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from mmada.errors import InputError
from mmada.families import FAMILIES, named
from mmada.generation.requests import ChatRequest, DrawRequest, EditRequest, ParallelRequest
from mmada.hub import networks

from .tiny import planned, published, tiny

PICTURE = Image.new("RGB", (128, 128), "red")  # the tiny tokenizers have a code for 2 x 2 pixels: as many as 1,024 x 1,024 pixels have


@pytest.fixture(scope="module")
def planners(tmp_path_factory):
    """Family -> a planner with the context of its published files, and 64 x 64 codes an image where that is the published default."""
    root, made = tmp_path_factory.mktemp("published"), {}
    for name, family in FAMILIES.items():
        if family.image_tokenizer is None:
            continue
        directory = published(family, root / family.hub_names[0].split("/")[1], max_sequence_length=4096)
        model = tiny(family)
        model.planner.context = networks.transformer_config(directory).max_sequence_length
        height, width = (family.defaults.get(f"image_{side}", 512) // 16 * 2 for side in ("height", "width"))
        model.planner.defaults = replace(model.defaults, image_height=height, image_width=width, max_new_tokens=256)
        made[name] = model.planner
    return made


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.image_tokenizer])
def test_default_sizes_fit(planners, name):
    planner, family = planners[name], named(name)
    codes = planner.grid[0] * planner.grid[1]
    assert codes == {"lumina-dimoo": 4096}.get(name, 1024)
    source = PICTURE.resize((2 * planner.grid[1], 2 * planner.grid[0]))
    requests = {
        "look": ChatRequest("What is this?", images=[source]),
        "draw": DrawRequest("a cat"),
        "edit": EditRequest("a hat", [source]),
        "parallel": ParallelRequest("a hat", [source]),
    }
    for ability, request in requests.items():
        if ability in family.abilities:
            assert len(planned(request, planner).canvas) > codes
    assert planner.context == max(4096, family.least_context)


def test_edits_and_styles_of_a_million_pixels_fit_and_more_is_refused(planners):
    """The published context of LLaDA is 4,096 tokens; a drawing of Lumina-DiMOO alone has more."""
    planner = planners["lumina-dimoo"]
    assert len(planned(DrawRequest("a cat"), planner).canvas) > 4096
    assert len(planned(EditRequest("a hat", [PICTURE], size=(96, 96)), planner).canvas) > 4096
    assert len(planned(EditRequest("a hat", [PICTURE, PICTURE], restyle=True, size=(128, 128)), planner).canvas) > 3 * 4096
    with pytest.raises(InputError, match="the model's context has 16384"):
        planned(EditRequest("a hat", [PICTURE] * 4, size=(128, 128)), planner)


def test_config_json_may_say_more(tmp_path):
    directory = published(named("lumina-dimoo"), tmp_path / "x", max_sequence_length=20000)
    assert networks.transformer_config(directory).max_sequence_length == 20000
