"""What should stay: records of it, rows of it in a batch, the comparison at the end, and the weights of the best evaluation."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from mmada.cli import app
from mmada.cli.train import comparison
from mmada.data import JsonlReader
from mmada.data.find_world import find_world
from mmada.errors import CheckpointError, InputError
from mmada.generation.lexicon import Lexicon
from mmada.generation.requests import Answer, DrawRequest, EmptyAnswerError
from mmada.pipeline import MMaDA
from mmada.train.config import load
from mmada.train.export import export_save
from mmada.train.file_samples import STAY
from mmada.train.replay import ReplaySample, own_samples, world_samples
from mmada.train.setup import build_task, run
from mmada.train.state import latest

WORDS = ("one", "two", "six", "ten", "red", "sky", "sun", "sea", "cat", "dog")


@pytest.fixture(scope="module")
def folder(debug, tmp_path_factory):
    """A start, ten records, and replay of the world of shapes."""
    path = tmp_path_factory.mktemp("replay")
    debug.save_pretrained(path / "start")
    records = [{"task": "text", "messages": [{"role": "user", "content": f"Say {word}"}], "answer": {"text": word}} for word in WORDS]
    (path / "my.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = CliRunner().invoke(app, ["data", "export-replay", str(path / "keep.jsonl"), "--world", "shapes", "--num", "40"])
    assert result.exit_code == 0, result.output
    return path


def config(folder, out, *settings, **values):
    file = out / "run.yaml"
    base = {"stage": {"name": "finetune", "steps": 6}, "out": str(out / "run"), "model": {"start": str(folder / "start")}}
    base["data"] = {"path": str(folder / "my.jsonl"), "held_out": 4}
    base["loop"] = {"prefetch": 0, "log_every": 2, "eval_every": 0, "sample_every": 0, "save_every": 2}
    file.write_text(yaml.safe_dump({**base, **values}))
    return load(file, settings)


def lines(out):
    return [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]


def test_replay_of_a_world_is_good_data(folder):
    reader = JsonlReader(folder / "keep.jsonl")
    records = [reader[i] for i in range(len(reader))]
    tasks = [task for task in ("text", "understand", "draw", "reason_draw") if task in find_world("shapes").tasks]
    assert [record.task for record in records] == [tasks[i % len(tasks)] for i in range(40)]
    thought = [record.thinking is not None for record in records if record.task == "understand"]
    assert thought == [i % 2 == 0 for i in range(len(thought))]
    assert not any(picture.is_missing for record in records for picture in record.pictures)
    checked = CliRunner().invoke(app, ["data", "check", str(folder / "keep.jsonl"), "--model", str(folder / "start"), "--json"])
    assert json.loads(checked.stdout)["num_usable"] == 40


def test_replay_is_written_once_and_only_of_what_there_is(folder, tmp_path):
    def fails(*arguments):
        return CliRunner().invoke(app, ["data", "export-replay", *map(str, arguments)]).exception

    for arguments, message in (
        ((folder / "keep.jsonl", "--world", "shapes"), "exists; remove it"),
        ((tmp_path / "keep.json", "--world", "shapes"), "must be a .jsonl file; try keep.jsonl"),
        ((tmp_path / "keep.jsonl",), "either --world NAME or --prompts FILE"),
        ((tmp_path / "keep.jsonl", "--prompts", "x", "--own"), "--own and --task choose among"),
        ((tmp_path / "keep.jsonl", "--world", "shapes", "--task", "dance"), "has no task dance"),
    ):
        error = fails(*arguments)
        assert isinstance(error, InputError)
        assert message in str(error)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_answers_for_itself(folder, tmp_path):
    out = tmp_path / "own.jsonl"
    arguments = ["--world", "shapes", "--own", "--num", "4", "--model", "mmada-emoji-mixcot", "--task", "text", "--task", "draw"]
    result = CliRunner().invoke(app, ["data", "export-replay", str(out), *arguments])
    assert result.exit_code == 0, result.output
    reader = JsonlReader(out)
    drawn = [reader[i] for i in range(len(reader)) if reader[i].task == "draw"]
    assert len(drawn) == 2
    model = MMaDA.from_pretrained("mmada-emoji-mixcot")
    again = model.run([DrawRequest(drawn[0].turns[0].text, think=False, seed=1)])[0].image
    assert again.tobytes() == __import__("PIL.Image").Image.open(drawn[0].image.source).convert("RGB").tobytes()
    assert {reader[i].meta.source for i in range(len(reader))} == {"mmada-emoji-mixcot"}


def test_answers_without_an_end_are_not_kept():
    questions = [ReplaySample(task="text", messages=[("user", word)]) for word in WORDS[:4]]

    def answers(requests):
        results = [Answer(text, None, reason, (1,), 1) for text, reason in (("a", "stop"), ("b", "length"), ("", "stop"), ("d", "stop"))]
        raise EmptyAnswerError("the third stayed empty", results)

    assert [sample.answer for sample in own_samples(answers, questions, source="m")] == ["a", "d"]


def test_replay_has_rows_and_losses_of_its_own(folder, tmp_path):
    settings = config(folder, tmp_path, f"data.replay={folder / 'keep.jsonl'}", "data.replay_share=0.5", "loop.eval_every=3")
    job = build_task(settings)
    weights = {component.name: component.mixture_weight for component in job.plan.components}
    assert job.plan.stage.batch == sum(weights.values()) == 32
    assert weights["text"] == sum(weight for name, weight in weights.items() if name.startswith(STAY)) == 16
    assert min(weights.values()) >= 1
    outcome = run(settings)
    assert set(outcome.compared) == {"trained", "stay"}
    logged = lines(tmp_path)
    assert {f"loss/{name}" for name in weights} <= set(logged[1])
    assert any(name.startswith(f"eval/{STAY}") for line in logged for name in line)
    said = comparison(outcome)
    assert [line.split(":")[0] for line in said] == ["new task, trained records", "what should stay"]
    assert logged[0]["step"] == 0
    parts = [value for name, value in logged[0].items() if name.startswith("compare/stay/")]
    assert len(parts) == sum(name.startswith(STAY) for name in weights)
    assert sum(parts) / len(parts) == pytest.approx(outcome.compared["stay"][0])
    few = build_task(config(folder, tmp_path, f"data.replay={folder / 'keep.jsonl'}", "stage.batch=3", "data.replay_share=0.1"))
    assert {component.mixture_weight for component in few.plan.components if component.name.startswith(STAY)} == {1.0}


def test_words_of_the_records_are_known_to_the_model_of_the_run(folder, tmp_path):
    known = tmp_path / "known"
    MMaDA.from_pretrained(folder / "start").save_pretrained(known)
    Lexicon(("dog",), ("say", WORDS[0])).save(known)
    run(config(folder, tmp_path, f"model.start={known}", "lora.rank=2", "stage.steps=1"))
    export_save(latest(tmp_path / "run" / "state"), tmp_path / "of-a-save")
    for place in (tmp_path / "run" / "model", tmp_path / "run" / "model" / "adapter", tmp_path / "of-a-save"):
        made = MMaDA.from_pretrained(place).planner.lexicon
        assert made is not None
        assert made.own == tuple(sorted(set(WORDS[1:-1])))


def test_the_model_does_not_think_where_the_new_records_never_do(folder, tmp_path, caplog):
    thinking = tmp_path / "thinking"
    MMaDA.from_pretrained(folder / "start").use(thinks_before_answering=True, thinks_before_drawing=True).save_pretrained(thinking)
    start = f"model.start={thinking}"
    settings = config(folder, tmp_path, start, "lora.rank=2", f"data.replay={folder / 'keep.jsonl'}", "stage.steps=1")
    run(settings)
    assert "so the trained model does not think unless it is asked to (defaults.thinks_before_answering=false)" in caplog.text
    export_save(latest(tmp_path / "run" / "state"), tmp_path / "of-a-save")
    for place in (tmp_path / "run" / "model", tmp_path / "run" / "model" / "adapter", tmp_path / "of-a-save"):
        made = MMaDA.from_pretrained(place).defaults
        assert (made.thinks_before_answering, made.thinks_before_drawing) == (False, True), place

    caplog.clear()
    build_task(config(folder, tmp_path, start, "defaults.thinks_before_answering=true"))
    records = [json.loads(line) for line in (folder / "my.jsonl").read_text().splitlines()]
    records[3]["think"] = {"text": "a pause", "source": "me"}
    (tmp_path / "thought.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    build_task(config(folder, tmp_path, start, f"data.path={tmp_path / 'thought.jsonl'}"))
    assert "does not think" not in caplog.text


def test_held_out_records_are_not_trained_on(folder, tmp_path):
    job = build_task(config(folder, tmp_path, "data.eval_share=0.2"))

    def asked(rows):
        return {sample.prompt for sample in rows.samples.take(range(40))}

    learned, apart = asked(job.plan.sources["text"]), asked(job.held_out["text"])
    assert (len(learned), len(apart)) == (8, 2)
    assert not learned & apart
    other = build_task(config(folder, tmp_path, "data.eval_share=0.2", "seed=5"))
    assert asked(other.held_out["text"]) == apart


@pytest.fixture(scope="module")
def overfitted(folder, tmp_path_factory):
    """A run whose held-out loss falls and then rises."""
    out = tmp_path_factory.mktemp("best")
    best = [
        "data.eval_share=0.2",
        "loop.keep_best=true",
        "loop.eval_every=2",
        "stage.steps=12",
        "stage.optim.lr=0.02",
        "stage.optim.warmup=1",
    ]
    settings = config(folder, out, *best)
    return out, settings, run(settings)


@pytest.mark.slow
def test_the_best_weights_are_exported(overfitted, tmp_path):
    out, _, outcome = overfitted
    losses = {line["step"]: line["compare/held_out/text"] for line in lines(out) if "compare/held_out/text" in line and line["step"]}
    best = min(losses, key=losses.get)
    assert outcome.kept_step == best < 12
    assert outcome.compared["held_out"][1] == pytest.approx(losses[best], rel=1e-5)
    assert f"kept the weights of step {best}, whose held-out loss was lowest" in comparison(outcome)
    kept, exported = load_file(out / "run" / "state" / "best.safetensors"), MMaDA.from_pretrained(out / "run" / "model").model.state_dict()
    assert all(torch.equal(kept[f"model.{name}"], tensor) for name, tensor in exported.items())
    last = load_file(latest(out / "run" / "state") / "model.safetensors")
    assert any(not torch.equal(last[name], tensor) for name, tensor in kept.items())


@pytest.mark.slow
def test_a_run_that_was_stopped_keeps_the_same_best(overfitted, folder, tmp_path):
    _, settings, _ = overfitted
    half = replace(
        settings, out=str(tmp_path / "run"), stage=replace(settings.stage, optim=replace(settings.stage.optim, schedule="constant"))
    )
    whole = run(replace(half, out=str(tmp_path / "whole")))
    run(replace(half, stage=replace(half.stage, steps=6)))
    again = run(half)
    assert (again.kept_step, again.compared) == (whole.kept_step, whole.compared)
    (tmp_path / "run" / "state" / "best.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"set loop.keep_best=false to export the last weights"):
        run(half)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["loop.keep_best=true"], "loop.keep_best=true chooses among evaluations, and loop.eval_every=0 makes none"),
        (["loop.keep_best=true", "loop.eval_every=2"], "needs held-out records to choose by; set data.eval_share=0.1 or data.eval_path"),
        (["data.eval_share=1.5"], "data.eval_share=1.5 must lie in 0..1"),
        (["data.eval_share=0.1", "data.eval_path=x.jsonl"], "leave it out beside data.eval_path"),
        (["data={world: shapes, replay: x.jsonl}"], "name them with data.path"),
    ],
)
def test_what_does_not_go_together_is_told(folder, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        config(folder, tmp_path, *settings)


def test_a_task_with_one_record_holds_none_out(folder, tmp_path):
    (tmp_path / "one.jsonl").write_text((folder / "my.jsonl").read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match=r"data.eval_share holds out records of each task, and there is one of task text"):
        build_task(config(folder, tmp_path, f"data.path={tmp_path / 'one.jsonl'}", "data.eval_share=0.1"))


def test_worlds_without_tasks_of_records_have_no_replay():
    class Sums(type(find_world("shapes"))):
        name, tasks = "sums", ("sums",)

    with pytest.raises(InputError, match="world 'sums' has no task that records have"):
        list(world_samples(Sums(), num=1))
