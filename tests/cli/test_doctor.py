"""`mmada doctor` against real metadata on disk: what is complete, what is missing, what is broken."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import pytest
from huggingface_hub import constants

from mmada.cli import main
from mmada.cli.doctor import Needs, diagnose
from mmada.hub import checkpoint


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Put the metadata of an installed `mmada` that needs what the test says in front of the real ones."""

    def write(*lines: str, origin: dict | None = None) -> None:
        folder = tmp_path / "mmada-0.1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.3", "Name: mmada", "Version: 0.1.0", *lines, ""]))
        if origin is not None:
            (folder / "direct_url.json").write_text(json.dumps(origin))
        monkeypatch.syspath_prepend(tmp_path)

    return write


@pytest.fixture
def doctor(monkeypatch, capsys):
    """Run `mmada doctor ARGS`: (status, standard output)."""

    def call(*args: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["mmada", "doctor", *args])
        with pytest.raises(SystemExit) as leave:
            main()
        return int(leave.value.code or 0), capsys.readouterr().out

    return call


def named(out: str, name: str) -> dict[str, str]:
    """The check of one name in the JSON report."""
    return next(check for check in json.loads(out)["checks"] if check["name"] == name)


def test_this_environment_works():
    checks = diagnose()
    assert not [check for check in checks if check.status == "failed"]
    assert {check.section for check in checks} == {"requirements", "extras", "devices", "models", "storage"}
    assert {check.name for check in checks if check.section == "models"} == set(checkpoint.built_in())
    assert "float32" in next(check.found for check in checks if check.name == "cpu")
    torch = next(check for check in checks if check.name == "torch")
    assert torch.found.startswith(metadata.version("torch"))


def test_a_missing_requirement_is_status_1_with_the_command(installed, doctor):
    installed("Requires-Dist: no-such-distribution>=2", "Requires-Dist: numpy")
    status, out = doctor("--json")
    assert (status, json.loads(out)["works"]) == (1, False)
    missing = named(out, "no-such-distribution")
    assert missing["status"] == "failed"
    assert missing["remedy"] == "pip install 'no-such-distribution>=2'"
    assert named(out, "numpy")["status"] == "ok"


def test_a_version_outside_the_range_is_status_1(installed, doctor):
    installed("Requires-Dist: numpy<1")
    status, out = doctor()
    assert status == 1
    assert f"{metadata.version('numpy')} does not satisfy <1" in out
    assert "The core does not work" in out


def test_an_old_python_is_status_1(installed, doctor):
    installed("Requires-Python: >=4")
    status, out = doctor("--json")
    assert (status, named(out, "python")["status"]) == (1, "failed")


def test_a_missing_extra_is_no_failure_and_names_its_command(installed, doctor):
    installed(
        "Provides-Extra: a",
        "Provides-Extra: b",
        "Requires-Dist: no-such-distribution; extra == 'a'",
        "Requires-Dist: mmada[a]; extra == 'b'",
        "Requires-Dist: numpy; extra == 'b'",
    )
    status, out = doctor("--json")
    assert status == 0
    assert named(out, "a")["remedy"] == "pip install 'mmada[a]'"
    assert named(out, "b") == {
        "section": "extras",
        "name": "b",
        "status": "warning",
        "found": "no-such-distribution: missing",
        "remedy": "pip install 'mmada[b]'",
    }


def test_an_editable_install_is_extended_as_one(installed, doctor, tmp_path):
    origin = {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}
    installed("Provides-Extra: a", "Requires-Dist: no-such-distribution; extra == 'a'", origin=origin)
    assert named(doctor("--json")[1], "a")["remedy"] == f"pip install -e '{tmp_path}[a]'"


def test_the_metadata_of_this_package_are_understood():
    needs = Needs.read(metadata.distribution("mmada"))
    assert {"torch", "numpy", "typer"} <= {one.name for one in needs.core}
    assert {"accelerate", "math-verify"} <= {one.name for one in needs.extras["rl"]}, "rl includes train"
    assert "torch" not in {one.name for one in needs.extras["rl"]}


def test_the_cache_is_named_and_a_closed_one_is_a_warning(tmp_path, monkeypatch, doctor):
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(blocked / "hub"))
    status, out = doctor("--json")
    assert (status, named(out, "hub cache")["status"]) == (0, "warning")
    assert str(blocked / "hub") in named(out, "hub cache")["found"]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert named(doctor("--json")[1], "hub cache")["status"] == "ok"


def test_a_torn_checkpoint_is_a_failure(tmp_path, monkeypatch):
    directory = tmp_path / "torn"
    directory.mkdir()
    (directory / checkpoint.CONFIG_NAME).write_text("{}")
    (directory / "model.safetensors").write_bytes(b"\x10")
    monkeypatch.setattr(checkpoint, "_BUILT_IN", tmp_path)
    torn = next(check for check in diagnose() if check.section == "models")
    assert (torn.name, torn.status) == ("torn", "failed")
    assert "truncated" in torn.found
