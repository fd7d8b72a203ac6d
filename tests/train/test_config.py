"""YAML and key=value fill dataclasses; whatever does not fit is an error that says what would."""

import re
from pathlib import Path

import pytest

from mmada.errors import InputError
from mmada.train.config import load, load_all
from mmada.train.recipes import named_stage
from mmada.train.stages import STAGES

CONFIGS = Path(__file__).parents[2] / "configs"


SHAPES = "data: {world: shapes}\n"


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def stage(name):
    return named_stage(name, "shapes")


def test_a_name_is_the_whole_stage(tmp_path):
    config = load(write(tmp_path, SHAPES + "stage: base"))
    assert config.stage == stage("base")
    assert config.out == "runs/base"


def test_files_and_settings_reach_into_sections_and_flows(tmp_path):
    text = (
        SHAPES
        + "stage: {name: base, batch: 32, optim: {lr: 1e-3}, components: {draw: {mixture_weight: 2, noise: [pow2]}}}\nloop: {precision: bf16}"
    )
    config = load(write(tmp_path, text), ["stage.components.look.think=0.5", "stage.optim.betas=[0.9, 0.99]", "model.preset=8m", "seed=7"])
    draw, look, _, text, _ = config.stage.components
    assert (config.stage.batch, config.stage.optim.lr, config.stage.optim.betas) == (32, 1e-3, (0.9, 0.99))
    assert (draw.mixture_weight, draw.noise, look.think, text) == (2.0, ("pow2",), 0.5, stage("base").components[3])
    assert (config.loop.precision, config.model.preset, config.seed) == ("bf16", "8m", 7)


def test_adapters_have_ten_times_the_rate_unless_one_is_given(tmp_path):
    def rate(*settings):
        return load(write(tmp_path, "stage: finetune\ndata: {path: my.jsonl}"), settings).stage.optim.lr

    assert rate("lora.rank=8") == 10 * rate() == 10 * STAGES["finetune"].optim.lr
    assert rate("lora.rank=8", "stage.optim.lr=1e-3") == 1e-3
    assert rate("lora.rank=8", "stage.optim.name=muon") == 10 * rate()  # the stage's own is for AdamW
    assert rate("lora.rank=8", "stage=1.1") == pytest.approx(1e-3)
    assert load(write(tmp_path, SHAPES + "stage: base"), ["lora.rank=8"]).stage.optim == stage("base").optim  # of Muon


def test_settings_can_exchange_the_stage(tmp_path):
    path = write(tmp_path, SHAPES + "stage: {name: base, batch: 16}")
    assert load(path, ["stage=mixcot"]).stage == stage("mixcot")
    assert load(path, ["stage=finetune"]).stage == stage("finetune")
    assert load(write(tmp_path, SHAPES + "stage: base"), ["stage.batch=16"]).stage.batch == 16


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stag=base", "unknown setting stag: did you mean 'stage'"),
        ("stage.optim.l=1", "unknown setting stage.optim.l: did you mean 'lr'"),
        ("stage.components.drow.mixture_weight=1", "unknown setting stage.components.drow: did you mean 'draw'"),
        ("stage.components.draw.mixture_weigt=1", "unknown setting stage.components.draw.mixture_weigt: did you mean 'mixture_weight'"),
        ("stage=bas", "stage='bas' is unknown: did you mean 'base'"),
        ("stage.batch=ten", "stage.batch='ten' is not a whole number"),
        ("stage.batch=1.5", "stage.batch=1.5 is not a whole number"),
        ("stage.batch=true", "stage.batch=True is not a whole number"),
        ("loop.compile=1", "loop.compile=1 is not true or false"),
        ("loop.precision=fp8", "loop.precision='fp8' is not one of 'fp32', 'bf16'"),
        ("stage.answer_lengths=8", "stage.answer_lengths=8 is not a list, each a whole number"),
        ("stage.answer_lengths=[8, x]", "is not a list, each a whole number"),
        ("stage.text_length=x", "is not a whole number or null"),
        ("stage.optim.lr=0", "stage.optim.lr=0.0 must be a positive number"),
        ("optim.lr=1", "unknown setting optim: the optimizer belongs to the stage; write stage.optim.lr"),
        ("stage.optim=3", "stage.optim=3 is a section; set its parts"),
        ("model.preset=3n", "model.preset='3n' is unknown"),
        ("defaults.image_hight=64", "unknown setting defaults.image_hight: did you mean 'image_height'"),
        ("model.quantize=int3", "quantize='int3' is unknown: did you mean 'int"),
        ("model.quantize=int4", "model.quantize='int4' freezes the matrices; train an adapter beside them: set lora.rank=8"),
        ("model={quantize: int4}\tlora.rank=2", "name them with model.start"),
        ("loop.accumulate=0", "loop.accumulate=0 must be at least 1"),
        ("seed", "is not of the form key=value"),
        ("out=''", "out='' is empty"),
        ("seed=[1", "is not valid YAML"),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path, setting, message):
    with pytest.raises(InputError) as caught:
        load(write(tmp_path, SHAPES + "stage: base"), setting.split("\t"))
    assert message in str(caught.value)


def test_files_that_cannot_be_read_are_errors(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="must be a mapping"):
        load(write(tmp_path, "- base"))
    with pytest.raises(InputError, match="runs must be a list"):
        load(write(tmp_path, "runs: base"))


def test_a_curriculum_is_the_same_file_with_changes(tmp_path):
    text = SHAPES + "seed: 3\nloop: {compile: true, keep: 1}\nruns: [{stage: tokenizer}, {stage: base, loop: {keep: 5}}]"
    first, second = load_all(write(tmp_path, text), ["loop.prefetch=0"])
    assert (first.stage.name, second.stage.name) == ("tokenizer", "base")
    assert (first.seed, second.seed) == (3, 3)
    assert (first.loop.keep, second.loop.keep) == (1, 5)
    assert first.loop.compile
    assert second.loop.compile
    assert first.loop.prefetch == second.loop.prefetch == 0
    with pytest.raises(InputError, match="holds 2 runs"):
        load(write(tmp_path, text))


@pytest.mark.parametrize("name", [*STAGES, "base", "mixcot"])
def test_debug_shrinks_any_stage(tmp_path, name):
    config = load(write(tmp_path, SHAPES + f"stage: '{name}'\ndebug: true"))
    assert config.stage.name == name
    assert config.stage.steps <= 4
    assert config.stage.batch <= 4 * 8  # four rows for each component
    assert config.model.preset == "debug"


@pytest.mark.parametrize(
    "path",
    sorted(p for p in CONFIGS.rglob("*.yaml") if p.parent.name not in ("accelerate", "data", "rl") and p.stem not in ("max", "visitor-rl")),
    ids=lambda p: p.stem,
)
def test_every_shipped_config_loads(path):
    for config in load_all(path):
        assert config.data.world or config.data.path


def test_samples_come_from_one_place(tmp_path):
    for setting, message in (
        ("data.path=x.jsonl", "two sources of samples"),
        ("data={options: {a: 1}}", "name it with data.world"),
        ("data.options={a: 1}", "unknown setting data.options.a"),
        ("data.world=shape", "world 'shape' is not installed; there are .*shapes.*entry point of the group mmada.worlds"),
        ("data.world=shapes:Nothing", "world 'shapes:Nothing' cannot be imported"),
        ("data.world=pathlib:Path", "is a PosixPath; make it a subclass of mmada.data.world.World"),
    ):
        with pytest.raises(InputError, match=message):
            load(write(tmp_path, SHAPES + "stage: base"), [setting])
    with pytest.raises(InputError, match=r"stage='base' is unknown: .*a recipe of a world needs data.world"):
        load(write(tmp_path, "stage: base"))
    assert load(write(tmp_path, "stage: base\ndata: {world: 'mmada.worlds.shapes:Shapes'}")).stage == stage("base")


def test_configs_that_come_with_the_package_are_found_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(Path("configs/finetune.yaml")).stage.name == "finetune"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "finetune.yaml").write_text("stage: tokenizer\ndata: {world: shapes}\n")
    assert load(Path("configs/finetune.yaml")).stage.name == "tokenizer"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("my.jsonl", "{}", "is no YAML file; records are named by a setting: configs/finetune.yaml data.path="),
        ("run.yaml", "a: [b", "is not valid YAML: "),
        ("none.yaml", None, "or one that comes with the package, such as configs/finetune.yaml"),
        ("runs.yaml", "out: a\nruns: [{stage: base}, {stage: base}]\n", "out='a' is the folder of 2 of the 2 runs of"),
        ("rl.yaml", "objective: {name: espo}\n", "it belongs to reinforcement learning; run this config by mmada rl"),
    ],
)
def test_a_file_that_is_no_config_of_training(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_all(tmp_path / name)
    assert "\n" not in str(caught.value)
