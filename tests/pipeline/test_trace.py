"""Pictures of the denoising: one frame a round, text gray until final, codes veiled until committed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmada.errors import InputError
from mmada.pipeline.trace import Recorder, frame


def test_an_animation_of_a_drawing(debug, tmp_path):
    recorder = Recorder()
    debug.draw("a cat", on_step=recorder)
    recorder.save(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == debug.defaults.image_steps
    veils = [(np.asarray(f).reshape(-1, 3) == (216, 216, 216)).all(1).sum() for f in recorder.frames]
    assert len({f.size for f in recorder.frames}) == 1
    assert veils[-1] == 0
    last = np.asarray(recorder.frames[-1])[8:264, 8:264]
    drawing = debug.draw("a cat").image.resize((256, 256), Image.Resampling.NEAREST)
    assert np.array_equal(last, np.asarray(drawing))


def test_thinking_stays_above_the_drawing(debug, tmp_path):
    recorder = Recorder()
    debug.draw("a cat", think=True, on_step=recorder)
    text_only, both = recorder.frames[0], recorder.frames[-1]
    assert both.height > text_only.height + 200
    recorder.save(tmp_path / "a.png")
    strip, first = Image.open(tmp_path / "a.png"), recorder.frames[0]
    assert 4 * both.width <= strip.width <= 4 * max(f.width for f in recorder.frames)
    assert first.height + both.height <= strip.height < 3 * both.height  # rows of frames without a picture are as high as those
    assert strip.crop((0, 0, *first.size)).tobytes() == first.tobytes()


def test_pieces_of_a_text(debug):
    seen = []
    answer = debug.chat("hello", on_step=lambda progress: seen.append(progress.pieces()))
    assert "".join(word for word, _ in seen[-1]) == answer.text
    assert all(final for _, final in seen[-1])
    counts = [sum(final for _, final in pieces) for pieces in seen]
    assert counts == sorted(counts)
    assert any(word == "\u00b7" for word, _ in seen[0])


def test_frames_break_lines():
    words = [("word ", True)] * 30 + [("\nnew", False)]
    assert frame(words, None).height > frame(words[:5], None).height
    grey, black = frame([("word", False)], None), frame([("word", True)], None)
    assert np.asarray(grey).min() > np.asarray(black).min()


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"end it in \.gif"):
        Recorder.check(tmp_path / "a.txt")
    with pytest.raises(InputError, match="no frame"):
        Recorder().save(tmp_path / "a.gif")
    recorder = Recorder(frames=[Image.new("RGB", (8, 8))])
    with pytest.raises(InputError, match="cannot be written"):
        recorder.save(tmp_path / "none" / "a.gif")


def test_command_line(debug, tmp_path, monkeypatch, capsys):
    import sys

    from mmada.cli import main

    monkeypatch.chdir(tmp_path)
    for args in (["draw", "a dog", "--trace", "a.gif"], ["chat", "hello", "--trace", "b.png"]):
        monkeypatch.setattr(sys, "argv", ["mmada", *args])
        with pytest.raises(SystemExit) as leave:
            main()
        assert not leave.value.code
        assert (tmp_path / args[-1]).exists()
    monkeypatch.setattr(sys, "argv", ["mmada", "draw", "x", "--trace", "a.jpg"])
    with pytest.raises(SystemExit) as leave:
        main()
    assert leave.value.code == 2
    assert "end it in .gif" in capsys.readouterr().err
