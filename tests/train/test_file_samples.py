"""Records of files in a run of several processes: each reads its part, and a resumed run reads what the whole one would have."""

import json

import pytest

from mmada.data import Epochs, JsonlReader, write_shards

from ..processes import ranks
from . import files
from .test_state import same_state

NUM = 24


@pytest.mark.integration
def test_two_processes_read_their_parts_alone_and_a_resumed_run_reads_on_exactly(debug, tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"id": f"r{i}", "task": "text", "answer": {"text": f"{i}"}}) + "\n" for i in range(NUM))
    )
    options = {"image_tokenizer": debug.image_tokenizer, "prompts": debug.prompts, "size": (32, 32), "shard_size": 5}
    write_shards(JsonlReader(tmp_path / "a.jsonl"), tmp_path / "codes", **options)
    log = tmp_path / "log.txt"
    assert ranks(files.main, f"file://{tmp_path}/codes", tmp_path, out=log) == [0, 0], log.read_text()
    first, second = (json.loads((tmp_path / f"read-{rank}.json").read_text()) for rank in (0, 1))
    assert first["searched"] + second["searched"] == list(range(NUM))
    for rank in (first, second):
        assert rank["before"] + rank["after"] == rank["whole"]
    order = Epochs([i for i in range(NUM) if i % 5], seed=3)
    batch, steps = files.STAGE.batch, files.STAGE.steps
    expected = [[order[step * batch + place] for step in range(steps) for place in range(rank, batch, 2)] for rank in (0, 1)]
    assert [first["whole"], second["whole"]] == expected
    same_state(tmp_path / "whole", tmp_path / "parts")
