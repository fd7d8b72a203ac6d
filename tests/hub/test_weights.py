"""The bar over the files of a large checkpoint: in a notebook, which tqdm takes for a pipe, and not where nobody looks."""

import sys
from types import ModuleType

import pytest

from mmada.hub import networks


@pytest.mark.parametrize(("in_notebook", "files"), [(True, "40KB"), (False, "40KB"), (True, "5GB")])
def test_a_bar_appears_in_a_notebook_over_several_files(debug, tmp_path, monkeypatch, capfd, in_notebook, files):
    networks.save_transformer(debug.model, tmp_path, max_shard_size=files)
    if in_notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    networks.load_transformer(tmp_path)
    assert ("loading" in capfd.readouterr().err) == (in_notebook and files == "40KB")
