"""`mmada train` under a launcher: several processes on a CPU are one run, not several."""

import os
import subprocess
import sys
from pathlib import Path

CONFIG = """
debug: true
stage: base
out: out
loop: {prefetch: 0}
net: {patch: 4, encoder_ch_mult: [1, 2], decoder_ch_mult: [1, 2]}
defaults: {image_height: 64, image_width: 64, image_steps: 2, max_new_tokens: 16, block_length: 16}
"""


def test_two_processes_are_one_run(tmp_path):
    (tmp_path / "base.yaml").write_text(CONFIG)
    programs = Path(sys.executable).parent
    launched = [programs / "torchrun", "--standalone", "--nproc_per_node", "2", programs / "mmada", "train", "base.yaml"]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launched, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("from the beginning") == 1
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
