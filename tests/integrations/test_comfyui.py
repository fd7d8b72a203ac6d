"""The nodes for ComfyUI against its node interface: declared inputs and outputs, tensors, previews, cancelling, and the workflow."""

import importlib.util
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import tomllib
import torch

from mmada.errors import InputError

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


class InterruptedRunError(Exception):
    pass


class Comfy:
    """What the nodes call of ComfyUI: comfy.utils.ProgressBar and comfy.model_management, as those modules declare them."""

    def __init__(self) -> None:
        self.updates: list[tuple[int, int, object]] = []
        self.is_cancelled = False

    def modules(self) -> dict[str, ModuleType]:
        comfy = self

        class ProgressBar:
            def __init__(self, total):
                self.total = total

            def update_absolute(self, value, total=None, preview=None):
                comfy.updates.append((value, total, preview))

        def throw_exception_if_processing_interrupted():
            if comfy.is_cancelled:
                raise InterruptedRunError

        names = ("comfy", "comfy.utils", "comfy.model_management")
        root, utils, management = (ModuleType(name) for name in names)
        root.utils, root.model_management = utils, management
        utils.ProgressBar = ProgressBar
        management.throw_exception_if_processing_interrupted = throw_exception_if_processing_interrupted
        return dict(zip(names, (root, utils, management), strict=True))


@pytest.fixture
def comfy():
    return Comfy()


@pytest.fixture
def nodes(comfy, monkeypatch):
    """The pack, loaded from its folder as ComfyUI does."""
    for name, module in comfy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("comfyui_mmada", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)])
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "comfyui_mmada", module)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("comfyui_mmada.nodes", None)


def call(nodes, kind, **inputs):
    node = nodes.NODE_CLASS_MAPPINGS[kind]
    return getattr(node(), node.FUNCTION)(**inputs)


def test_every_node_declares_what_its_function_takes_and_gives(nodes):
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        groups = node.INPUT_TYPES()
        assert groups.keys() <= {"required", "optional", "hidden"}
        parameters = dict(list(inspect.signature(getattr(node, node.FUNCTION)).parameters.items())[1:])
        declared = {**groups["required"], **groups.get("optional", {})}
        assert parameters.keys() == declared.keys()
        for name, (kind, *settings) in declared.items():
            is_optional = parameters[name].default is not inspect.Parameter.empty
            assert is_optional == (name in groups.get("optional", {}))
            assert isinstance(kind, list | str)
            if settings and "min" in settings[0]:
                assert settings[0]["min"] <= settings[0]["default"] <= settings[0]["max"]
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        assert node.CATEGORY


def test_a_drawing_is_that_of_the_package_with_previews(nodes, comfy, debug):
    from PIL import Image

    images, drawn = call(nodes, "MMaDADraw", model=debug, prompt="a cat", seed=3, steps=4, cfg=3.0, batch_size=2)
    assert (images.shape, images.dtype, drawn) == ((2, 32, 32, 3), torch.float32, "a cat")
    for i, image in enumerate(images):
        expected = debug.draw("a cat", seed=3 + i, steps=4, guidance_scale=2.0).image
        assert (image * 255).round().to(torch.uint8).numpy().tobytes() == expected.tobytes()
    values = [value for value, _, _ in comfy.updates]
    assert values == sorted(values)
    assert values[-1] == 1000
    form, preview, size = next(preview for _, _, preview in comfy.updates if preview)
    assert (form, size) == ("JPEG", 512)
    assert isinstance(preview, Image.Image)


def test_only_the_masked_part_is_drawn_anew(nodes, debug):
    (before, _) = call(nodes, "MMaDADraw", model=debug, prompt="a cat", seed=1, batch_size=2)
    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1
    (after,) = call(nodes, "MMaDAInpaint", model=debug, images=before, mask=mask, prompt="a dog", seed=3, steps=2)
    assert after.shape == before.shape
    assert torch.allclose(after[:, 20:], before[:, 20:], atol=1 / 255)
    assert not torch.allclose(after[:, :16], before[:, :16], atol=0.1)
    with pytest.raises(ValueError, match="3 masks for 2 images"):
        call(nodes, "MMaDAInpaint", model=debug, images=before, mask=torch.zeros(3, 32, 32), prompt="a dog", seed=3)


def test_an_image_is_asked_about(nodes, debug):
    from PIL import Image

    image = torch.zeros(1, 32, 32, 3)
    image[..., 0] = 1
    answer, thinking = call(nodes, "MMaDAAsk", model=debug, question="what?", seed=0, images=image, max_new_tokens=8)
    assert answer == debug.ask(Image.new("RGB", (32, 32), (255, 0, 0)), "what?", max_new_tokens=8).text
    assert thinking == ""


def test_a_model_that_was_not_taught_editing_says_so(nodes, debug):
    with pytest.raises(InputError, match="edit"):
        call(nodes, "MMaDAEdit", model=debug, images=torch.zeros(1, 32, 32, 3), instruction="make it blue", seed=0)


def test_an_image_is_extended(nodes, debug):
    (before, _) = call(nodes, "MMaDADraw", model=debug, prompt="a cat", seed=1)
    sides = {"left": 0, "top": 0, "right": 16, "bottom": 4}
    (after,) = call(nodes, "MMaDAExtend", model=debug, images=before, prompt="a dog", seed=3, steps=2, **sides)
    assert after.shape == (1, 36, 48, 3)
    assert torch.allclose(after[:, :28, :28], before[:, :28, :28], atol=1 / 255)


def test_a_cancelled_run_stops_at_the_next_step(nodes, comfy, debug):
    comfy.is_cancelled = True
    with pytest.raises(InterruptedRunError):
        call(nodes, "MMaDADraw", model=debug, prompt="a cat", seed=3, steps=4)
    assert comfy.updates == []


@pytest.mark.integration
def test_the_workflow_runs(nodes):
    """As ComfyUI does: every node after those that it has links to. Its own nodes, SolidMask and PreviewImage, are stood in for."""
    workflow = json.loads((FOLDER / "workflow.json").read_text())
    results: dict[str, tuple] = {}
    for key, node in workflow.items():
        inputs = {name: results[value[0]][value[1]] if isinstance(value, list) else value for name, value in node["inputs"].items()}
        if node["class_type"] == "SolidMask":
            results[key] = (torch.full((1, inputs["height"], inputs["width"]), inputs["value"]),)
        elif node["class_type"] == "PreviewImage":
            results[key] = (inputs["images"].shape,)
        else:
            results[key] = call(nodes, node["class_type"], **inputs)
    assert "cat" in results["3"][0]
    assert results["7"][0] == (1, 256, 320, 3)
    assert results["8"][0] == (1, 256, 256, 3)


def test_the_registry_finds_what_it_needs():
    about = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert about["tool"]["comfy"]["DisplayName"] == "MMaDA"
    assert about["project"]["dependencies"] == (FOLDER / "requirements.txt").read_text().split("\n")[:-1]
