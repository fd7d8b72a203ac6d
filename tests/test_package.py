"""The long description of the package; the package itself is built and tried by scripts/check_package.py."""

import importlib.util
import re
from pathlib import Path

import pytest

import mmada

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("module", "name", "now"),
    [("mmada", "prompt", r"mmada\.canvas\.prompts"), ("mmada.model", "MMadaModelLM", "`from mmada import MMadaModelLM`")],
)
def test_a_former_place_names_the_new_one(module, name, now):
    with pytest.raises(ImportError, match=now):
        exec(f"from {module} import {name}", {})
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
        _ = importlib.import_module(module).nothing


def test_modules_that_moved_are_where_they_are_said_to_be():
    for name, now in mmada._MOVED.items():
        assert importlib.util.find_spec(f"mmada.{now}") is not None
        for statement in (f"import mmada.{name}", f"from mmada.{name} import x", f"from mmada import {name}"):
            with pytest.raises(ModuleNotFoundError, match=rf"^module mmada\.{name} is now mmada\.{now};"):
                exec(statement, {})
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'mmada\.nothing'"):
        importlib.import_module("mmada.nothing")


@pytest.fixture(scope="module")
def long_description():
    pytest.importorskip("hatchling", reason="the extra dev")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.long_description


def test_links_of_the_readme_become_absolute_or_go(long_description):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for source in (None, "https://example.org/owner/mmada"):
        targets = re.findall(r"\]\(([^)]*)\)", long_description(readme, source))
        assert targets
        assert all(target.startswith("https://") for target in targets)


def test_a_text_outlives_its_link_and_a_picture_does_not(long_description):
    text = "See ![shot](a.png) the [card](docs/models.md#x), [here](https://a.org)."
    assert long_description(text, None) == "See  the card, [here](https://a.org)."
    home = "https://a.org/o/r"
    assert long_description(text, home) == (
        f"See ![shot]({home}/raw/main/a.png) the [card]({home}/blob/main/docs/models.md#x), [here](https://a.org)."
    )
