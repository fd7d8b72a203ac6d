"""The examples do what they show."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SHOWN = {
    "first_steps": ("> ", "13"),
    "finetune_on_pictures": ("north -> the north", "south -> the south"),
    "write_a_sampler": ("cat",),
}
"""what a notebook says when all went well"""


def test_the_typed_program_runs(capsys):
    runpy.run_path(str(EXAMPLES / "typed_user.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert shown.startswith("(8, 8) [(32, 32), (32, 32)] prompt='' is empty")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(file.stem for file in (EXAMPLES / "notebooks").glob("*.ipynb")))
def test_a_notebook_runs(name, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="the extra dev")
    nbclient = pytest.importorskip("nbclient", reason="the extra dev")
    pytest.importorskip("ipykernel", reason="the extra dev")
    book = nbformat.read(EXAMPLES / "notebooks" / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells), "outputs are left out of the repository"
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a picture shows itself"
    shown = "".join(output.get("text", "") for output in outputs) + "".join(o.get("data", {}).get("text/markdown", "") for o in outputs)
    for expected in SHOWN[name]:
        assert expected in shown
