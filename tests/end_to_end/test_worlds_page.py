"""docs/worlds.md is run to the letter: the package is installed as its metadata says, trained on, measured and rewarded."""

import json
import re
import shlex
from pathlib import Path

import pytest
import tomllib

from ..processes import mmada

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "worlds.md").read_text()


def block(language, number=0):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The files of the page, and what `pip install -e dots` would leave: metadata with the entry points."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "dots" / "dots_recipes").mkdir(parents=True)
    (folder / "dots" / "dots.py").write_text(block("python"))
    (folder / "dots" / "dots_recipes" / "base.yaml").write_text(block("yaml"))
    (folder / "train.yaml").write_text(block("yaml", 1))
    (folder / "rl.yaml").write_text(block("yaml", 2))
    project = tomllib.loads(block("toml"))["project"]
    metadata = folder / "dots" / f"{project['name']}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in names.items()) for group, names in groups.items()]
    (metadata / "entry_points.txt").write_text("".join(lines))
    return folder


def run(line, folder):
    return mmada(shlex.split(line)[1:], cwd=folder, path=[str(folder / "dots")], env={"ACCELERATE_USE_CPU": "true"})


def test_the_commands_of_the_page_work(place):
    (commands,) = re.findall(r"```\n(mmada train.*?)```", PAGE, re.DOTALL)
    done = [run(line, place) for line in commands.splitlines()]
    assert [one.returncode for one in done] == [0, 0, 0], [one.stderr[-1500:] for one in done]
    rows = [line.split()[:2] for line in done[1].stdout.splitlines()[1:]]
    assert rows == [["understand", "direct"], ["draw", "direct"]]
    metrics = [json.loads(line) for line in (place / "runs" / "dots" / "rl" / "metrics.jsonl").read_text().splitlines()]
    assert {"reward/understand/correct", "reward/draw/near", "reward/draw/correct"} <= set(metrics[0])


def test_an_uninstalled_world_is_found_by_its_path_and_its_absence_is_said(place):
    found = run("mmada eval dots --world dots:Dots --kinds nothing", place)
    assert "kind='nothing' is unknown: known names are draw, understand" in found.stderr
    missing = run("mmada train train.yaml data.world=dot", place)
    assert missing.returncode == 2
    assert "world 'dot' is not installed; there are dots, " in missing.stderr.replace("\n", " ")
