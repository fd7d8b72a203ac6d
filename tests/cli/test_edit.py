"""`mmada edit` on tiny checkpoints of the families that can."""

from __future__ import annotations

import sys

import pytest
from PIL import Image

from mmada.cli import main
from mmada.cli.edit import _check
from mmada.errors import InputError
from mmada.families import FAMILIES, named
from mmada.generation.requests import EditRequest, ParallelRequest
from mmada.generation.settings import ORDER_NAMES
from mmada.pipeline import MMaDA

from ..families.tiny import tiny

RED, BLUE = Image.new("RGB", (8, 12), "red"), Image.new("RGB", (12, 8), "blue")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Family -> a tiny checkpoint, which lies in a directory of that name beside red.png and blue.png."""
    root, found = tmp_path_factory.mktemp("edit"), {}
    RED.save(root / "red.png")
    BLUE.save(root / "blue.png")
    for name in ("lumina-dimoo", "mmada-parallel-m", "mmada-parallel-a"):
        tiny(FAMILIES[name]).save_pretrained(root / name)
        found[name] = MMaDA.from_pretrained(root / name, device="cpu")
    found["root"] = root
    return found


@pytest.fixture
def mmada(models, monkeypatch, capsys, tmp_path):
    """Run `mmada edit -m FAMILY ARGS` where the pictures are: (status, standard output, standard error, the image)."""
    monkeypatch.chdir(models["root"])
    monkeypatch.setenv("COLUMNS", "200")

    def call(family: str, *args: str):
        file = tmp_path / "out.png"
        monkeypatch.setattr(sys, "argv", ["mmada", "edit", "-m", family, "--force", "-o", str(file), *args])
        status = 0
        try:
            main()
        except SystemExit as leave:
            status = leave.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err, Image.open(file).tobytes() if file.exists() else None

    return call


def test_an_edit_is_the_pipelines_own(mmada, models):
    options = ("--steps", "3", "-g", "1.5", "--image-guidance-scale", "2", "--seed", "4")
    settings = {"steps": 3, "guidance_scale": 1.5, "image_guidance_scale": 2.0, "seed": 4}
    status, out, err, image = mmada("lumina-dimoo", "red.png", "a hat", *options)
    assert (status, out) == (0, ""), err
    (alone,) = models["lumina-dimoo"].run([EditRequest("a hat", [RED], **settings)])
    assert image == alone.image.tobytes()
    status, _, err, image = mmada("lumina-dimoo", "red.png", "blue.png", "like that", "--restyle", "--size", "12x8", *options)
    assert status == 0, err
    (alone,) = models["lumina-dimoo"].run([EditRequest("like that", [RED, BLUE], restyle=True, size=(8, 12), **settings)])
    assert image == alone.image.tobytes()


@pytest.mark.parametrize("order", ORDER_NAMES)
def test_a_text_is_printed_in_any_order(mmada, models, order, tmp_path):
    options = ("--steps", "3", "--text-steps", "6", "--max-new-tokens", "8", "--seed", "4", "--order", order)
    status, out, err, image = mmada("mmada-parallel-a", "red.png", "a hat", *options, "--trace", str(tmp_path / "trace.png"))
    assert status == 0, err
    assert f"({6 if order == 'together' else 9} frames)" in err
    (alone,) = models["mmada-parallel-a"].run(
        [ParallelRequest("a hat", [RED], max_new_tokens=8, order=order, text_steps=6, image_steps=3, seed=4)]
    )
    assert image == alone.image.tobytes()
    assert out.strip() == "".join(c for c in alone.answer.text if c.isprintable() or c in "\n\t").strip()


def test_who_edits_only_while_writing_does_so_unasked(mmada, models):
    status, out, err, image = mmada("mmada-parallel-m", "red.png", "a hat", "--steps", "2", "--max-new-tokens", "8")
    assert status == 0, err
    (alone,) = models["mmada-parallel-m"].run([ParallelRequest("a hat", [RED], max_new_tokens=8, image_steps=2)])
    assert image == alone.image.tobytes()
    assert out or "there is no text" in err


@pytest.mark.parametrize(
    ("family", "args", "said"),
    [
        ("lumina-dimoo", ["--think"], "Lumina-DiMOO cannot write and draw in the same passes; MMaDA-Parallel-M, MMaDA-Parallel-A can"),
        ("lumina-dimoo", ["--order", "together"], "Lumina-DiMOO cannot write and draw in the same passes"),
        ("lumina-dimoo", ["--restyle"], "1 images with restyle=True"),
        ("lumina-dimoo", ["--size", "9x9"], "size='9x9' must be multiples of 2 pixels; try 8x8"),
        ("mmada-parallel-m", ["--no-think"], "MMaDA-Parallel-M cannot edit images; Lumina-DiMOO, MMaDA-Parallel-A can"),
        ("mmada-parallel-a", ["--no-think", "--text-steps", "3"], "text_steps=3 is about a text beside the image, and none is wanted"),
        ("mmada-parallel-a", ["--think", "--restyle"], "restyle=True has no form with a text beside the image"),
        ("mmada-parallel-a", ["--think", "--image-cache", "max-logit"], "image_cache='max-logit' keeps logits of an image"),
        ("mmada-parallel-a", ["--think", "--image-threshold", "0.9"], "image_threshold=0.9 ends a drawing before its last step"),
        ("mmada-parallel-m", ["--steps", "7", "--text-steps", "8"], "image_steps=7 are more than the last three quarters"),
    ],
)
def test_what_cannot_be_is_one_sentence(mmada, family, args, said):
    status, out, err, image = mmada(family, "red.png", "a hat", *args)
    assert (status, out, image) == (2, "", None)
    assert said in err


def test_who_reads_alone_is_not_sent_to_masks():
    with pytest.raises(InputError, match=r"^LLaDA cannot edit by an instruction; MMaDA-Parallel-M, Lumina-DiMOO, MMaDA-Parallel-A can$"):
        _check(named("llada"))
