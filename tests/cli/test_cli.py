"""The command line as a user runs it: files, standard output, exit status; never a traceback."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from mmada.canvas import PUBLISHED, SPECIAL_STRINGS
from mmada.cli import main
from mmada.cli.terminal import Terminal
from mmada.errors import InputError
from mmada.generation.requests import GenerationConfig
from mmada.hub import networks
from mmada.hub.text_tokenizer import TextTokenizer
from mmada.model import TransformerConfig
from mmada.pipeline import MMaDA
from mmada.serve.threads import available

DEBUG = ("-m", "debug")


@pytest.fixture
def mmada(monkeypatch, capsys, tmp_path):
    """Run `mmada ARGS` in an empty directory: (status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mmada", *args])
        status = 0
        try:
            main()
        except SystemExit as leave:
            status = leave.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return call


def test_help_is_instant():
    code = """
import sys
from mmada.cli import main
sys.argv = ["mmada", "--help"]
try:
    main()
except SystemExit:
    print([m for m in ("torch", "transformers") if m in sys.modules])
"""
    times = []
    while not times or (min(times) >= 0.5 and len(times) < 3):
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = os.times()
        # Of processor time, which other work on the machine hardly changes.
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert done.stdout.splitlines()[-1] == "[]"
    assert min(times) < 0.5
    for verb in ("chat", "ask", "draw", "fill", "edit", "info", "convert"):
        assert verb in done.stdout


def test_draw_ask_and_fill(mmada, tmp_path):
    status, out, err = mmada("draw", *DEBUG, "a cat", "--seed", "3", "-o", "pictures/cat.png")
    assert (status, out) == (0, "")
    assert "wrote pictures/cat.png (32x32)" in err
    first = Image.open(tmp_path / "pictures/cat.png").tobytes()
    mmada("draw", *DEBUG, "a cat", "--seed", "2", "-n", "2", "-o", "cat.png", "--steps", "8", "-g", "1", "--size", "32x32")
    assert Image.open(tmp_path / "cat-1.png").tobytes() == first
    status, _, err = mmada("draw", *DEBUG, "a cat", "--seed", "3", "--best-of", "3", "--steps", "2", "-o", "best.png")
    assert status == 0
    assert "the best of 3 has seed" in err
    status, _, err = mmada("draw", *DEBUG, "a cat", "--best-of", "3", "--trace", "cat.gif")
    assert status == 2
    assert "--best-of 3 chooses at the end" in err
    assert mmada("draw", *DEBUG, "wide", "--size", "64x32", "--think", "-o", "wide.jpg")[0] == 0
    assert Image.open(tmp_path / "wide.jpg").size == (64, 32)

    status, out, _ = mmada("ask", *DEBUG, "cat-1.png", "what?", "--seed", "1")
    assert status in (0, 1)
    assert (out.strip() != "") == (status == 0)

    status, out, _ = mmada("fill", *DEBUG, "The [MASK:2] sat.")
    assert status == 0
    assert out.startswith("The ")

    Image.new("L", (32, 32), 255).save("mask.png")
    assert mmada("fill", *DEBUG, "-i", "cat-1.png", "--mask", "mask.png", "-p", "a dog", "-o", "dog.png")[0] == 0
    assert mmada("fill", *DEBUG, "-i", "cat-1.png", "--extend", "8,0,8,0", "-p", "a dog", "-o", "long.png")[0] == 0
    assert Image.open(tmp_path / "long.png").size == (48, 32)


def test_convert_and_info(mmada, tmp_path):
    assert mmada("convert", "debug", "copy", "--dtype", "float32")[0] == 0
    status, out, _ = mmada("info", "-m", "copy", "--json")
    facts = json.loads(out)
    assert status == 0
    assert facts["tensors"] == 21
    assert facts["vocabulary"]["image_offset"] == 268
    if facts["device"] == "cpu":
        assert facts["threads"]["commands"] == torch.get_num_threads()
        assert 1 <= facts["threads"]["serve"] <= available()
        assert re.fullmatch(r"\d+\.\d times as fast as float32", facts["bfloat16"])
    reported = mmada("info", "-m", "copy")[1]
    assert "parameters      143,680" in reported
    assert {name: facts["defaults"][name] for name in ("full_attention", "image_height")} == {"full_attention": True, "image_height": 32}
    assert "  full_attention            True" in reported

    Image.new("L", (32, 32), 255).save("mask.png")
    mmada("draw", *DEBUG, "x", "-o", "a.png")
    mmada("draw", "x", "-o", "b.png", "-m", "copy")
    assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()
    status, _, err = mmada("convert", "debug", "copy")
    assert (status, "not empty" in err) == (2, True)
    # A checkpoint that declares that it knows one size says so of others.
    defaults = tmp_path / "copy" / "mmada.json"
    defaults.write_text(defaults.read_text().replace('"one_image_size": false', '"one_image_size": true'))
    assert "warning" not in mmada("fill", "-m", "copy", "-i", "a.png", "--mask", "mask.png", "-p", "x", "-o", "same.png")[2]
    status, _, err = mmada("fill", "-m", "copy", "-i", "a.png", "--extend", "8,0,8,0", "-p", "x", "-o", "long.png")
    assert (status, err.count("taught")) == (0, 1)
    assert "warning: I was taught drawings of 32x32 pixels alone; this one has 48x32, so what I drew of it may make no sense." in err
    # A half-written checkpoint is one sentence, not wrong pictures.
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for verb in (["draw", "x"], ["chat", "x"], ["info"]):
        status, _, err = mmada(*verb, "-m", "copy")
        assert (status, "only in part" in err) == (2, True)


def test_quantized_copies_answer_and_say_what_they_are(mmada, tmp_path):
    assert mmada("convert", "debug", "small", "--quantize", "int4")[0] == 0
    assert "quantized       int4" in mmada("info", "-m", "small")[1]
    direct = mmada("chat", "hi", *DEBUG, "--quantize", "int4", "--max-new-tokens", "8")
    assert direct[0] == 0
    assert mmada("chat", "hi", "-m", "small", "--max-new-tokens", "8")[:2] == direct[:2]
    status, _, said = mmada("chat", "hi", "-m", "small", "--quantize", "int8")
    assert status == 2
    assert "is quantized as int4 already" in said


def text_model(directory):
    """A checkpoint as LLaDA-8B-Instruct's, but narrow: 126,464 rows, of which 126,349 have an entry in the tokenizer, in two files."""
    directory.mkdir()
    names = [f"t{i}" for i in range(PUBLISHED.image_offset)]
    for name, number in PUBLISHED.special_ids.items():
        names[number] = SPECIAL_STRINGS[name]
    core = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="t0"))
    TextTokenizer(core, {"eos_token": SPECIAL_STRINGS["eos"]}).save_pretrained(directory)
    sizes = {"d_model": 4, "n_heads": 2, "n_kv_heads": 2, "n_layers": 1, "mlp_hidden_size": 8}
    config = {**sizes, "model_type": "llada", "auto_map": {"AutoModel": "x.X"}, "embedding_size": 126464, "vocab_size": 126464}
    (directory / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    shapes = networks.shapes(TransformerConfig(**sizes))
    weights = {name: torch.randn(min(shape[0], 126464), *shape[1:]).bfloat16() for name, shape in shapes.items()}
    files = {"model-00001-of-00002.safetensors": list(weights)[:1], "model-00002-of-00002.safetensors": list(weights)[1:]}
    for file, inside in files.items():
        save_file({name: weights[name] for name in inside}, directory / file)
    index = {"metadata": {}, "weight_map": {name: file for file, inside in files.items() for name in inside}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return weights


def test_a_text_model_gets_rows_for_image_codes(mmada, tmp_path):
    weights = text_model(tmp_path / "llada")
    status, _, err = mmada("convert", "llada", "start", "--add-image-codes")
    assert (status, "wrote start" in err) == (0, True), err
    model = MMaDA.from_pretrained("start", image_tokenizer="none")
    assert model.layout == PUBLISHED
    assert model.defaults == GenerationConfig()
    found = model.model.state_dict()
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    for name, tensor in weights.items():
        kept = PUBLISHED.image_offset if len(tensor) == 126464 else len(tensor)
        assert torch.equal(found[name][:kept], tensor[:kept]), name
    new = found["model.transformer.wte.weight"][PUBLISHED.image_offset :].float()
    assert len(new) == 134656 - 126349
    assert len(new.unique(dim=0)) > 8000
    torch.testing.assert_close(new.std(0), weights["model.transformer.wte.weight"].float().std(0), rtol=0.05, atol=0)
    assert mmada("convert", "llada", "wide", "--add-image-codes", "--dtype", "float32")[0] == 0
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"
    status, _, err = mmada("convert", "start", "twice", "--add-image-codes")
    assert (status, "has 134656 rows in its vocabulary" in err) == (2, True)
    status, _, err = mmada("convert", "llada", "x", "--add-image-codes", "--max-shard-size", "1GB")
    assert (status, "makes no use of --max-shard-size" in err) == (2, True)
    assert not (tmp_path / "twice").exists()


BAD = [
    (["draw", ""], "say what to draw"),
    (["draw", "x", "--size", "33x33"], "try 32x32"),
    (["draw", "x", "--size", "big"], "try 64x64"),
    (["draw", "x", "--steps", "0"], "error: --steps=0 must be at least 1; mmada draw --help says more\n"),
    (["draw", "x", "--guidance-scale", "200"], "--guidance-scale=200 must be at most 100;"),
    (["draw", "x", "--seed", "one"], "--seed=one must be a whole number;"),
    (["draw", "x", "--stepz", "3"], "--stepz is no option of mmada draw: did you mean '--steps'?\n"),
    (["draw", "a", "cat"], "mmada draw makes no use of 'cat'; put a text with spaces in quotes"),
    (["info", "debug"], "mmada info makes no use of 'debug'; what it takes are options (mmada info --help)"),
    (["train", "debug.yaml", "--lora.rank=8"], "settings are written without dashes: lora.rank=...\n"),
    (["draw", "x", "-o", "out.xyz"], "no picture format"),
    (["draw", "x", "-o", "/proc/nowhere/out.png"], "cannot be written"),
    (["draw", "x", "-m", "no/such/model"], "is no directory"),
    (["draw", "x", "-m", "owner/model"], "hub cannot be reached"),
    (["draw", "x", "--dtype", "int3"], "use auto, float32"),
    (["draw", "x", "--quantize", "int3"], "use int8 or int4, or leave it out"),
    (["draw", "x", "--device", "warp"], "try cpu"),
    (["draw", "x", "-o", "out.psd"], "no picture format"),
    (["chat", "--trace", "x.gif"], "give a message, too"),
    (["convert", "debug", "x", "--max-shard-size", "5"], "a number with its unit"),
    (["convert", "debug", "x", "--max-shard-size", "5GiB"], "a number with its unit"),
    (["convert", "debug", "."], "target is the working directory"),
    (["info", "-m", "."], "has no config.json"),
    (["convert", "debug", "text.png/x/y"], "cannot be written"),
    (["eval", "shapes", "-o", "."], "is not writable, or a directory"),
    (["eval", "shapes", "--sheets", "text.png/x"], "cannot be written"),
    (["chat", " "], "message='' is empty"),
    (["chat", "x", "--cache", "all"], "cache='all' is unknown"),
    (["chat", "x", "--max-new-tokens", "5000"], "context has 512"),
    (["chat", "x" * 2000], "context has 512"),
    (["ask", "none.png", "x"], "none.png"),
    (["ask", "text.png", "x"], "text.png"),
    (["fill", "no hole"], "no hole to fill"),
    (["fill"], "give a text with holes or --image"),
    (["fill", "-i", "ok.png"], "--prompt"),
    (["fill", "-i", "ok.png", "-p", "x"], "nothing is to be drawn"),
    (["fill", "-i", "ok.png", "-p", "x", "--extend", "1,2"], "4 whole numbers"),
    (["fill", "a [MASK]", "--best-of", "3", "--mask", "m.png"], "a text with holes makes no use of --mask, --best-of"),
    (["fill", "-i", "ok.png", "-p", "a cat", "--top-k", "2"], "an image makes no use of --top-k"),
    (["edit", "ok.png"], "error: missing argument 'images'; mmada edit --help has an example\n"),
    (["edit", "ok.png", " "], "instruction='' is empty"),
    (["edit", "none.png", "x"], "none.png"),
    (["edit", "ok.png", "x", "--size", "big"], "try 64x64"),
    (["edit", "ok.png", "x", "-o", "out.xyz"], "no picture format"),
    (["edit", "ok.png", "x", "--order", "first"], "order='first' is unknown"),
    (["edit", "ok.png", "x", "--best-of", "2"], "--best-of is no option of mmada edit; mmada edit --help lists them"),
    (["edit", "ok.png", "x"], "MMaDA cannot edit by an instruction; MMaDA-Parallel-M, Lumina-DiMOO, MMaDA-Parallel-A can, and `mmada fill"),
    (["edit", "ok.png", "x", "-m", "debug"], "redraws a part that a mask marks"),
    (["eval", "speed", "--num", "3"], "mmada eval speed makes no use of --num"),
    (["eval", "shapes", "--best-of", "3"], "mmada eval shapes makes no use of --best-of"),
    (["eval", "shape"], "suite='shape' is unknown: did you mean 'shapes'?"),
    (["eval", "shapes", "--kinds", "colr"], "did you mean 'color'?"),
    (["eval", "judge", "--kinds", "count"], "mmada eval judge makes no use of --kinds"),
    (["info", "-m", "text.png"], "is a file"),
    (["sing"], "error: no such command 'sing'; mmada --help lists what there is\n"),
    (["darw", "x"], "error: no such command 'darw'; did you mean 'draw'?\n"),
    (["data", "chek"], "error: no such command 'chek'; did you mean 'check'?\n"),
    (["--nope"], "error: --nope is no option of mmada; mmada --help lists them\n"),
]


@pytest.mark.parametrize(("args", "message"), BAD, ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "")
def test_bad_input_is_one_sentence_and_status_2(mmada, tmp_path, args, message):
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (32, 32)).save(tmp_path / "ok.png")
    status, out, err = mmada(*args)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


def test_a_conversation(debug, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    debug.draw("a cat").image.save("cat.png")
    console = Console(file=io.StringIO(), width=100, force_terminal=True, force_interactive=False, color_system=None)
    lines = ["hello", "", "/image cat.png", "what is it?", "/think on", "/seed 3", "again", "/draw a dog"]
    lines += ["/nope", "/seed x", "/image", "/reset", "/help", "/quit", "unread"]
    terminal = Terminal(debug, think=False, seed=1, max_new_tokens=None, console=console)
    stream = io.StringIO("\n".join(lines) + "\n")
    terminal.run(stream)
    said = console.file.getvalue()
    assert stream.readline() == "unread\n"
    assert "looking at cat.png (32x32)" in said
    assert "command /nope is unknown" in said
    assert "/seed='x' must be a whole number" in said
    assert "/image takes one file, got 0" in said
    assert "leave (or Ctrl-D)" in said
    assert (terminal.think, terminal.seed, terminal.messages, terminal.images) == (True, 3, [], [])
    assert Image.open("drawing-1.png").size == (32, 32)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_conversation_draws_what_asks_for_a_picture(debug, tmp_path, monkeypatch, is_terminal):
    monkeypatch.chdir(tmp_path)
    answer = replace(debug.chat("x", seed=1), wants_picture=True)
    monkeypatch.setattr(type(debug), "chat", lambda *args, **kwargs: answer)
    console = Console(file=io.StringIO(), width=100, force_terminal=is_terminal, force_interactive=False, color_system=None)
    Terminal(debug, think=False, seed=1, max_new_tokens=None, console=console).run(io.StringIO("a dog, please\n"))
    assert (tmp_path / "drawing-1.png").exists() == is_terminal


def test_lines_from_a_pipe_get_answers_and_nothing_else(debug, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drawing-1.png").write_text("mine")
    Image.new("RGB", (32, 32)).save("it's me.png")
    terminal = Terminal(debug, think=False, seed=1, max_new_tokens=None, console=Console(file=io.StringIO(), width=10))
    terminal.run(io.StringIO("hello\n/image it's me.png\n/image 'no\n/image ~nobody/x.png\n/draw a cat\n"))
    assert terminal.console.file.getvalue() == debug.chat("hello", seed=1).text + "\n"
    assert len(terminal.images) == 1
    err = capsys.readouterr().err
    assert "error: /image 'no cannot be read (No closing quotation)" in err
    assert "x.png' cannot be read" in err
    assert terminal.num_failed == 2
    assert (tmp_path / "drawing-1.png").read_text() == "mine"
    assert Image.open("drawing-2.png").size == (32, 32)


def test_a_conversation_remembers_its_turns(debug):
    terminal = Terminal(MMaDA.debug(seed=1), think=False, seed=1, max_new_tokens=None, console=Console(file=io.StringIO()))
    terminal.take("hello")
    assert [m.role for m in terminal.messages] == ["user", "assistant"]
    with pytest.raises(InputError, match="did you mean 'image'"):
        terminal.take("/imge x")
