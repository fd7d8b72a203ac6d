"""docs/serve.md: its snippets run, and its tables name every field."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mmada.serve import schema
from mmada.serve.strict_body import IGNORED, UNSUPPORTED

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
BODIES = [schema.ChatBody, schema.CompletionBody, schema.GenerationBody, schema.EditBody, schema.VariationForm, schema.StreamOptions]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_python_snippets_run(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)).replace("http://localhost:8000", server.url)
    exec(compile(code, "docs/serve.md", "exec"), {})
    assert "image_generation.completed" in capsys.readouterr().out
    assert (tmp_path / "drawing.png").exists()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_snippet_runs(server):
    (command,) = re.findall(r"```bash\n(curl .*?)```", PAGE, re.DOTALL)
    done = subprocess.run(command.replace("http://localhost:8000", server.url), shell=True, capture_output=True, check=True)
    assert json.loads(done.stdout)["data"][0]["b64_json"]


def test_every_field_is_in_the_tables():
    names = {name for body in BODIES for name in body.model_fields} | IGNORED | set(UNSUPPORTED)
    missing = [name for name in sorted(names - {"include_obfuscation"}) if f"`{name}`" not in PAGE and f"`{name}:" not in PAGE]
    assert not missing
