"""The examples do what they show."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_typed_program_runs(capsys):
    runpy.run_path(str(EXAMPLES / "typed_user.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert shown.startswith("(8, 8) [(32, 32), (32, 32)] prompt='' is empty")
