"""Data at an address: the records of the same files here, by ranges that are asked for; what cannot be read is one sentence."""

from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path

import fsspec
import pytest

from mmada.data import (
    DataSource,
    ImageCodes,
    JsonlReader,
    Manifest,
    TarReader,
    TokenizedReader,
    index_cache,
    load_recipe,
    open_source,
    write_shards,
)
from mmada.data.addresses import Ranges, RemoteFile, data_file, is_remote, joined
from mmada.errors import ImageError, InputError, MissingDependencyError
from mmada.train.prefetch import prefetched

from .test_data_shards import NUM, png, record


@pytest.fixture
def here(debug, tmp_path):
    """A folder with the same records as lines, in tar shards and as codes."""
    (tmp_path / "images").mkdir()
    for i in range(NUM):
        (tmp_path / f"images/{i}.png").write_bytes(png(i))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record(i)) + "\n" for i in range(NUM)), encoding="utf-8")
    for shard in range(2):
        with tarfile.open(tmp_path / f"s-{shard}.tar", "w") as tar:
            for i in range(shard * 3, shard * 3 + 3):
                (tmp_path / f"{i}.json").write_text(json.dumps({"task": "text", "answer": {"text": f"text {i}"}}))
                tar.add(tmp_path / f"{i}.json", f"{i:03d}.json")
    options = {"image_tokenizer": debug.image_tokenizer, "prompts": debug.prompts, "size": (32, 32), "shard_size": 5}
    write_shards(JsonlReader(tmp_path / "a.jsonl"), tmp_path / "codes", **options)
    return tmp_path


@pytest.fixture
def there(here):
    """The same folder in fsspec's memory."""
    system = fsspec.filesystem("memory")
    for path in sorted(here.rglob("*")):
        if path.is_file():
            system.pipe(f"/bucket/{path.relative_to(here)}", path.read_bytes())
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


def values(records):
    return [(one.id, one.task, one.target_text, [str(picture.name) for picture in one.pictures]) for one in records]


def test_records_at_an_address_are_those_here(debug, here, there):
    for name in ("a.jsonl", "s-{0..1}.tar", "s-*.tar", "codes"):
        local, remote = (open_source(DataSource(path=name), root) for root in (here, there))
        assert type(remote) is type(local)
        assert values(remote) == values(local)
        assert (remote.name, remote.fingerprint) == (local.name, local.fingerprint)
        assert values(reversed(list(pickle.loads(pickle.dumps(remote))))) == values(reversed(list(local)))
    encode = ImageCodes(debug.image_tokenizer, size=(32, 32))
    lines, codes = JsonlReader(f"{there}/a.jsonl"), TokenizedReader(f"{there}/codes")
    assert not lines[1].pictures[0].is_missing
    for i in (0, 3, 17):
        assert [encode(p).tolist() for p in codes[i].pictures] == [encode(p).tolist() for p in lines[i].pictures]
    assert codes.fitting(context=120).indices.tolist() == TokenizedReader(here / "codes").fitting(context=120).indices.tolist()
    codes.verify()


def test_a_recipe_may_start_at_an_address(here, there):
    text = "name: mine\nparts:\n  - {name: text, source: {path: codes, format: tokenized}}\n  - {name: more, source: {path: a.jsonl}}\n"
    (here / "mine.yaml").write_text(text)
    local, remote = (load_recipe(here / "mine.yaml").open(root) for root in (here, there))
    assert values(local[i] for i in range(40)) == values(remote[i] for i in range(40))


def test_a_process_reads_its_part_alone(there, monkeypatch):
    """In order, too: a range that follows the one before is read ahead, and so once."""
    fetched = []
    fetch = RemoteFile.read_range
    monkeypatch.setattr(RemoteFile, "read_range", lambda file, *at: fetched.append((file.name, *at)) or fetch(file, *at))
    reader = JsonlReader(f"{there}/a.jsonl")
    lines = [tuple(map(int, span[:2])) for span in reader._index.T]
    for i in (20, 3, 11):
        reader[i]
    assert fetched == [("a.jsonl", *lines[i]) for i in (20, 3, 11)]
    fetched.clear()
    assert len(list(reader)) == NUM
    assert len(fetched) == 2
    codes = TokenizedReader(f"{there}/codes")
    fetched.clear()
    codes[7]
    assert {name for name, *_ in fetched} == {"00001.jsonl", "00001.codes.npy"}
    assert sum(stop - start for _, start, stop in fetched) < 1500


def test_processes_of_a_loader_read_at_an_address(there):
    reader = TokenizedReader(f"{there}/codes")
    order = [5, 22, 0, 13, 4]
    found = list(prefetched(lambda step: reader[order[step]].id, range(5), 1, workers=2))
    assert found == [f"r{i}" for i in order]


def test_an_index_is_kept_for_this_user_until_the_file_changes(here, there, tmp_path, monkeypatch):
    monkeypatch.setattr(index_cache, "_CACHE", tmp_path / "cache")
    for _ in range(2):
        assert len(JsonlReader(f"{there}/a.jsonl", min_cached_bytes=1)) == NUM
        assert len(list((tmp_path / "cache").iterdir())) == 1
    fsspec.filesystem("memory").pipe("/bucket/a.jsonl", (here / "a.jsonl").read_bytes().splitlines(keepends=True)[0])
    assert len(JsonlReader(f"{there}/a.jsonl", min_cached_bytes=1)) == 1


def test_what_cannot_be_read_is_one_sentence(here, there, monkeypatch):
    system = fsspec.filesystem("memory")
    for make, said in [
        (lambda: JsonlReader(f"{there}/none.jsonl"), "'memory://bucket/none.jsonl' does not exist; check the address"),
        (lambda: TarReader(f"{there}/s-{{0..2}}.tar"), "1 of 3 shards do not exist: memory://bucket/s-2.tar"),
        (lambda: TarReader(f"{there}/x-*.tar"), "no file is named like 'memory://bucket/x-"),
        (lambda: TokenizedReader(f"{there}/images"), "'memory://bucket/images' has no manifest.json"),
        (lambda: JsonlReader("nowhere://bucket/a.jsonl"), "has a scheme that nobody here reads"),
    ]:
        with pytest.raises(InputError) as caught:
            make()
        assert said in str(caught.value)
    codes = TokenizedReader(f"{there}/codes")
    system.pipe("/bucket/codes/00001.jsonl", b"{}")
    with pytest.raises(InputError, match=r"00001\.jsonl ends before byte"):
        codes[7]
    system.rm("/bucket/codes/00002.jsonl")
    with pytest.raises(InputError, match=r"00001\.jsonl has 2 bytes instead of \d+; 00002\.jsonl is missing"):
        TokenizedReader(f"{there}/codes")
    lines = JsonlReader(f"{there}/a.jsonl")
    system.rm("/bucket/images/0.png")
    assert lines[0].pictures[0].is_missing
    with pytest.raises(ImageError, match=r"image='images/0\.png' cannot be read .*does not exist"):
        _ = lines[0].pictures[0].image


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs")])
def test_a_package_that_is_not_installed_is_named_with_its_extra(scheme, extra, monkeypatch):
    for name in ("s3fs", "gcsfs"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    for path in (f"{scheme}://bucket/a.jsonl", f"{scheme}://bucket/codes", f"{scheme}://bucket/a.parquet"):
        with pytest.raises(MissingDependencyError, match=rf"needs a package that reads {scheme}://; .*pip install 'mmada\[{extra}\]'"):
            open_source(DataSource(path=path))


def test_addresses_and_paths_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_remote("s3://bucket/a")
    assert is_remote("hf://datasets/a/b.jsonl")
    assert not any(map(is_remote, ("a/b.jsonl", "https://x.org/a.jsonl", "C:/a.jsonl", "tatsu-lab/alpaca")))
    (tmp_path / "s3:" / "bucket").mkdir(parents=True)
    assert not is_remote("s3://bucket")  # which is a folder here
    assert joined("s3://b/x/", "a.jsonl") == "s3://b/x/a.jsonl"
    assert joined(Path("root"), "hf://datasets/a.jsonl") == "hf://datasets/a.jsonl"
    assert joined("root", "/whole/a.jsonl") == "/whole/a.jsonl"
    assert (data_file("gs://b/x/a.tar").name, str(data_file("gs://b/x/a.tar").parent)) == ("a.tar", "gs://b/x")
    assert Ranges().read(Path(__file__), 3, 10) == Path(__file__).read_bytes()[3:10]


def test_shards_are_not_written_to_an_address():
    from typer.testing import CliRunner

    from mmada.cli import app

    found = CliRunner().invoke(app, ["tokenize", "a.jsonl", "s3://bucket/codes"])
    assert isinstance(found.exception, InputError)
    assert "is an address; give a folder of this machine" in str(found.exception)


def test_a_manifest_is_read_at_an_address(here, there):
    assert Manifest.load(data_file(f"{there}/codes")) == Manifest.load(here / "codes")
