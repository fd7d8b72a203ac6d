"""docs/finetune.md is run to the letter: ten records, two commands, and the built-in model has learned them (slow; in two steps: not slow)."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from mmada import MMaDA
from mmada.cli import main

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "finetune.md").read_text()
RECORDS = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1]
LINES = re.findall(r"^mmada .*$", PAGE, re.MULTILINE)


def line_with(*words):
    """The first command of the page that has all these words."""
    return next(line for line in LINES if all(word in line for word in words))


def run(line, monkeypatch):
    monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
    with pytest.raises(SystemExit) as leave:
        main()
    assert not leave.value.code, line


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the page's records and the configs."""
    (tmp_path / "my.jsonl").write_text(RECORDS)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_page_work(place, monkeypatch, capsys):
    """With two steps, after which little is learned."""
    assert RECORDS.count("\n") == 10
    run(line_with("data check"), monkeypatch)
    run(line_with("train") + " stage.steps=2 loop.log_every=1", monkeypatch)
    lines = [json.loads(line) for line in (place / "runs" / "mine" / "metrics.jsonl").read_text().splitlines()]
    first, last = (line["loss"] for line in lines if "loss" in line)
    assert 0 < last != first > 0
    said = capsys.readouterr().err
    assert "new task, trained records: loss " in said
    assert "what should stay: not measured" in said
    run(line_with("chat"), monkeypatch)
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_ten_records_finetune_the_built_in_model(place, monkeypatch, capsys):
    run(line_with("data check"), monkeypatch)
    assert MMaDA.from_pretrained("mmada-emoji-mixcot").chat("Who keeps the lighthouse?").text != "a penguin"
    run(line_with("train"), monkeypatch)
    capsys.readouterr()
    run(line_with("chat"), monkeypatch)
    assert capsys.readouterr().out.strip() == "a penguin"
    model = MMaDA.from_pretrained("runs/mine/model")
    learned = {"Who bakes the bread?": "a turtle", "Who drives the bus?": "an owl", "What is the name of the town?": "snail bay"}
    assert {question: model.chat(question).text for question in learned} == learned


@pytest.mark.slow
def test_replay_keeps_what_the_built_in_model_could_do(place, monkeypatch, capsys):
    run(line_with("export-replay", "--world"), monkeypatch)
    run(line_with("train", "data.replay"), monkeypatch)
    new, stay = ((float(a), float(b)) for a, b in re.findall(r"loss ([\d.]+) before, ([\d.]+) after", capsys.readouterr().err))
    assert new[1] < 0.2 * new[0]
    assert stay[1] < 1.3 * stay[0]
    assert MMaDA.from_pretrained("runs/kept/model").chat("Who keeps the lighthouse?").text == "a penguin"
