"""Records of edits, and of edits that are written about: checked, tokenized, trained, in the rows that the pipeline samples."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
import torch
import typer
from accelerate.state import AcceleratorState
from PIL import Image, ImageChops, ImageStat
from typer.testing import CliRunner

from mmada.cli.tokenize import tokenize
from mmada.data import DataSource, Epochs, open_source
from mmada.data.records import EDIT_TASKS
from mmada.errors import InputError
from mmada.families import FAMILIES
from mmada.families.lumina_dimoo import STYLE
from mmada.generation.requests import EditRequest, ParallelRequest
from mmada.pipeline import MMaDA
from mmada.rl import setup as rl
from mmada.rl.prompts import RecordPrompts
from mmada.rl.rewards.pictures import pixels
from mmada.rl.rollout import Decoding, generate_rollouts
from mmada.train.batch import noise_row
from mmada.train.records import check_layout
from mmada.train.setup import build_task, run
from mmada.train.stages import STAGES

from .conftest import record
from .test_data import checked
from .test_training import QUIET, config, losses, rewarded

EDITING = [name for name, family in FAMILIES.items() if "edit" in family.abilities]
PARALLEL = [name for name, family in FAMILIES.items() if "parallel" in family.abilities]
ABLE = {task: ", ".join(f.title for f in FAMILIES.values() if task in f.abilities) for task in ("edit", "parallel")}
ABLE["restyle"] = ABLE["edit"]


@pytest.fixture(autouse=True)
def _accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def edits(data, tmp_path_factory):
    """edit.jsonl, parallel.jsonl, restyle.jsonl: two records each."""
    root = tmp_path_factory.mktemp("edits")
    for color in ("red", "blue", "green"):
        Image.new("RGB", (8, 12), color).save(root / f"{color}.png")
    for task in ("edit", "parallel"):
        lines = []
        for before, after in (("red", "blue"), ("blue", "green")):
            content = [{"type": "image", "image": f"{before}.png"}, {"type": "text", "text": f"make it {after}"}]
            answer = {"image": f"{after}.png"} | ({"text": f"It is {after}."} if task == "parallel" else {})
            lines.append(json.dumps(record(content, answer, task=task)))
        (root / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
    images = [{"type": "image", "image": f"{color}.png"} for color in ("red", "green")]
    asked = [[*some, {"type": "text", "text": "paint it like this"}] for some in (images, images[::-1])]
    lines = [json.dumps(record(content, {"image": "blue.png"}, task="restyle")) for content in asked]
    (root / "restyle.jsonl").write_text("\n".join(lines) + "\n")
    return root


def color_of(tokens: torch.Tensor, model: MMaDA) -> tuple[str, str]:
    """Names of the pictures before and after."""
    after = re.search("make it ([a-z]+)", model.prompts.tokenizer.decode(tokens.tolist()))[1]
    return ("red" if after == "blue" else "blue"), after


@pytest.mark.parametrize("name", EDITING)
def test_an_edit_is_learned_in_the_row_that_is_sampled(saved, edits, tmp_path, name):
    model = MMaDA.from_pretrained(saved(name), device="cpu")
    model.use(image_height=12, image_width=8)
    job = build_task(config(tmp_path, saved(name), edits / "edit.jsonl"))
    assert job.names == ("edit",)
    rows = job.plan.sources["edit"]
    kept = next(row.canvas for row in rows.rows(range(20)) if "make it" in model.prompts.tokenizer.decode(row.canvas.tokens.tolist()))
    before, after = color_of(kept.tokens, model)
    request = EditRequest(f"make it {after}", [edits / f"{before}.png"])
    asked = model.planner.edit_fill(request, *model.planner.sources(request.images, (12, 8)))
    assert kept.masked(model.layout.mask_id).tokens.tolist() == asked.canvas.tokens.tolist()
    assert kept.fields[0].positions.equal(asked.canvas.fields[0].positions)
    codes = model.image_tokenizer.encode_images([edits / f"{after}.png"])[0].flatten()
    assert kept.tokens[kept.fields[0].positions].equal(codes + model.layout.image_offset)
    # A tenth of the rows has neither words nor source, which is what text-free and source-free guidance begin from.
    dropped = [row.canvas for row in rows.rows(range(100)) if int(model.layout.special("uncondition")) in row.canvas.tokens.tolist()]
    assert 2 <= len(dropped) <= 25
    assert all(len(canvas) < len(kept) - 24 for canvas in dropped)


@pytest.mark.parametrize("name", EDITING)
def test_a_style_is_learned_in_the_row_that_is_sampled(saved, edits, tmp_path, name):
    """Content, then reference, under the sentence for styles; dropped rows keep the sentence alone."""
    model = MMaDA.from_pretrained(saved(name), device="cpu")
    model.use(image_height=12, image_width=8)
    job = build_task(config(tmp_path, saved(name), edits / "restyle.jsonl"))
    assert job.names == ("restyle",)
    rows = [row.canvas for row in job.plan.sources["restyle"].rows(range(60))]
    words = [model.prompts.tokenizer.decode(row.tokens.tolist()) for row in rows]
    kept = next(row for row, said in zip(rows, words, strict=True) if "like this" in said)
    pictures, found = [edits / "red.png", edits / "green.png"], []
    for images in (pictures, pictures[::-1]):
        request = EditRequest("paint it like this", images, restyle=True)
        asked = model.planner.edit_fill(request, *model.planner.sources(request.images, (12, 8)))
        found.append(asked.canvas.tokens.tolist())
    prompts = {tuple(row.masked(model.layout.mask_id).tokens.tolist()) for row in rows}
    assert prompts >= set(map(tuple, found))
    codes = model.image_tokenizer.encode_images([edits / "blue.png"])[0].flatten()
    assert kept.tokens[kept.fields[0].positions].equal(codes + model.layout.image_offset)
    dropped = next(row for row, said in zip(rows, words, strict=True) if "like this" not in said)
    unconditional = model.prompts.edit("", (), torch.zeros(6, 4, dtype=torch.long), restyle=True)
    assert dropped.masked(model.layout.mask_id).tokens.equal(unconditional.tokens)
    assert STYLE in words[rows.index(dropped)]


@pytest.mark.parametrize("name", PARALLEL)
def test_text_and_image_are_learned_in_the_row_that_is_sampled(saved, edits, tmp_path, name):
    model = MMaDA.from_pretrained(saved(name), device="cpu")
    model.use(image_height=12, image_width=8)
    job = build_task(config(tmp_path, saved(name), edits / "parallel.jsonl"))
    assert job.names == ("parallel",)
    row = next(
        row
        for row in job.plan.sources["parallel"].rows(range(20))
        if "make it" in model.prompts.tokenizer.decode(row.canvas.tokens.tolist())
    )
    before, after = color_of(row.canvas.tokens, model)
    words, picture = row.canvas.fields
    request = ParallelRequest(f"make it {after}", [edits / f"{before}.png"], max_new_tokens=words.num_total)
    asked = model.planner.parallel_fill(request, *model.planner.sources(request.images, (12, 8)))
    assert row.canvas.masked(model.layout.mask_id).tokens.tolist() == asked.canvas.tokens.tolist()
    assert [one.positions.tolist() for one in row.canvas.fields] == [one.positions.tolist() for one in asked.canvas.fields]
    assert model.prompts.decode(row.canvas.tokens[words.positions]) == f"It is {after}."
    assert row.factor is not None
    assert float(row.factor[words.positions][-1]) == pytest.approx(0.1)  # what pads the text
    assert bool((row.factor[picture.positions] == 1).all())
    # Both fields have lost the same share, for they are filled in the same passes.
    (component,) = job.plan.components
    for index in range(8):
        (noised,) = noise_row(replace(row, index=index), component, layout=model.layout, seed=0)
        shares = [float(noised.scored[one.positions].float().mean()) for one in (words, picture)]
        assert abs(shares[0] - shares[1]) <= 1 / words.num_total + 1 / picture.num_total
    (batch,) = job.batches(0, rank=0, world=1, accumulate=1)
    sums = job.losses(job.module, batch, torch.device("cpu"))
    assert bool((sums / batch.normalizers).isfinite().all())


@pytest.mark.parametrize("name", PARALLEL)
def test_dropped_conditions_are_those_of_the_family(saved, name):
    prompts = MMaDA.from_pretrained(saved(name), device="cpu").prompts
    image = prompts.shaped(torch.arange(24), (6, 4))
    row = prompts.parallel_row("make it red", [image], 12, "Done.", image, drops=True)
    prompt = row.masked(prompts.layout.mask_id)
    negatives = prompts.parallel_negatives("make it red", [image], 12, image)
    if name == "mmada-parallel-m":
        assert prompt.tokens.equal(negatives[0].tokens)
    else:  # neither words nor sources, as in the published training; the sampler drops one of them
        assert prompt.tokens.equal(prompts.parallel("", (), 12, image).tokens)
        assert len(prompt) < min(map(len, negatives))
    assert prompts.decode(row.tokens[row.fields[0].positions]) == "Done."
    with pytest.raises(InputError, match="num_new=3 is too little for an answer of 6 tokens"):
        prompts.parallel_row("make it red", [image], 3, "Done.", image)


@pytest.mark.parametrize(("name", "task"), [("lumina-dimoo", "restyle"), ("mmada-parallel-a", "edit"), ("mmada-parallel-m", "parallel")])
def test_a_run_writes_samples_and_a_model(saved, edits, tmp_path, name, task):
    settings = config(
        tmp_path, saved(name), edits / f"{task}.jsonl", loop={**QUIET, "sample_every": 2}, defaults={"image_height": 12, "image_width": 8, "image_steps": 2},
        data={"path": str(edits / f"{task}.jsonl"), "eval_share": 0.5, "held_out": 1, "num_samples": 1},
    )  # fmt: skip
    run(settings)
    assert all(math.isfinite(loss) and loss > 0 for loss in losses(tmp_path / "run", f"loss/{task}"))
    (folder,) = (tmp_path / "run" / "samples").iterdir()
    (line,) = map(json.loads, (folder / "answers.jsonl").read_text().splitlines())
    assert line["task"] == task
    assert Image.open(folder / line["picture"]).size == (8, 12)
    assert ("answer" in line) == (task == "parallel")
    assert MMaDA.from_pretrained(tmp_path / "run" / "model", device="cpu").family.name == name


@pytest.mark.parametrize(
    ("name", "task"), [("mmada", "edit"), ("mmada-parallel-m", "restyle"), ("lumina-dimoo", "parallel"), ("llada", "edit")]
)
def test_who_cannot_says_so_with_the_line(saved, edits, tmp_path, name, task):
    file = edits / f"{task}.jsonl"
    lacks = FAMILIES[name].lacks("edit" if task == "restyle" else task)
    sentence = f"{lacks} ({ABLE[task]} can)"
    found = checked(str(file), "--model", str(saved(name)))
    assert found["counts"] == {"not learned": 2}
    assert [problem["line"] for problem in found["problems"]] == [1, 2]
    assert all(sentence in problem["message"] for problem in found["problems"])
    with pytest.raises(InputError, match=re.escape(f"({sentence} 2); see")):
        build_task(config(tmp_path, saved(name), file))
    (component,) = (component for component in STAGES["finetune"].components if component.task == task)
    with pytest.raises(InputError, match=f"^{lacks}; {ABLE[task]} can$"):
        check_layout(component, FAMILIES[name])


def test_check_shows_rows(saved, edits):
    found = checked(str(edits / "parallel.jsonl"), "--model", str(saved("mmada-parallel-a")), "--previews", "1")
    assert found["counts"] == {}
    (preview,) = found["previews"]
    masked = [words for kind, words in preview["parts"] if kind == "masked"]
    assert len(masked) == 8 + 1  # rows of codes between newlines, and the text
    assert masked[-1].startswith("It is blue. [eos]")
    assert "make it blue [soi] (8 image codes)" in preview["parts"][0][1]
    assert found["lengths"]["image"]["most"] == 64


def test_too_many_sources_are_left_out(saved, edits, tmp_path):
    two = record([{"type": "image", "image": "red.png"}] * 2 + [{"type": "text", "text": "mix"}], {"text": "Done.", "image": "blue.png"})
    file = edits / "two.jsonl"
    file.write_text(json.dumps({**two, "task": "parallel"}) + "\n")
    found = checked(str(file), "--model", str(saved("mmada-parallel-m")))
    assert "2 source images; MMaDA-Parallel-M edits exactly one" in found["problems"][0]["message"]
    with pytest.raises(InputError, match="edits exactly one 1"):
        build_task(config(tmp_path, saved("mmada-parallel-m"), file))


def test_tokenized_edits_are_the_same_rows(saved, edits, tmp_path):
    app = typer.Typer()
    app.command()(tokenize)
    start, codes = saved("mmada-parallel-a"), tmp_path / "codes"
    both = edits / "both.jsonl"
    both.write_text((edits / "parallel.jsonl").read_text() + (edits / "restyle.jsonl").read_text())
    result = CliRunner().invoke(app, [str(both), str(codes), "--model", str(start), "--size", "8x12", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    jobs = [build_task(config(tmp_path, start, path)) for path in (both, codes)]
    one, other = ([row for task in ("parallel", "restyle") for row in job.plan.sources[task].rows(range(4))] for job in jobs)
    assert [row.canvas.tokens.tolist() for row in one] == [row.canvas.tokens.tolist() for row in other]


def test_a_mixture_needs_no_part_for_edits(saved, edits, tmp_path):
    mixture = edits / "mixture.yaml"
    mixture.write_text("name: mine\nparts:\n  - {name: edit, weight: 1, source: {path: edit.jsonl, format: jsonl}}\n")
    others = [component.name for component in STAGES["finetune"].components if component.task not in EDIT_TASKS]
    stage = {"name": "finetune", "batch": 4, "steps": 1, "components": {name: {"mixture_weight": 0} for name in others}}
    assert build_task(config(tmp_path, saved("lumina-dimoo"), mixture, stage=stage)).names == ("edit",)
    stage["components"].pop("text")
    with pytest.raises(InputError, match="recipe 'mine' has no part 'text'"):
        build_task(config(tmp_path, saved("lumina-dimoo"), mixture, stage=stage))


def test_a_world_makes_no_edits(saved, edits, tmp_path, caplog):
    values = {"data": {"world": "shapes"}, "stage": "finetune", "defaults": {"image_height": 32, "image_width": 32}}
    job = build_task(config(tmp_path, saved("mmada-parallel-a"), edits / "edit.jsonl", **values))
    assert job.names == ("look", "text", "draw", "plan", "make")
    assert "world 'shapes' makes no edits: the components edit, restyle, parallel take no part" in caplog.text


CALLS = []


def kept(samples):
    """1 - the mean difference of an edit to what it starts from; notes what it was shown."""
    for sample in samples:
        (source,) = sample.prompt.sources
        CALLS.append((source.getpixel((0, 0)), sample.image.size, sample.prompt.text))
    return [1 - float(ImageStat.Stat(ImageChops.difference(s.prompt.sources[0], s.image)).mean[0]) / 255 for s in samples]


def test_edits_are_rewarded_by_source_and_result(saved, edits, tmp_path):
    """A record is a prompt; its rollouts are edits of its source, in the row that is trained; an update moves the weights."""
    CALLS.clear()
    settings = rewarded(tmp_path, saved("lumina-dimoo"), edits / "edit.jsonl", "edit", rewards=("tests.families.test_edits:kept", "pixels"))
    rl.run(settings)
    assert math.isfinite(losses(tmp_path / "rl", "loss/edit")[0])
    assert losses(tmp_path / "rl", "signal/edit") == [1.0]
    before = {"make it blue": (255, 0, 0), "make it green": (0, 0, 255)}
    assert CALLS
    assert all(pixel == before[text] and size == (8, 12) for pixel, size, text in CALLS)
    old, new = (MMaDA.from_pretrained(path, device="cpu").model.state_dict() for path in (saved("lumina-dimoo"), tmp_path / "rl" / "model"))
    assert any(not torch.equal(tensor, old[name]) for name, tensor in new.items())


def test_a_rollout_of_an_edit_is_the_edit_of_the_pipeline(saved, edits):
    model = MMaDA.from_pretrained(saved("mmada-parallel-a"), device="cpu")
    model.use(image_height=12, image_width=8)
    for task, images in (("edit", ["red"]), ("restyle", ["red", "green"])):
        found = open_source(DataSource(path=str(edits / f"{task}.jsonl")))
        (prompt,) = RecordPrompts(Epochs(found, shuffle=False), seed=0).take([0])
        decoding = Decoding(image_temperature=0.0, image_steps=3, guidance_scale=1.0, image_guidance_scale=2.0)
        (rollout,) = generate_rollouts([prompt], model.planner, model.denoiser, decoding, num=1, seed=5)
        sources = [edits / f"{name}.png" for name in images]
        params = model.family.edit_params(steps=3, guidance_scale=1.0, image_guidance_scale=2.0, temperature=0.0)
        drawn = model.edit(prompt.text, sources, restyle=task == "restyle", size=(12, 8), params=params, seed=rollout.seed)
        assert rollout.sample.image.tobytes() == drawn.image.tobytes()
        (part,) = rollout.parts
        codes = part.canvas.tokens[part.field.positions] - model.layout.image_offset
        assert codes.equal(drawn.codes.flatten())
        wanted = Image.open(edits / "blue.png").convert("RGB")
        assert prompt.wanted is not None
        (value,) = pixels([rollout.sample])
        difference = ImageStat.Stat(ImageChops.difference(wanted, drawn.image)).mean
        assert value == pytest.approx(1 - sum(difference) / 3 / 255, abs=1e-5)


def test_who_is_rewarded_for_edits(saved, edits, tmp_path):
    with pytest.raises(InputError, match=f"^MMaDA cannot edit images; {ABLE['edit']} can$"):
        rl.build_task(rewarded(tmp_path, saved("mmada"), edits / "edit.jsonl", "edit"))
    with pytest.raises(InputError, match=r"tasks\.parallel"):
        rewarded(tmp_path, saved("mmada-parallel-a"), edits / "parallel.jsonl", "parallel")
    found = checked(str(edits / "restyle.jsonl"), "--prompts", "--model", str(saved("lumina-dimoo")))
    assert found["counts"] == {}
    found = checked(str(edits / "parallel.jsonl"), "--prompts", "--model", str(saved("mmada-parallel-a")))
    assert "task parallel is none of `mmada rl`" in found["problems"][0]["message"]
