"""Reading in parts, and the bar over the files of a large checkpoint: in a notebook, which tqdm takes for a pipe, and not where nobody looks."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mmada.hub import networks, weights


@pytest.mark.parametrize(("in_notebook", "files"), [(True, "40KB"), (False, "40KB"), (True, "5GB")])
def test_a_bar_appears_in_a_notebook_over_several_files(debug, tmp_path, monkeypatch, capfd, in_notebook, files):
    networks.save_transformer(debug.model, tmp_path, max_shard_size=files)
    if in_notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    networks.load_transformer(tmp_path)
    assert ("loading" in capfd.readouterr().err) == (in_notebook and files == "40KB")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("files", ["40KB", "5GB"])
def test_tensors_that_are_copied_in_parts_are_the_same(debug, tmp_path, monkeypatch, dtype, files):
    """Parts of three rows and of a last one, of every tensor that has rows."""
    networks.save_transformer(debug.model, tmp_path, max_shard_size=files)
    whole = networks.load_transformer(tmp_path, dtype=dtype).state_dict()
    monkeypatch.setattr(weights, "_AT_ONCE", 3 * 64 * 4)
    found = networks.load_transformer(tmp_path, dtype=dtype).state_dict()
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == dtype for name, tensor in whole.items())
    assert all(tensor.is_contiguous() for tensor in found.values())
    packed = networks.load_transformer(tmp_path, quantize_as="int4").state_dict()
    monkeypatch.undo()
    assert all(
        torch.equal(packed[name], tensor) for name, tensor in networks.load_transformer(tmp_path, quantize_as="int4").state_dict().items()
    )


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's files about processes")
def test_most_memory_of_loading_is_the_weights(tmp_path):
    """One tensor of 128 MiB: the process holds that, and not a second one that is mapped."""
    weights.write(tmp_path, {"weight": torch.zeros(2**13, 2**13, dtype=torch.bfloat16)})
    program = (
        "import sys, torch; from pathlib import Path; from mmada.hub import weights; import safetensors\n"
        "module = torch.nn.Linear(2**13, 2**13, bias=False, dtype=torch.bfloat16, device='meta')\n"
        "held = lambda field: next(int(l.split()[1]) for l in Path('/proc/self/status').read_text().splitlines() if l.startswith(field))\n"
        "Path('/proc/self/clear_refs').write_text('5'); before = held('VmRSS')\n"
        "weights.load(module, Path(sys.argv[1])); print((held('VmHWM') - before) / 2**17)"
    )
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert 0.9 < float(found.stdout) < 1.6
