"""Shards over Ray: the bytes of one process, also where a process is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from mmada.data import JsonlReader, TokenizedReader, write_shards
from mmada.errors import InputError, MissingDependencyError
from mmada.scale.ray_shards import over_ray

ROOT = Path(__file__).parents[2]
LINES = [{"id": f"r{i}", "task": "text", "answer": {"text": f"Text number {i}. " * 3}} for i in range(24)]


def write(debug, folder, **options):
    file = folder.parent / "a.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    settings = {"size": (32, 32), "shard_size": 2, **options}
    return write_shards(JsonlReader(file), folder, image_tokenizer=debug.image_tokenizer, prompts=debug.prompts, **settings)


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_without_ray_a_sentence_says_what_to_install(debug, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"--ray needs ray; install the extra: pip install 'mmada\[scale\]'"):
        write(debug, tmp_path / "codes", run=over_ray())


@pytest.mark.slow
def test_actors_write_the_same_bytes_and_a_killed_one_is_replaced(debug, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'mmada[scale]')")
    from ray._private import state

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    write(debug, tmp_path / "whole")
    killed = []

    def kill(done: int) -> None:
        if done >= 4 and not killed:
            alive = [actor for actor in state.actors().values() if actor["State"] == "ALIVE"]
            killed.append(alive[0]["Pid"])
            os.kill(killed[0], signal.SIGKILL)

    write(debug, Path("codes"), run=over_ray(2), on_progress=kill)
    assert killed
    assert contents(tmp_path / "codes") == contents(tmp_path / "whole")
    assert len(TokenizedReader(tmp_path / "codes")) == len(LINES)
    with pytest.raises(InputError, match="workers=10000 need a core each"):
        write(debug, tmp_path / "other", run=over_ray(10_000))
