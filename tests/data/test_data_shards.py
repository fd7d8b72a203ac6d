"""Tokenized shards: the codes are right, an interruption changes nothing, and what does not fit is refused."""

from __future__ import annotations

import base64
import io
import json
import multiprocessing
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

from mmada.canvas import Prompts, Style
from mmada.cli import data as data_verb
from mmada.cli.tokenize import tokenize
from mmada.data import Epochs, ImageCodes, JsonlReader, Manifest, ShardSettings, TokenizedReader, lengths_of, write_shards
from mmada.data.shard_workers import in_processes
from mmada.data.shard_writer import in_line
from mmada.data.shards import image_hash, text_hash
from mmada.errors import ImageError, InputError, MMaDAError
from mmada.pipeline import MMaDA

from ..processes import start

NUM = 23


def png(i: int, size: tuple[int, int] = (40, 32)) -> bytes:
    stream = io.BytesIO()
    image = Image.new("RGB", size, (i * 37 % 256, i * 91 % 256, 60))
    image.paste((255, 255, i * 5 % 256), (i % 20, 4, i % 20 + 12, 20))
    image.save(stream, "PNG")
    return stream.getvalue()


def record(i: int) -> dict[str, object]:
    """Texts, questions about images, drawings with and without thinking; two records share an image."""
    image = f"images/{i // 2}.png"
    looking = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": f"What is {i}?"}]}]
    values: list[dict[str, object]] = [
        {"task": "understand", "messages": looking, "answer": {"text": f"number {i}"}},
        {"task": "draw", "messages": [{"role": "user", "content": f"draw {i}"}], "answer": {"image": image}},
        {"task": "text", "answer": {"text": f"A text, number {i}. " * 4}, "meta": {"license": "CC0-1.0", "extra": {"i": i}}},
        {
            "task": "reason_draw",
            "messages": [{"role": "user", "content": f"plan {i}"}],
            "think": {"text": "so"},
            "answer": {"image": "data:image/png;base64," + base64.b64encode(png(i)).decode(), "text": f"plan {i} well"},
        },
    ]
    return {"id": f"r{i}", **values[i % 4]}


@pytest.fixture
def source(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(NUM):
        (tmp_path / f"images/{i}.png").write_bytes(png(i))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record(i)) + "\n" for i in range(NUM)), encoding="utf-8")
    return tmp_path / "a.jsonl"


def write(debug, file, target, **options):
    settings = {"size": (32, 32), "shard_size": 5, "batch_size": 3, "source": "a.jsonl", **options}
    return write_shards(JsonlReader(file), target, image_tokenizer=debug.image_tokenizer, prompts=debug.prompts, **settings)


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_records_come_back_with_their_codes(debug, source, tmp_path):
    done = []
    manifest = write(debug, source, tmp_path / "codes", on_progress=done.append)
    assert (done[0], done[-1], sorted(done)) == (0, NUM, done)
    assert (manifest.num_records, len(manifest.shards), manifest.complete) == (NUM, 5, True)
    # Each file once a shard, each inline image once.
    assert sum(shard.num_images for shard in manifest.shards) == manifest.num_images < NUM
    plain, read = JsonlReader(source), TokenizedReader(tmp_path / "codes")
    encode = ImageCodes(debug.image_tokenizer, size=(32, 32), num_kept=2)
    assert len(read) == NUM
    for i in reversed(range(NUM)):
        assert (read[i].id, read[i].task, read[i].target_text, read[i].meta) == (
            plain[i].id,
            plain[i].task,
            plain[i].target_text,
            plain[i].meta,
        )
        assert [(turn.role, turn.text) for turn in read[i].turns] == [(turn.role, turn.text) for turn in plain[i].turns]
        for codes, picture in zip(read[i].pictures, plain[i].pictures, strict=True):
            assert torch.equal(encode(codes), encode(picture))
        assert read.lengths(i) == lengths_of(plain[i], debug.prompts, grid=(8, 8))
    assert read[0].pictures[0].source == read[1].pictures[0].source
    assert str(read[5].where) == "codes/00001.jsonl:1"
    read.verify()
    copy = pickle.loads(pickle.dumps(read))
    assert copy[7] == read[7]
    for index in (-1, NUM):
        with pytest.raises(IndexError):
            read[index]
    assert {Epochs(read)[i].id for i in range(NUM)} == {f"r{i}" for i in range(NUM)}


def test_fitting_selects_without_reading(debug, source, tmp_path):
    write(debug, source, tmp_path / "codes")
    read = TokenizedReader(tmp_path / "codes")
    chosen = read.fitting(context=120, answer_length=40)
    reasons = [read.lengths(i).reason(context=120, answer_length=40) for i in range(NUM)]
    assert [one.id for one in chosen] == [f"r{i}" for i in range(NUM) if reasons[i] is None]
    assert sum(chosen.dropped.values()) == NUM - len(chosen) > 0
    assert set(chosen.dropped) == {"the text to learn is longer than its answer length", "the row is longer than the context"}


class StopError(Exception):
    pass


@pytest.mark.parametrize("at", [0, 1, 5, 7, 14, 20, 22])
def test_an_interruption_changes_nothing(debug, source, tmp_path, at):
    write(debug, source, tmp_path / "whole")

    def stop(done: int) -> None:
        if done >= at:
            raise StopError

    with pytest.raises(StopError):
        write(debug, source, tmp_path / "codes", on_progress=stop)
    (tmp_path / "codes" / "00003.jsonl.tmp").write_bytes(b"half")
    with pytest.raises(InputError, match=r"is incomplete, \d shards are done; run the same mmada tokenize again"):
        TokenizedReader(tmp_path / "codes")
    first, num_done = [], len(Manifest.load(tmp_path / "codes").shards)
    assert num_done == max(0, at - 1) // 5
    manifest = write(debug, source, tmp_path / "codes", on_progress=first.append)
    assert first[0] == num_done * 5
    assert contents(tmp_path / "codes") == contents(tmp_path / "whole")
    again = []
    assert write(debug, source, tmp_path / "codes", on_progress=again.append) == manifest
    assert again == [NUM]


@pytest.mark.integration
def test_what_a_killed_process_had_begun_is_not_left(debug, source, tmp_path):
    """Its shard is made again by another process, under the same run."""

    def run(job, numbers, on_share):
        for number, shard in in_line(job, numbers, on_share):
            (job.target / f"{number:05d}.codes.npy.7.tmp").write_bytes(b"")
            yield number, shard

    write(debug, source, tmp_path / "codes", run=run)
    assert not list((tmp_path / "codes").glob("*.tmp"))


def test_a_kill_changes_nothing(debug, source, tmp_path):
    write(debug, source, tmp_path / "whole")

    def run() -> None:
        write(debug, source, tmp_path / "codes", on_progress=lambda done: os.kill(os.getpid(), signal.SIGKILL) if done >= 12 else None)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert len(Manifest.load(tmp_path / "codes").shards) == 2
    write(debug, source, tmp_path / "codes")
    assert contents(tmp_path / "codes") == contents(tmp_path / "whole")


def test_processes_write_the_same_bytes_and_the_kill_of_one_costs_nothing(debug, source, tmp_path):
    write(debug, source, tmp_path / "whole", shard_size=2)
    done = []
    write(debug, source, tmp_path / "codes", shard_size=2, run=in_processes(2), on_progress=done.append)
    assert contents(tmp_path / "codes") == contents(tmp_path / "whole")
    assert (done[0], done[-1], sorted(done)) == (0, NUM, done)

    others = set(multiprocessing.active_children())  # such as the server that tests of this process share

    def kill_a_worker(count: int) -> None:
        if count >= 4:  # early: workers that have nothing left to do cannot be killed
            for child in set(multiprocessing.active_children()) - others:
                os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(InputError, match=r"workers=2: a process that made shards was killed.*repeat the command to go on"):
        write(debug, source, tmp_path / "again", shard_size=2, run=in_processes(2), on_progress=kill_a_worker)

    assert not (left := Manifest.load(tmp_path / "again")).complete
    assert left.shards
    write(debug, source, tmp_path / "again", shard_size=2, run=in_processes(2))
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


@pytest.mark.integration
@pytest.mark.slow
def test_processes_end_with_a_driver_that_is_killed(debug, source, tmp_path):
    write(debug, source, tmp_path / "whole", shard_size=2)
    driver = start(killed_driver, source, tmp_path / "codes", preload=("mmada.data.shard_workers",))
    driver.join(60)
    assert driver.exitcode == -signal.SIGKILL
    assert not Manifest.load(tmp_path / "codes").complete
    write(debug, source, tmp_path / "codes", shard_size=2)
    assert contents(tmp_path / "codes") == contents(tmp_path / "whole")
    deadline = time.monotonic() + 10
    while children := [int(word) for word in (tmp_path / "workers").read_text().split() if Path(f"/proc/{word}").exists()]:
        assert time.monotonic() < deadline, children
        time.sleep(0.05)


def killed_driver(file, target):
    def kill(done: int) -> None:
        if done >= 14:
            (file.parent / "workers").write_text(" ".join(str(child.pid) for child in multiprocessing.active_children()))
            os.kill(os.getpid(), signal.SIGKILL)

    write(MMaDA.debug(), file, target, shard_size=2, run=in_processes(2), on_progress=kill)


def test_a_folder_is_written_by_one_run_at_a_time(debug, source, tmp_path):
    def second(done: int) -> None:
        if done < NUM:
            with pytest.raises(InputError, match="is being written by another run"):
                write(debug, source, tmp_path / "codes")

    write(debug, source, tmp_path / "codes", on_progress=second)


def test_what_cannot_be_used_is_left_out_and_listed(debug, source, tmp_path):
    (tmp_path / "images/4.png").write_bytes(png(4)[:60])
    (tmp_path / "images/6.png").unlink()
    lines = source.read_text().splitlines()
    lines[2] = "{oops"
    lines[3] = json.dumps({**record(3), "think": {"text": ""}})
    source.write_text("\n".join(lines) + "\n")
    manifest = write(debug, source, tmp_path / "codes")
    assert manifest.dropped == {"image cannot be read": 4, "not a record: json": 1, "not a record: empty": 1}
    assert manifest.num_records == NUM - 6
    listed = [json.loads(line) for file in sorted((tmp_path / "codes").glob("*.dropped.jsonl")) for line in file.read_text().splitlines()]
    assert [one["record"] for one in listed] == [f"a.jsonl:{line}" for line in (3, 4, 9, 10, 13, 14)]
    assert "truncated or corrupt" in listed[2]["problems"][0]
    assert "cannot be read" in listed[4]["problems"][0]
    assert [one.id for one in TokenizedReader(tmp_path / "codes")] == [f"r{i}" for i in range(NUM) if i not in (2, 3, 8, 9, 12, 13)]


def test_texts_alone_need_no_image(debug, tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record(i)) + "\n" for i in (2, 6)))
    assert write(debug, tmp_path / "a.jsonl", tmp_path / "codes").num_images == 0
    assert [one.id for one in TokenizedReader(tmp_path / "codes")] == ["r2", "r6"]
    split = write(debug, tmp_path / "a.jsonl", tmp_path / "split", context=40)
    assert split.num_records > 2
    read = TokenizedReader(tmp_path / "split")
    assert "".join(one.answer for one in read if one.id.startswith("r2#")) == record(2)["answer"]["text"]
    assert all(read.lengths(i).row() <= 40 for i in range(len(read)))


def test_nothing_that_can_be_used_is_an_error(debug, tmp_path):
    (tmp_path / "a.jsonl").write_text("{oops\n")
    for _ in range(2):  # and stays one
        with pytest.raises(InputError, match=r"none of 1 records can be used \(1: not a record: json\)"):
            write(debug, tmp_path / "a.jsonl", tmp_path / "codes")


def test_a_folder_of_another_run_is_refused(debug, source, tmp_path):
    write(debug, source, tmp_path / "codes")
    for options, said in [
        ({"size": (32, 64)}, "width is 32 there, 64 here; num_image_tokens is 64 there, 128 here"),
        ({"mode": "pad"}, "mode is 'crop' there, 'pad' here"),
        ({"shard_size": 7}, "shard_size is 5 there, 7 here"),
        ({"source": "b.jsonl"}, "source is 'a.jsonl' there, 'b.jsonl' here"),
        ({"context": 99}, "context is None there, 99 here"),
    ]:
        with pytest.raises(InputError) as caught:
            write(debug, source, tmp_path / "codes", **options)
        assert f"was begun with other settings ({said})" in str(caught.value)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(InputError, match="holds something else"):
        write(debug, source, tmp_path / "other")
    with pytest.raises(ImageError, match=r"must be multiples of 4 pixels; try \(32, 32\)"):
        write(debug, source, tmp_path / "new", size=(33, 32))
    with pytest.raises(InputError, match="batch_size=0"):
        write(debug, source, tmp_path / "new", batch_size=0)
    reader = TokenizedReader(tmp_path / "codes")
    with pytest.raises(InputError, match="its images are codes already"):
        write_shards(reader, tmp_path / "twice", image_tokenizer=debug.image_tokenizer, prompts=debug.prompts, size=(32, 32))


def test_a_manifest_that_does_not_fit_says_what_differs(debug, source, tmp_path):
    write(debug, source, tmp_path / "codes")
    own = ShardSettings.of(debug.image_tokenizer, debug.prompts, size=(32, 32), mode="crop")
    assert len(TokenizedReader(tmp_path / "codes", settings=own)) == NUM
    other = MMaDA.debug(seed=1)
    prompts = Prompts(debug.layout, debug.prompts.tokenizer, Style(thinking="Think hard. "))
    expected = ShardSettings.of(other.image_tokenizer, prompts, size=(64, 32), mode="squash")
    with pytest.raises(InputError) as caught:
        TokenizedReader(tmp_path / "codes", settings=expected)
    said = str(caught.value)
    assert "does not fit this model" in said
    for part in (
        "image_tokenizer is ",
        "height is 32 there, 64 here",
        "num_image_tokens is 64 there, 128 here",
        "mode is 'crop'",
        "text is ",
    ):
        assert part in said
    assert "codebook_size" not in said
    assert "run mmada tokenize with this model into a new folder" in said


def test_hashes_depend_on_what_codes_and_lengths_depend_on(debug):
    image, text = image_hash(debug.image_tokenizer), text_hash(debug.prompts)
    same = MMaDA.debug()
    assert (image_hash(same.image_tokenizer), text_hash(same.prompts)) == (image, text)
    with torch.no_grad():
        next(same.image_tokenizer.decoder.parameters()).add_(1)
    assert image_hash(same.image_tokenizer) == image  # a decoder may be trained on
    with torch.no_grad():
        next(same.image_tokenizer.encoder.parameters()).add_(1)
    assert image_hash(same.image_tokenizer) != image
    assert text_hash(Prompts(debug.layout, debug.prompts.tokenizer, Style(separator="literal"))) != text


def test_text_hash_survives_saving(debug, tmp_path):
    from mmada.hub import tokenizer

    debug.prompts.tokenizer.save_pretrained(tmp_path)
    assert text_hash(Prompts(debug.layout, tokenizer.load(tmp_path, debug.layout), debug.prompts.style)) == text_hash(debug.prompts)


def test_damage_is_found(debug, source, tmp_path):
    folder = tmp_path / "codes"
    write(debug, source, folder)
    whole = contents(folder)
    codes = folder / "00001.codes.npy"
    codes.write_bytes(whole[codes.name][:-1] + bytes([whole[codes.name][-1] ^ 1]))
    read = TokenizedReader(folder)
    with pytest.raises(InputError, match=r"00001\.codes\.npy changed since they were written"):
        read.verify()
    codes.write_bytes(whole[codes.name][:-2])
    (folder / "00003.jsonl").unlink()
    with pytest.raises(InputError, match=r"00001\.codes\.npy has \d+ bytes instead of \d+; 00003\.jsonl is missing"):
        TokenizedReader(folder)
    manifest = folder / "manifest.json"
    for text, said in [("{", "is damaged"), ("[]", "is damaged"), (json.dumps({"version": 99}), "has version 99, this package reads 1")]:
        manifest.write_text(text)
        with pytest.raises(InputError, match=said):
            TokenizedReader(folder)
    manifest.unlink()
    with pytest.raises(InputError, match=r"has no manifest\.json; give a folder that mmada tokenize wrote"):
        TokenizedReader(folder)


# The command line. Run through an app of its own, so that these tests do not depend on how `mmada` registers its verbs.


@pytest.fixture
def mmada(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    app = typer.Typer()
    app.add_typer(data_verb.app, name="data")
    app.command("tokenize")(tokenize)

    def call(*args: str) -> tuple[int, str, str]:
        model = () if "--model" in args else ("--model", "debug")
        monkeypatch.setattr(sys, "argv", ["mmada", *args, *model])
        status = 0
        try:
            app()
        except SystemExit as leave:
            status = leave.code or 0
        except MMaDAError as error:
            return 2, capsys.readouterr().out, str(error)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return call


def test_tokenize_and_check_the_shards(mmada, source, tmp_path):
    status, out, err = mmada("tokenize", "a.jsonl", "codes", "--shard-size", "10", "--workers", "2")
    assert (status, out) == (0, "")
    assert "wrote codes: 23 records, " in err
    assert mmada("tokenize", "a.jsonl", "codes", "--shard-size", "10")[0] == 0
    status, out, _ = mmada("data", "check", "codes", "--json")
    assert (status, json.loads(out)["num_usable"]) == (0, NUM)
    (tmp_path / "images/2.png").unlink()
    status, _, err = mmada("tokenize", "a.jsonl", "small", "--size", "16x8", "--mode", "squash", "--batch-size", "2", "--threads", "1")
    assert status == 0
    assert "left out 2 (image cannot be read 2); see small/*.dropped.jsonl" in err.replace("\n", " ")
    assert Manifest.load(tmp_path / "small").settings.num_image_tokens == 8


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["none.jsonl", "out"], "does not exist"),
        (["a.jsonl", "out", "--mode", "stretch"], "mode='stretch' is unknown"),
        (["a.jsonl", "out", "--size", "33x32"], "multiples of 4 pixels"),
        (["a.jsonl", "out", "--adapter", "drow"], "did you mean 'draw'"),
        (["a.jsonl", "out", "--rename", "caption"], "must be FIELD=OWN; try caption=txt"),
        (["a.jsonl", "out", "--format", "tar"], "format='tar' is unknown"),
        (["images", "images"], ""),
        (["a.jsonl", "images"], "holds something else"),
        (["a.jsonl", "out", "--model", "none"], "is no directory"),
        (["a.jsonl", "out", "--device", "warp"], "device='warp' cannot be used here"),
    ],
)
def test_bad_commands_are_one_sentence(mmada, source, args, said):
    status, _, err = mmada("tokenize", *args)
    assert (status, said in err) == (2, True), err


def test_a_saved_model_tokenizes_like_itself(mmada, debug, source, tmp_path):
    debug.save_pretrained(tmp_path / "model")
    assert mmada("tokenize", "a.jsonl", "codes", "--model", "model")[0] == 0
    assert mmada("tokenize", "a.jsonl", "own")[0] == 0
    assert contents(tmp_path / "codes") == contents(tmp_path / "own")
    assert mmada("data", "check", "codes", "--model", "model")[0] == 0
    facts = json.loads((tmp_path / "model/mmada.json").read_text())
    facts["style"]["thinking"] = "Think well. "
    (tmp_path / "model/mmada.json").write_text(json.dumps(facts))
    status, _, err = mmada("data", "check", "codes", "--model", "model")
    assert (status, "does not fit this model: text is " in err) == (2, True)
