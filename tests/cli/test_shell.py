"""What a user of shells expects: nothing overwritten, nothing read as markup, a version, statuses that say what happened."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer
from PIL import Image

from mmada import __version__
from mmada.cli import app, main
from mmada.cli.session import free, remarks, report
from mmada.errors import InputError

DEBUG = ["--model", "debug"]
MARKUP = "[red]:cat:[/blue]"
"""Markup of rich, closed wrongly, and the name of a sign that it replaces"""


@pytest.fixture
def mmada(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*args: str):
        monkeypatch.setattr(sys, "argv", ["mmada", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def test_a_file_is_not_replaced_without_a_word(mmada, tmp_path):
    for name in ("out.png", "out-1.png"):
        (tmp_path / name).write_bytes(b"mine")
    status, _, err = mmada("draw", *DEBUG, "a cat", "--steps", "1", "--trace", "out.gif")
    assert status == 0
    assert "wrote out-2.png (32x32); out.png exists, and --force replaces it" in err
    assert "wrote out.gif (1 frames)\n" in err
    assert (tmp_path / "out.png").read_bytes() == b"mine" == (tmp_path / "out-1.png").read_bytes()
    assert "wrote out.png (32x32)\n" in mmada("draw", *DEBUG, "a cat", "--steps", "1", "--force")[2]
    assert Image.open(tmp_path / "out.png").size == (32, 32)
    assert free(tmp_path / "new.png", force=False) == tmp_path / "new.png"


@pytest.mark.parametrize(
    "args",
    [
        ["draw", MARKUP, "-m", MARKUP],
        ["chat", "x", "-m", MARKUP],
        ["chat", "x", *DEBUG, "--cache", MARKUP],
        ["chat", "x", *DEBUG, "--device", MARKUP],
        ["chat", "x", *DEBUG, "--dtype", MARKUP],
        ["ask", MARKUP, "what?"],
        ["fill", "-i", MARKUP, "-p", "x"],
        ["edit", MARKUP, "x"],
        ["fill", "-i", "ok.png", "-p", "x", "--extend", MARKUP],
        ["draw", "x", *DEBUG, "-o", f"{MARKUP}.xyz"],
        ["draw", "x", *DEBUG, "--size", MARKUP],
        ["eval", MARKUP],
        ["info", "-m", MARKUP],
        ["convert", MARKUP, "out"],
        ["train", MARKUP],
        ["rl", MARKUP],
        ["tokenize", MARKUP, "out"],
        ["data", "check", MARKUP],
        [MARKUP],
    ],
    ids=lambda args: " ".join(args[:2]),
)
def test_what_a_user_wrote_is_never_markup(mmada, tmp_path, args):
    Image.new("RGB", (32, 32)).save(tmp_path / "ok.png")
    status, _, err = mmada(*args)
    assert status == 2
    assert MARKUP in "".join(line.strip("│ ") for line in err.splitlines()).replace(" ", "")


def test_what_a_model_said_is_never_markup(capsys):
    with remarks.capture() as captured:
        remarks.print(MARKUP, style="dim")
        report(InputError(MARKUP))
    assert captured.get() == f"{MARKUP}\nerror: {MARKUP}\n"


def test_a_size_is_named_as_it_was_typed(mmada):
    assert "size='30x31' must be multiples of 4 pixels; try 32x32" in mmada("draw", *DEBUG, "x", "--size", "30x31")[2]


@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_threads_wait_without_work_unless_the_user_says_otherwise(mmada, monkeypatch, own):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if own is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", own)
    mmada("--version")
    assert os.environ["OMP_WAIT_POLICY"] == (own or "PASSIVE")


def test_version_statuses_and_completion(mmada):
    assert mmada("--version") == (0, f"mmada {__version__}\n", "")
    assert "130 stopped with Ctrl-C" in " ".join(mmada("--help")[1].split())
    names = {option.name for option in typer.main.get_command(app).params}
    assert names >= {"install_completion", "show_completion", "version"}


def test_a_file_that_the_system_refuses_is_one_sentence(mmada, monkeypatch):
    def full(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", f"{MARKUP}.txt")

    monkeypatch.setattr("mmada.cli.command_line", full)
    assert mmada()[0::2] == (2, f"error: '{MARKUP}.txt' cannot be used: Permission denied; check the path and the rights\n")


@pytest.mark.slow
def test_a_reader_that_leaves_early_hears_nothing():
    code = "import sys; sys.argv = ['mmada', 'eval', 'list']; from mmada.cli import main; main()"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_no_color_means_no_color():
    environment = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "1"}
    code = "import sys; sys.argv = ['mmada', 'info', '-m', 'none/']; from mmada.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "\x1b[3" not in done.stderr  # bold may stay
