"""`mmada train` under a launcher: several processes on a CPU are one run, not several."""

import os
import signal
import subprocess
import sys
from pathlib import Path

CONFIG = """
debug: true
data: {world: shapes}
stage: base
out: out
loop: {prefetch: 0}
net: {patch: 4, encoder_ch_mult: [1, 2], decoder_ch_mult: [1, 2]}
defaults: {image_height: 32, image_width: 32, image_steps: 2, max_new_tokens: 16, block_length: 16}
"""


PROGRAMS = Path(sys.executable).parent
LAUNCHED = [PROGRAMS / "torchrun", "--standalone", "--nproc_per_node", "2", PROGRAMS / "mmada", "train", "base.yaml"]
ENV = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def test_two_processes_are_one_run(tmp_path):
    (tmp_path / "base.yaml").write_text(CONFIG)
    done = subprocess.run(LAUNCHED, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("from the beginning") == 1
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_a_terminal_that_stops_launcher_and_processes_loses_nothing(tmp_path):
    """Each process is told twice: by the terminal, and by the launcher, which passes on what it was told."""
    (tmp_path / "base.yaml").write_text(CONFIG)
    endless = [*LAUNCHED, "stage.steps=100000", "loop.log_every=1", "loop.save_every=100000"]
    with subprocess.Popen(endless, cwd=tmp_path, env=ENV, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("step 3/"))
        os.killpg(process.pid, signal.SIGTERM)
        rest = process.stderr.read()
    last = max(int(line.split("/")[0].removeprefix("step ")) for line in ["step 3/", *rest.splitlines()] if line.startswith("step "))
    assert max(path.name for path in (tmp_path / "out" / "state").iterdir()) == f"step-{last:08}"
