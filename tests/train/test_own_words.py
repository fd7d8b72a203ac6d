"""New words of records: read with them, from every source of a recipe, and kept over a stop; the exported model knows them."""

import json
from dataclasses import replace

import pytest
import yaml

from mmada.data import DataSource, Epochs, WeightedMixture, open_source
from mmada.generation.lexicon import Lexicon
from mmada.rl import config as rl_config
from mmada.rl import setup as rl_setup
from mmada.train.config import DataConfig, load
from mmada.train.export import load_parts
from mmada.train.own_words import OwnWords
from mmada.train.setup import build_task

LEXICON = Lexicon(("dog",), ("say", "draw", "a"))
DEFAULTS = {"max_new_tokens": 16, "max_thinking_tokens": 16, "block_length": 8, "image_height": 32, "image_width": 32}


def write(file, *words, task="text"):
    records = [{"task": task, "messages": [{"role": "user", "content": f"Say {word}"}], "answer": {"text": word}} for word in words]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def start(debug, tmp_path_factory):
    """A checkpoint with a lexicon."""
    path = tmp_path_factory.mktemp("known")
    debug.save_pretrained(path)
    LEXICON.save(path)
    return path


def training(start, folder, data):
    """The settings of a run on `data`."""
    file = folder / "run.yaml"
    values = {
        "stage": {"name": "finetune", "steps": 1},
        "out": str(folder / "run"),
        "model": {"start": str(start)},
        "data": {"path": str(data)},
    }
    file.write_text(yaml.safe_dump(values))
    return load(file)


def exported(task, folder):
    """The lexicon of the model that a run would end with."""
    weights = {name.partition(".")[2]: weight for name, weight in task.module.state_dict().items()}
    task.on_export(folder / "model", weights)
    return Lexicon.load(folder / "model")


def test_a_recipe_of_several_sources(start, tmp_path):
    write(tmp_path / "a.jsonl", "florb", "dog")
    write(tmp_path / "b.jsonl", "grint")
    write(tmp_path / "c.jsonl", "plome")
    (tmp_path / "b.jsonl").write_text((tmp_path / "b.jsonl").read_text() + "{}\n")  # no record: a run may never meet it
    parts = [{"name": name, "source": {"path": f"{name}.jsonl"}} for name in "ab"]
    recipe = {"name": "mine", "parts": [{"name": "text", "parts": parts}, {"name": "understand", "source": {"path": "a.jsonl"}}]}
    recipe["parts"] += [{"name": name, "source": {"path": "a.jsonl"}} for name in ("draw", "reason_draw")]
    recipe["parts"].append({"name": "unused", "source": {"path": "c.jsonl"}})
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    config = training(start, tmp_path, tmp_path / "mine.yaml")
    assert exported(build_task(config), tmp_path).own == ("florb", "grint")
    assert Lexicon.load(tmp_path / "run").own == ("florb", "grint")


def test_prompts_that_are_rewarded(start, tmp_path):
    write(tmp_path / "prompts.jsonl", "florb", "grint")
    write(tmp_path / "far.jsonl", "plome " * 3000)
    (tmp_path / "prompts.jsonl").write_text((tmp_path / "prompts.jsonl").read_text() + (tmp_path / "far.jsonl").read_text())
    values = {"model": {"start": str(start)}, "data": {"path": str(tmp_path / "prompts.jsonl")}, "out": str(tmp_path / "run")}
    values |= {"tasks": {"text": {"prompts": 1, "rewards": {"format": 1}}}, "defaults": DEFAULTS, "objective": {"kl_weight": 0}}
    (tmp_path / "rl.yaml").write_text(yaml.safe_dump(values))
    task = rl_setup.build_task(rl_config.load(tmp_path / "rl.yaml"))
    assert exported(task, tmp_path).own == ("florb", "grint")  # what is left out is not learned
    assert Lexicon.load(tmp_path / "run").own == ("florb", "grint")


def test_records_that_are_left_out_bring_no_words(start, tmp_path):
    write(tmp_path / "mine.jsonl", "florb", "plome " * 3000)
    build_task(training(start, tmp_path, tmp_path / "mine.jsonl"))
    assert Lexicon.load(tmp_path / "run").own == ("florb",)


@pytest.mark.parametrize("known", ["", "shapes"])
def test_a_world_brings_its_words_unless_the_start_knows_it(start, tmp_path, known):
    config = replace(training(start, tmp_path, ""), data=DataConfig(world="shapes"), defaults={**DEFAULTS, "world": known})
    build_task(config)
    assert ("triangle" in Lexicon.load(tmp_path / "run").own) if not known else not (tmp_path / "run" / "lexicon.json").exists()
    rl = tmp_path / "rl.yaml"
    values = {"model": {"start": str(start)}, "data": {"world": "shapes"}, "out": str(tmp_path / "rl"), "objective": {"kl_weight": 0}}
    rl.write_text(yaml.safe_dump({**values, "tasks": {"text": {"prompts": 1, "rewards": {"format": 1}}}, "defaults": config.defaults}))
    made = exported(rl_setup.build_task(rl_config.load(rl)), tmp_path)
    assert ("triangle" in made.own) is (not known)


def test_a_run_that_goes_on_with_other_records_keeps_the_words_of_the_first(start, tmp_path):
    write(tmp_path / "mine.jsonl", "florb")
    parts = load_parts(training(start, tmp_path, tmp_path / "mine.jsonl"), None)
    out = tmp_path / "run"
    out.mkdir()
    LEXICON.with_own(["plome"]).save(out)

    def kept():
        words = OwnWords(parts.lexicon)
        words.read(open_source(DataSource(path="mine.jsonl"), tmp_path)[0])
        return words.kept(parts, out).lexicon.own

    assert kept() == ("florb",)  # nothing was saved: the run begins anew
    (out / "state" / "step-00000001").mkdir(parents=True)
    LEXICON.with_own(["plome"]).save(out)
    assert kept() == ("florb", "plome")


def test_streams_are_not_read_and_a_start_without_a_lexicon_asks_for_nothing(start, tmp_path, caplog):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a florb"]}).save_to_disk(str(tmp_path / "d"))
    write(tmp_path / "a.jsonl", "grint")
    stream = open_source(DataSource(path="d", adapter="text", format="datasets", streaming=True), tmp_path)
    table = Epochs(open_source(DataSource(path="a.jsonl"), tmp_path))
    mixture = WeightedMixture({"stream": (stream, 1.0), "table": (table, 1.0)})
    parts = load_parts(training(start, tmp_path, tmp_path / "a.jsonl"), None)
    bare = OwnWords(None)
    bare.read_all(mixture)
    assert bare.kept(replace(parts, lexicon=None), tmp_path / "run").lexicon is None
    assert not caplog.messages
    words = OwnWords(parts.lexicon)
    words.read_all(mixture)
    (said,) = caplog.messages
    assert "is streamed, so its new words are not collected" in said
    assert words.kept(parts, tmp_path / "run").lexicon.own == ("grint",)
