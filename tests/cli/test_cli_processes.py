"""`mmada train` in several processes on a CPU: they are one run, not several."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..processes import command_line, ranks, start_ranks

pytestmark = pytest.mark.integration

CONFIG = """
debug: true
data: {world: shapes}
stage: base
out: out
loop: {prefetch: 0}
net: {patch: 4, encoder_ch_mult: [1, 2], decoder_ch_mult: [1, 2]}
defaults: {image_height: 32, image_width: 32, image_steps: 2, max_new_tokens: 16, block_length: 16}
"""

COMMAND = ["train", "base.yaml"]
ENDLESS = [*COMMAND, "stage.steps=100000", "loop.log_every=1", "loop.save_every=100000"]
PROGRAMS = Path(sys.executable).parent
LAUNCHER = [PROGRAMS / "torchrun", "--standalone", "--nproc_per_node", "2", PROGRAMS / "mmada"]
ENV = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def test_two_processes_are_one_run(tmp_path):
    (tmp_path / "base.yaml").write_text(CONFIG)
    error = tmp_path / "error"
    assert ranks(command_line, COMMAND, error=error, cwd=tmp_path) == [0, 0], error.read_text()
    assert error.read_text().count("from the beginning") == 1
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_processes_that_are_told_to_stop_twice_lose_nothing(tmp_path):
    """By the terminal, and by the launcher, which passes on what it was told."""
    (tmp_path / "base.yaml").write_text(CONFIG)
    error = tmp_path / "error"
    run = start_ranks(command_line, ENDLESS, error=error, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while "step 3/" not in error.read_text():
        assert time.monotonic() < deadline, error.read_text()
        time.sleep(0.05)
    for process in [*run, *run]:
        process.terminate()
    for process in run:
        process.join(120)
    assert last_save(tmp_path) == f"step-{last_step(error.read_text()):08}"


@pytest.mark.slow
def test_a_launcher_runs_them(tmp_path):
    (tmp_path / "base.yaml").write_text(CONFIG)
    done = subprocess.run([*LAUNCHER, *COMMAND], cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("from the beginning") == 1
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_terminal_that_stops_launcher_and_processes_loses_nothing(tmp_path):
    """Each process is told twice: by the terminal, and by the launcher, which passes on what it was told."""
    (tmp_path / "base.yaml").write_text(CONFIG)
    endless = [*LAUNCHER, *ENDLESS]
    with subprocess.Popen(endless, cwd=tmp_path, env=ENV, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("step 3/"))
        os.killpg(process.pid, signal.SIGTERM)
        rest = process.stderr.read()
    assert last_save(tmp_path) == f"step-{last_step('step 3/' + chr(10) + rest):08}"


def last_step(report: str) -> int:
    return max(int(line.split("/")[0].removeprefix("step ")) for line in report.splitlines() if line.startswith("step "))


def last_save(folder: Path) -> str:
    return max(path.name for path in (folder / "out" / "state").iterdir())
