"""Whole runs from a configuration: what they write, what they go on from, and what they refuse."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from mmada.cli.convert import convert
from mmada.cli.train import train
from mmada.data import JsonlReader
from mmada.data.shard_writer import write_shards
from mmada.errors import InputError
from mmada.pipeline import MMaDA
from mmada.train import export
from mmada.train.config import ModelConfig, load
from mmada.train.setup import _record, build_task, run
from mmada.train.stages import STAGES
from mmada.train.state import latest

DEFAULTS = {
    "image_height": 32, "image_width": 32, "max_new_tokens": 8, "max_thinking_tokens": 16, "block_length": 8, "image_steps": 2,
    "guidance_scale": 1.0, "reasons_in_one_row": True, "style": {"thinking": "Think. ", "draw_thinking": "Think. "},
}  # fmt: skip
IMAGES = "mmada-emoji-tokenizer"
NET = {"patch": 4, "encoder_ch_mult": [1, 1], "decoder_ch_mult": [1, 1]}


def write(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


def config(tmp_path, *settings, **values):
    base = {"debug": True, "stage": "base", "out": str(tmp_path / "run"), "net": NET, "defaults": DEFAULTS, "loop": {"prefetch": 0}}
    base["data"] = {"world": "shapes"}
    return load(write(tmp_path / "run.yaml", {**base, **values}), settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the base stage, done."""
    tmp_path = tmp_path_factory.mktemp("finished")
    run(config(tmp_path))
    return tmp_path / "run"


def test_a_run_into_a_file_is_a_sentence(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(InputError, match=r"^out='.*run' cannot be written \(File exists\); give a new directory"):
        run(config(tmp_path))


def test_a_run_writes_a_model_that_can_be_used(finished):
    assert {path.name for path in finished.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "model",
        "samples",
        "state",
        "tensorboard",
        "tokenizer",
    }
    model = MMaDA.from_pretrained(finished / "model")
    assert model.defaults.image_height == 32
    assert model.draw("a red heart", seed=1).image.size == (32, 32)
    samples = [json.loads(line) for line in (finished / "samples" / "step-00000004" / "answers.jsonl").read_text().splitlines()]
    assert [sample["task"] for sample in samples] == ["draw", "interview", "text", "understand"]
    assert (finished / "samples" / "step-00000004" / samples[0]["picture"]).exists()


def test_the_model_holds_the_averaged_weights(finished):
    model = MMaDA.from_pretrained(finished / "model").model
    from safetensors.torch import load_file

    averaged = load_file(latest(finished / "state") / "ema.safetensors")
    assert averaged
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, averaged[f"model.{name}"]), name


def converted(save, target):
    app = typer.Typer()
    app.command()(convert)
    return CliRunner().invoke(app, [str(save), str(target)])


def test_a_save_becomes_the_model_that_the_run_ends_in(finished, tmp_path):
    save = latest(finished / "state")
    result = converted(save, tmp_path / "model")
    assert result.exit_code == 0, result.output
    files = {path.relative_to(finished / "model") for path in (finished / "model").rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "model") for path in (tmp_path / "model").rglob("*") if path.is_file()} == files
    for file in files:
        assert (tmp_path / "model" / file).read_bytes() == (finished / "model" / file).read_bytes(), file
    assert MMaDA.from_pretrained(tmp_path / "model").draw("a red heart", seed=1).image.size == (32, 32)
    (tmp_path / "step-00000004").mkdir()
    assert isinstance(converted(tmp_path / "step-00000004", tmp_path / "other").exception, InputError)


@pytest.mark.slow
def test_a_save_of_adapters_becomes_the_merged_model(finished, tmp_path):
    run(config(tmp_path, stage="mixcot", model={"start": str(finished / "model")}, lora={"rank": 2}))
    save, model = latest(tmp_path / "run" / "state"), tmp_path / "run" / "model"
    assert converted(save, tmp_path / "converted").exit_code == 0
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "converted" / name).read_bytes() == (model / name).read_bytes()


def test_the_next_stage_starts_from_the_model_of_the_last(finished, tmp_path):
    job = build_task(config(tmp_path, stage="mixcot", model={"start": str(finished / "model")}))
    before = MMaDA.from_pretrained(finished / "model").model.state_dict()
    for name, tensor in job.module.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_run_that_goes_on_from_another_meets_other_examples(finished, tmp_path):
    first, again, after = (build_task(config(tmp_path, model=model)) for model in ({}, {}, {"start": str(finished / "model")}))
    for component in ("draw", "text", "sums"):
        prompts = [[sample.prompt or sample.pieces for sample in _taken(job.plan.sources[component])] for job in (first, again, after)]
        assert prompts[0] == prompts[1]
        assert prompts[0] != prompts[2]
        held_out = [[sample.prompt or sample.pieces for sample in _taken(job.held_out[component])] for job in (first, after)]
        assert held_out[0] == held_out[1]


def _taken(rows):
    return rows.samples.take(range(8))


def test_lora_writes_adapter_and_merged_model(finished, tmp_path):
    run(config(tmp_path, stage="mixcot", model={"start": str(finished / "model")}, lora={"rank": 2}))
    out = tmp_path / "run" / "model"
    about = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str((finished / "model").resolve())
    assert (about["inference_mode"], about["auto_mapping"]["base_model_class"]) == (True, "MMadaModelLM")
    merged, before = MMaDA.from_pretrained(out).model.state_dict(), MMaDA.from_pretrained(finished / "model").model.state_dict()
    assert set(merged) == set(before)
    assert any(not torch.equal(merged[name], before[name]) for name in merged)
    loaded = MMaDA.from_pretrained(out / "adapter", device="cpu").model.state_dict()
    for name, tensor in merged.items():
        torch.testing.assert_close(loaded[name], tensor)


def test_only_matching_parameters_are_trained(tmp_path):
    job = build_task(config(tmp_path, "stage.trainable=['*.blocks.1.*', '*ln_f*']"))
    trained = {name for name, p in job.module.named_parameters() if p.requires_grad}
    assert trained
    assert all(".blocks.1." in name or "ln_f" in name for name in trained)
    with pytest.raises(InputError, match=r"'blocks.9' matches no parameter"):
        build_task(config(tmp_path, "stage.trainable=[blocks.9]"))


def test_a_run_is_not_continued_with_another_network(finished):
    settings = load(write(finished.parent / "again.yaml", yaml.safe_load((finished.parent / "run.yaml").read_text()) | {"seed": 5}))
    with pytest.raises(InputError, match=r"other settings \(seed=0\)"):
        run(settings)


@pytest.mark.slow
def test_a_run_can_be_made_longer(tmp_path):
    first = config(tmp_path)
    run(first)
    outcome = run(replace(first, stage=replace(first.stage, steps=6)))
    assert (outcome.reason, outcome.step) == ("done", 6)


@pytest.mark.slow
def test_own_records_finetune_a_model(finished, tmp_path):
    records = [
        {"id": str(i), "task": "text", "messages": [{"role": "user", "content": f"Say {word}"}], "answer": {"text": word}}
        for i, word in enumerate(["one", "two", "six", "ten", "red", "sky", "sun", "sea", "cat", "dog"])
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    data = {"path": str(path)}
    settings = config(tmp_path, model={"start": str(finished / "model")}, data=data, stage="finetune", debug=False)
    settings = replace(settings, stage=replace(settings.stage, steps=100), loop=replace(settings.loop, eval_every=0, sample_every=0))
    reports = []
    assert run(settings, on_step=reports.append).reason == "done"
    losses = [report.values["loss"] for report in reports if "loss" in report.values]
    assert losses[-1] < 0.7 * losses[0], losses
    (batch,) = build_task(settings).batches(0, rank=0, world=1, accumulate=1)
    assert batch.components == ("text",)
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_sizes_beside_a_start_are_its_own(finished, tmp_path):
    def built(**sizes):
        return build_task(config(tmp_path, model={"start": str(finished / "model"), **sizes}, debug=False))

    built(preset="debug", max_sequence_length=2048)
    for sizes, message in (
        (
            {"preset": "3m"},
            r"model\.preset='3m' has d_model=192, n_layers=6, .* and model\.start='.*' has d_model=64, n_layers=2, .*; leave the",
        ),
        ({"max_sequence_length": 8}, r"model\.max_sequence_length=8, and model\.start='.*' has 2048; leave it out"),
        ({"num_merges": 0}, r"model\.num_merges=0 are those of a new text tokenizer, and model\.start='.*' has its own"),
    ):
        with pytest.raises(InputError, match=message):
            built(**sizes)
    assert ModelConfig().whole() == ModelConfig(preset="3m", num_merges=700, max_sequence_length=512)


def test_sizes_beside_an_image_tokenizer_are_its_own(finished, tmp_path):
    """They were ignored in a run that trains a transformer."""

    def built(*net):
        return export.load_parts(config(tmp_path, *net, model={"start": str(finished / "model")}, debug=False), None)

    built("net.ch=8", "net.z_channels=6")
    for setting, message in (
        ("net.ch=32", r"the image tokenizer '.*' has ch=8, and net\.ch=32 says otherwise"),
        ("net.kind=vqvae", r"the image tokenizer '.*' is a magvit-v2 tokenizer, and net\.kind=vqvae"),
        ("net.upscale=2", r"net\.upscale=2 is for stages that train an image tokenizer"),
        ("net.upscaler_ch=16", r"net\.upscaler_ch=16 is that of an upscaler"),
        (f"net.start={IMAGES}", r"net\.start='.*' is for stages that train an image tokenizer; set model\.image_tokenizer"),
    ):
        with pytest.raises(InputError, match=message):
            built(setting)


def test_a_run_of_an_earlier_version_with_an_image_tokenizer_goes_on(finished, tmp_path):
    """It wrote the usual sizes beside the image tokenizer, whatever its sizes were."""
    settings = config(tmp_path, "net={}", model={"start": str(finished / "model")}, debug=False)
    (tmp_path / "run" / "state" / "step-00000001").mkdir(parents=True)
    _record(settings, tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    written = yaml.safe_load(file.read_text())
    assert written["net"]["ch"] == 0
    file.write_text(yaml.safe_dump({**written, "net": {**written["net"], "ch": 32, "z_channels": 12}}))
    _record(settings, tmp_path / "run")


def test_a_save_of_an_earlier_version_with_an_image_tokenizer_is_exported(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    written = yaml.safe_load(file.read_text())
    written |= {"debug": False, "model": {**written["model"], "image_tokenizer": str(finished / "model" / "image_tokenizer")}}
    file.write_text(yaml.safe_dump({**written, "net": {**written["net"], "ch": 32, "z_channels": 12}}))
    export.export_save(latest(tmp_path / "run" / "state"), tmp_path / "again")
    assert MMaDA.from_pretrained(tmp_path / "again").image_tokenizer.config.ch == 8


def test_a_run_of_an_earlier_version_from_a_start_goes_on_and_a_new_one_keeps_its_sizes(finished, tmp_path):
    """It wrote the usual sizes of a new model beside the start, whatever its sizes were."""
    settings = config(tmp_path, model={"start": str(finished / "model")})
    (tmp_path / "run" / "state" / "step-00000001").mkdir(parents=True)
    _record(settings, tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    written = yaml.safe_load(file.read_text())
    assert written["model"]["preset"] == ""
    written["model"] |= {"preset": "3m", "num_merges": 700, "max_sequence_length": 512}
    file.write_text(yaml.safe_dump(written))
    _record(settings, tmp_path / "run")
    file.write_text(yaml.safe_dump(written))
    assert export._settings(written, tmp_path / "run").model.given == {}
    with pytest.raises(InputError, match="holds a run with other settings"):
        _record(config(tmp_path, model={"start": str(finished / "model"), "preset": "debug"}, debug=False), tmp_path / "run")


def test_records_that_take_no_part_are_counted_by_reason(finished, tmp_path, caplog):
    def line(task, question, answer):
        return json.dumps({"task": task, "messages": [{"role": "user", "content": question}], "answer": {"text": answer}}) + "\n"

    path = tmp_path / "own.jsonl"
    path.write_text(line("text", "one?", "1") + line("text", "long " * 3000, "2") + line("text", "two?", "long " * 300) + "{\n")
    data = {"path": str(path)}
    model = {"start": str(finished / "model")}
    job = build_task(config(tmp_path, model=model, data=data, stage="finetune", debug=False))
    assert list(job.plan.sources) == ["text"]
    (reported,) = caplog.messages
    assert reported.startswith(f"data '{path}': 3 of 4 records are left out (")
    for reason in ("not a record (json) 1", "the row is longer than the context 1", "the text to learn is longer than its answer length 1"):
        assert reason in reported
    assert reported.endswith("; context 2048, answer length 256)")


def test_shards_that_were_made_for_another_model_are_refused(finished, tmp_path):
    (tmp_path / "own.jsonl").write_text('{"task": "text", "messages": [{"role": "user", "content": "Hi"}], "answer": {"text": "Ho"}}\n')
    other = MMaDA.debug()
    records = JsonlReader(tmp_path / "own.jsonl")
    write_shards(records, tmp_path / "codes", image_tokenizer=other.image_tokenizer, prompts=other.prompts, size=(32, 32))
    with pytest.raises(InputError, match="does not fit this model: image_tokenizer is"):
        build_task(
            config(
                tmp_path,
                model={"start": str(finished / "model")},
                data={"path": str(tmp_path / "codes")},
                stage="finetune",
                debug=False,
            )
        )


def test_records_under_other_names_are_an_error_that_says_how_to_read_them(tmp_path, finished):
    (tmp_path / "own.jsonl").write_text('{"prompt": "Hi", "completion": "Ho"}\n')
    data = {"path": str(tmp_path / "own.jsonl")}
    with pytest.raises(
        InputError, match=r"read it with data\.adapter=instruction 'data\.rename=\{instruction: prompt, output: completion\}'"
    ):
        build_task(config(tmp_path, model={"start": str(finished / "model")}, data=data, stage="finetune"))


def test_records_of_no_task_of_the_stage_are_an_error(tmp_path, finished):
    path = tmp_path / "own.jsonl"
    path.write_text(
        json.dumps({"id": "1", "task": "text", "messages": [{"role": "user", "content": "Hi"}], "answer": {"text": "Ho"}}) + "\n"
    )
    with pytest.raises(InputError, match="holds no record that fits a component"):
        build_task(
            config(
                tmp_path,
                model={"start": str(finished / "model")},
                data={"path": str(path)},
                stage={"name": "finetune", "components": {"text": {"mixture_weight": 0}}},
            )
        )


def test_without_an_image_tokenizer_the_remedy_is_named(tmp_path):
    with pytest.raises(InputError, match="train one with stage=tokenizer"):
        build_task(config(tmp_path, debug=False))


def test_the_command_trains_goes_on_and_begins_afresh(tmp_path):
    app, runner = typer.Typer(), CliRunner()
    app.command()(train)
    path = write(
        tmp_path / "tokenizer.yaml",
        {"debug": True, "stage": "tokenizer", "out": str(tmp_path / "out"), "net": NET, "data": {"world": "shapes"}},
    )
    first = runner.invoke(app, [str(path)])
    assert first.exit_code == 0, first.output
    assert "from the beginning" in first.output
    again = runner.invoke(app, [str(path)])
    assert "going on from step-00000004" in again.output
    assert "all 4 steps are done, and nothing is trained; raise stage.steps to go on, or start afresh" in again.output
    assert "trained with" not in again.output
    other = runner.invoke(app, [str(path), "data.replay_share=0.25"])
    assert "trained with data.replay_share=0.5 so far; goes on with what is given now" in other.output
    fresh = runner.invoke(app, [str(path), "--fresh"])
    assert "from the beginning" in fresh.output
    assert (tmp_path / "out.1" / "model").exists()
    assert (tmp_path / "out" / "model").exists()
    wrong = runner.invoke(app, [str(path), "stage.stps=2"])
    assert isinstance(wrong.exception, InputError)


def test_every_stage_has_a_debug_form_that_builds(tmp_path):
    for name in (*STAGES, "base", "mixcot"):
        changes = ("net={}",) if name == "vqvae" else ()  # the others' net has a patch, which a VQ-VAE has not
        job = build_task(config(tmp_path, *changes, stage=name))
        assert job.batches(0, rank=0, world=1, accumulate=1)[0].num_tokens > 0


def test_flows_ask_for_what_the_world_has(tmp_path):
    for settings, message in (
        (
            ["data={path: my.jsonl}", "stage=finetune", "debug=false", f"model.image_tokenizer={IMAGES}", "net={}"],
            "learned from a world's texts",
        ),
        (["stage.components.text.task=dance"], r"component 'text': world 'shapes' has no task 'dance'"),
        (["stage.components.text.task=sums"], "layout=chat and task=sums; layout infill goes with texts with gaps"),
        (["stage.components.sums.task=text"], "layout=infill and task=text; layout infill goes with texts with gaps"),
        (["defaults.image_height=64"], "world 'shapes' has pictures of 32 pixels"),
        (["data={}", "stage=finetune"], "name a world, such as shapes, or a file of records"),
        (["data={path: my.jsonl}", "stage=tokenizer"], "trains on pictures of a world"),
    ):
        with pytest.raises(InputError, match=message):
            build_task(config(tmp_path, *settings))
