"""What a user does with `MMaDA`, on the debug model."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmada.canvas import Hole, Message, Style
from mmada.errors import CheckpointError, ImageError, InputError, MissingDependencyError, TokenizerError
from mmada.generation.requests import Answer, ChatRequest, Drawing, DrawRequest, EmptyAnswerError, FillRequest, GenerationConfig
from mmada.hub.networks import save_image_tokenizer, save_transformer
from mmada.pipeline import MMaDA
from mmada.sampling import CacheConfig, Ranking, denoise, fast_text, published_image, published_text
from mmada.sampling.confidence import random_order


def run(model: MMaDA, requests) -> list:
    """Results, also if a random model left an answer empty."""
    try:
        return model.run(requests)
    except EmptyAnswerError as error:
        return error.results


def ids(result) -> list[int]:
    return list(result.token_ids) if isinstance(result, Answer) else result.codes.flatten().tolist()


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.radial_gradient("L").resize((40, 40)).convert("RGB")


@pytest.fixture(scope="module")
def mixture(picture):
    """Requests of every kind: lengths, seeds, recipes, guidance, images, thinking, inpainting."""
    mask = Image.new("L", (40, 40))
    mask.paste(255, (8, 8, 24, 24))
    return [
        ChatRequest("hello", seed=1),
        ChatRequest(
            "a longer question about nothing", max_new_tokens=40, params=fast_text(threshold=0.5, block_length=8, temperature=1.0), seed=2
        ),
        ChatRequest("guided", max_new_tokens=16, params=published_text(steps=8, block_length=8, guidance_scale=1.5)),
        ChatRequest("what?", images=[picture], max_new_tokens=24, seed=3),
        ChatRequest("think", think=True, params=fast_text(temperature=0.7), seed=4),
        ChatRequest("any order", max_new_tokens=16, params=published_text(steps=4, block_length=16, confidence=random_order), seed=5),
        DrawRequest("a cat", seed=6),
        DrawRequest("a cat", seed=7, steps=5, guidance_scale=0.0),
        DrawRequest("a dog", negative_prompt="a cat", size=(24, 48), seed=8),
        DrawRequest("x", params=published_image(steps=6, guidance_scale=2.0), seed=9),
        DrawRequest("think first", think=True, seed=10),
        DrawRequest("patch", image=picture, mask=mask, seed=11),
        DrawRequest("wider", image=picture, extend=(0, 4, 8, 0), seed=12),
        DrawRequest("best", seed=14, best_of=3, steps=4),
        DrawRequest("think, then choose", think=True, seed=15, best_of=2, steps=3, guidance_scale=0.0),
        DrawRequest("patch", image=picture, mask=mask, seed=16, best_of=2, steps=2),
        FillRequest("The [MASK:3] sat on the [MASK].", seed=13),
    ]


@pytest.fixture(scope="module")
def together(debug, mixture):
    """Their results as one batch."""
    return run(debug, mixture)


def test_a_mixed_batch_equals_each_request_alone(debug, mixture, together):
    backwards = run(debug, mixture[::-1])[::-1]
    for request, one, other in zip(mixture, together, backwards, strict=True):
        (alone,) = run(debug, [request])
        assert ids(one) == ids(alone) == ids(other)
        assert one.num_forwards == alone.num_forwards
        if isinstance(one, Drawing):
            assert one.image.tobytes() == alone.image.tobytes()
            assert one.thinking == alone.thinking


@pytest.mark.slow
def test_passes_of_any_size_give_the_same(debug, mixture, together):
    small = MMaDA(debug.model, debug.prompts, debug.image_tokenizer, defaults=debug.defaults, max_tokens=128)
    assert [ids(r) for r in run(small, mixture)] == [ids(r) for r in together]
    assert small.denoiser.num_forwards > 0


def test_a_seed_is_a_result(debug):
    first, again, other = (debug.draw("a cat", seed=seed).codes.tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_the_best_of_several_is_one_that_its_seed_draws_and_the_likeliest(debug, first_fill):
    fills = [first_fill(debug.planner, DrawRequest("a cat", seed=3, best_of=count, steps=4)) for count in (1, 4)]
    first, best = (debug.draw("a cat", seed=3, best_of=count, steps=4) for count in (1, 4))
    assert first.seed == 3
    seeds = fills[1].seeds
    assert fills[0].seeds == (3,)
    assert (seeds[0], len(set(seeds))) == (3, 4)
    candidates = [debug.draw("a cat", seed=seed, steps=4) for seed in seeds]
    assert len({str(one.codes.tolist()) for one in candidates}) == 4
    assert [best.codes.tolist()] == [one.codes.tolist() for one in candidates if one.seed == best.seed]
    canvases = [
        replace(
            canvas,
            tokens=canvas.tokens.index_copy(0, canvas.fields[0].positions, one.codes.flatten() + debug.layout.image_offset),
        )
        for canvas, one in [(fills[0].canvas, one) for one in candidates]
    ]
    ranking = Ranking(canvases, mask_id=debug.layout.mask_id)
    for _ in denoise([ranking], debug.denoiser):
        pass
    assert seeds[ranking.best] == best.seed
    assert best.num_forwards == 4 + ranking.num_forwards
    with pytest.raises(InputError, match="best_of=0 must be at least 1"):
        debug.draw("a cat", best_of=0)


def test_seeds_of_several_stay_in_range_and_apart(debug, first_fill):
    for seed in (0, 2**63 - 1, -(2**63)):
        seeds = first_fill(debug.planner, DrawRequest("x", seed=seed, best_of=64)).seeds
        assert seeds[0] == seed
        assert len({one % 2**32 for one in seeds}) == 64
        assert all(-(2**63) <= one < 2**63 for one in seeds)


def test_chat_stops_at_the_end_token_and_reports(debug):
    # Hot enough to be nearly uniform over 258 ids: of 32 answers of 64 tokens, about 7 end; none or all of them: below 0.1 %.
    params = fast_text(temperature=20.0, block_length=4)
    results = run(debug, [ChatRequest("hello", seed=s, max_new_tokens=64, params=params) for s in range(32)])
    assert {r.finish_reason for r in results} == {"stop", "length"}
    for result in results:
        has_end = debug.layout.eos_id in result.token_ids
        assert (result.finish_reason == "stop") == has_end
        if has_end:
            first = result.token_ids.index(debug.layout.eos_id)
            # What was committed behind it in the same block stays; no later block was begun.
            assert set(result.token_ids[first - first % 4 + 4 :]) <= {debug.layout.eos_id}
            assert result.num_forwards <= first - first % 4 + 4


def test_answers_contain_text_only(debug):
    (result,) = run(debug, [ChatRequest("hello", params=fast_text(temperature=3.0), max_new_tokens=64)])
    assert all(i in debug.layout.text_ids for i in result.token_ids)


def test_an_empty_answer_is_an_error_with_the_results(debug):
    model = MMaDA(debug.model, debug.prompts, debug.image_tokenizer, defaults=debug.defaults)
    end = model.layout.eos_id

    def always_ends(queries):
        """A model that is sure of the end token."""
        answers = [torch.zeros(*q.positions.shape, q.ids.stop - q.ids.start) for q in queries]
        for query, logits in zip(queries, answers, strict=True):
            if end in query.ids:
                logits[..., end - query.ids.start] = 20.0
        return answers

    model.denoiser = always_ends
    with pytest.raises(EmptyAnswerError, match="request 1: the model ended its answer at once") as caught:
        model.run([DrawRequest("x"), ChatRequest("hello")])
    drawing, answer = caught.value.results
    assert drawing.codes.shape == (8, 8)
    assert (answer.text, answer.finish_reason, answer.num_forwards) == ("", "stop", 1)
    assert "raise max_new_tokens" in Answer("", "hm", "length", (1, 2), 2).problem
    assert Answer("x", None, "stop", (1,), 1).problem is None


def test_progress_is_append_only_and_ends_with_the_answer(debug):
    seen, fractions = [], []

    def on_step(progress):
        seen.append(progress.text())
        fractions.append(progress.fraction)
        assert isinstance(progress.draft(), str)

    (answer,) = debug.run([ChatRequest("hello", seed=1)], on_step=on_step)
    assert all(later.startswith(earlier) for earlier, later in pairwise(seen))
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert seen[-1].strip() == answer.text.rstrip("\ufffd")


def test_previews_of_a_drawing(debug):
    open_counts = []

    def on_step(progress):
        codes, is_open = progress.codes()
        assert codes.shape == is_open.shape == (8, 8)
        assert progress.image().size == (32, 32)
        open_counts.append(int(is_open.sum()))

    drawing = debug.draw("a cat", on_step=on_step, trace=True)
    assert open_counts == sorted(open_counts, reverse=True)
    assert open_counts[-1] == 0
    committed = [slot for step in drawing.trace for slot in step.slots]
    assert sorted(committed) == list(range(64))
    assert len(drawing.trace) == debug.defaults.image_steps


def test_inpainting_keeps_what_is_given(debug, picture):
    mask = Image.new("L", (40, 40))
    mask.paste(255, (12, 12, 20, 20))
    drawing = debug.fill_image(picture, mask, prompt="x")
    before, after = picture.load(), drawing.image.load()
    inside = [(x, y) for x in range(12, 20) for y in range(12, 20)]
    assert all(before[x, y] == after[x, y] for x in range(40) for y in range(40) if (x, y) not in inside)
    assert any(before[p] != after[p] for p in inside)
    original = debug.image_tokenizer.encode_images([picture])[0]
    changed = (original != drawing.codes).nonzero().tolist()
    assert changed
    assert all(3 <= y <= 4 and 3 <= x <= 4 for y, x in changed)


def test_outpainting_grows_the_picture(debug, picture):
    drawing = debug.fill_image(picture, prompt="x", extend=(4, 8, 12, 0))
    assert drawing.image.size == (40 + 16, 40 + 8)
    assert drawing.image.crop((4, 8, 44, 48)).tobytes() == picture.tobytes()


def test_a_checkpoint_that_knows_one_size_says_so_of_others(debug, picture):
    knows_one = MMaDA(debug.model, debug.prompts, debug.image_tokenizer, defaults=replace(debug.defaults, one_image_size=True))
    assert debug.fill_image(picture, prompt="x", extend=(4, 0, 0, 0)).warning is None
    assert knows_one.draw("x", steps=2).warning is None
    said = "I was taught drawings of 32x32 pixels alone; this one has 44x40, so what I drew of it may make no sense."
    wide = knows_one.fill_image(picture, prompt="x", extend=(4, 0, 0, 0), seed=1)
    assert wide.warning == said
    assert wide.image.tobytes() == debug.fill_image(picture, prompt="x", extend=(4, 0, 0, 0), seed=1).image.tobytes()
    assert "has 32x64" in knows_one.draw("x", size=(64, 32), steps=2).warning


def test_filling_keeps_the_given_text(debug):
    answer = debug.fill(["The ", Hole(2), " sat on ", Hole(1), " mat."], seed=1)
    assert answer.text.startswith("The ")
    assert " sat on " in answer.text
    assert answer.text.endswith(" mat.")
    assert len(answer.token_ids) == 3
    in_answer = debug.fill("yes, [MASK:2]!", messages="Is it?", seed=1)
    assert in_answer.text.startswith("yes, ")


def test_a_checkpoint_says_whether_it_thinks_before_it_draws(debug):
    thoughtful = MMaDA(debug.model, debug.prompts, debug.image_tokenizer, defaults=replace(debug.defaults, thinks_before_drawing=True))
    picture = Image.new("RGB", (16, 16))
    asked = (DrawRequest("a cat"), DrawRequest("a cat", think=False), DrawRequest("a cat", think=True))
    assert [debug.planner.thinks(request) for request in asked] == [False, False, True]
    assert [thoughtful.planner.thinks(request) for request in asked] == [True, False, True]
    # What is drawn into a picture has nothing to think about.
    assert not thoughtful.planner.thinks(DrawRequest("a cat", image=picture, mask=Image.new("RGB", (16, 16), "white")))
    assert thoughtful.draw("a cat").prompt == thoughtful.draw("a cat", think=True).prompt != "a cat"


@pytest.mark.slow
def test_thoughts_before_a_drawing_differ_from_seed_to_seed_at_a_temperature(debug):
    for temperature, number in ((0.0, 1), (1.0, 4)):
        defaults = replace(debug.defaults, draw_thinking_temperature=temperature, max_thinking_tokens=16)
        model = MMaDA(debug.model, debug.prompts, debug.image_tokenizer, defaults=defaults)
        jobs = [DrawRequest("a cat", think=True, seed=seed, steps=1) for seed in range(4)]
        assert len({drawing.prompt for drawing in model.run(jobs)}) == number
        assert {drawing.prompt for drawing in model.run(jobs)} == {model.run([job])[0].prompt for job in jobs}


def test_thinking_before_drawing_in_two_passes(debug):
    separate = MMaDA(debug.model, debug.prompts, debug.image_tokenizer, defaults=replace(debug.defaults, reasons_in_one_row=False))
    one, two = debug.draw("a cat", think=True), separate.draw("a cat", think=True)
    assert one.codes.shape == two.codes.shape == (8, 8)
    assert one.num_forwards > debug.defaults.image_steps


def test_conversations_and_messages(debug):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, {"role": "user", "content": "bye"}]
    messages = [Message(t["role"], t["content"]) for t in turns]
    assert ids(run(debug, [ChatRequest(turns)])[0]) == ids(run(debug, [ChatRequest(messages)])[0])


def test_a_file_or_a_folder_that_cannot_be_written_is_a_sentence(debug, tmp_path):
    file = tmp_path / "out"
    file.write_text("mine")
    (tmp_path / "full" / "config.json").mkdir(parents=True)  # what is in the way
    targets = {
        file: "File exists",
        file / "inner": "Not a directory",
        tmp_path / "full": "Is a directory",
        Path("/proc/nowhere"): "No such file",
    }
    for target, reason in targets.items():
        for save in (debug.save_pretrained, partial(save_transformer, debug.model)):
            with pytest.raises(
                InputError, match=rf"^directory='{target}' cannot be written \({reason}.*\); give a new directory, or make room"
            ):
                save(target)
    for save in (debug._text.save_pretrained, partial(save_image_tokenizer, debug.image_tokenizer)):
        with pytest.raises(InputError, match=rf"^directory='{file}' cannot be written"):
            save(file)
    assert file.read_text() == "mine"


def test_save_and_load_give_the_same(debug, tmp_path):
    debug.save_pretrained(tmp_path / "m", max_shard_size="100KB")
    again = MMaDA.from_pretrained(tmp_path / "m", device="cpu")
    assert again.defaults == debug.defaults
    assert again.draw("a cat", seed=3).codes.tolist() == debug.draw("a cat", seed=3).codes.tolist()
    assert json.loads((tmp_path / "m" / "config.json").read_text())["architectures"] == ["MMadaModelLM"]
    half = MMaDA.from_pretrained(tmp_path / "m", device="cpu", dtype="bfloat16")
    assert half.draw("a cat", seed=3).codes.shape == (8, 8)


@pytest.fixture(scope="module")
def chat() -> MMaDA:
    return MMaDA.from_pretrained()


def test_a_copy_knows_the_same_words(chat):
    again = pickle.loads(pickle.dumps(chat))
    assert again.planner.lexicon == chat.planner.lexicon
    assert again.planner.world() is chat.planner.world()
    assert repr(again) == repr(chat) == "MMaDA('mmada-emoji-chat', MMaDA, 6.43 M weights, float32, cpu)"


def test_what_cannot_be_used_is_refused_when_it_is_said(chat):
    before, reader = chat.defaults, chat.planner.world
    for change, message in (({"world": "nope"}, "world 'nope' is not installed"), ({"style": 3}, "style=3 must be Style")):
        with pytest.raises(InputError, match=message):
            chat.use(**change)
    assert (chat.defaults, chat.planner.world) == (before, reader)
    for move in (lambda: chat.to("gpu"), lambda: MMaDA.from_pretrained("debug", device="gpu")):
        with pytest.raises(InputError, match="device='gpu' cannot be used here; try cpu"):
            move()
    with pytest.raises(CheckpointError, match="model=None is of type NoneType"):
        MMaDA.from_pretrained(None)


def test_a_size_of_the_checkpoint_is_named_as_it_was_set(debug):
    odd = copy.copy(debug).use(image_height=30)
    with pytest.raises(InputError, match=r"image_height, image_width=\(30, 32\) must be multiples of 4 pixels"):
        odd.draw("x")


BAD = {
    "empty prompt": (DrawRequest("  "), "prompt='' is empty"),
    "empty message": (ChatRequest(" "), "content='' of message 0 is empty"),
    "steps do not divide": (ChatRequest("x", max_new_tokens=32, params=published_text(steps=30, block_length=8)), "try steps=28"),
    "too long": (ChatRequest("x" * 1100), "the model's context has 1024"),
    "negative prompt": (DrawRequest("x", negative_prompt="y" * 1100), "the negative prompt needs"),
    "negative prompt without guidance": (
        DrawRequest("x", negative_prompt="y", guidance_scale=0),
        "negative_prompt='y' is what guidance leads away",
    ),
    "huge room": (ChatRequest("x", max_new_tokens=10**12), "of which 1000000000000 are to be filled"),
    "many pictures": (ChatRequest("x", images=["missing.png"] * 99), "the model's context has 1024"),
    "huge hole": (FillRequest("a [MASK:3000000000]"), "of which 3000000000 are to be filled"),
    "huge drawing": (DrawRequest("x", size=(4 * 10**6, 4 * 10**6)), "the drawing needs 1000000000000 tokens"),
    "huge picture": (DrawRequest("x", image=Image.new("RGB", (400, 400)), extend=(4, 0, 0, 0)), "the picture needs 10100 tokens"),
    "half a character": (ChatRequest("caf\udce9"), "give UTF-8"),
    "no room at all": (ChatRequest("x", max_new_tokens=0), "max_new_tokens=0 must be at least 1"),
    "too large": (DrawRequest("x", size=(160, 160), think=True), "context has 1024"),
    "no room": (ChatRequest("x", max_new_tokens=-1), "must be at least 1"),
    "size": (DrawRequest("x", size=(33, 32)), r"try \(32, 32\)"),
    "mask without image": (DrawRequest("x", mask=Image.new("L", (8, 8))), "give image"),
    "nothing to draw": (DrawRequest("x", image=Image.new("RGB", (8, 8))), "nothing is to be drawn"),
    "extend": (DrawRequest("x", image=Image.new("RGB", (8, 8)), extend=(3, 0, 0, 0)), "multiples of 4"),
    "no hole": (FillRequest("all there"), "no hole"),
    "thinking over an image": (DrawRequest("x", image=Image.new("RGB", (8, 8)), extend=(4, 0, 0, 0), think=True), "without thinking"),
    "not a request": ("hello", "give ChatRequest"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(debug, name):
    request, message = BAD[name]
    with pytest.raises(InputError, match=message):
        debug.run([request])


def test_a_recipe_takes_the_steps_and_the_guidance_of_its_request(debug, first_fill):
    params = first_fill(debug.planner, DrawRequest("x", params=published_image(), steps=5, guidance_scale=0)).params
    assert (params.steps, params.guidance_scale, params.anneal) == (5, 0, published_image().anneal)
    assert first_fill(debug.planner, DrawRequest("x", params=published_image())).params == published_image()


def test_seeds_may_be_of_another_library(debug):
    assert debug.draw("x", seed=np.int64(3), steps=2).codes.tolist() == debug.draw("x", seed=3, steps=2).codes.tolist()


def test_no_pass_is_spent_on_nothing(debug, picture):
    """Two open tokens take two passes, however many steps a whole drawing has."""
    mask = Image.new("L", (40, 40))
    mask.paste(255, (8, 8, 16, 12))
    assert debug.fill_image(picture, mask, prompt="x").num_forwards == 2


def test_a_thin_line_in_a_mask_outlives_being_scaled_down(debug):
    large, mask = Image.new("RGB", (512, 512)), Image.new("L", (512, 512))
    mask.paste(255, (300, 0, 301, 512))
    is_open = debug.planner.init_codes(DrawRequest("x", size=(32, 32), image=large, mask=mask)).is_open
    assert is_open.nonzero()[:, 1].unique().tolist() == [300 // 64]
    assert is_open.sum() == 8


def test_a_text_that_ends_in_a_hole_ended_for_lack_of_room(debug):
    assert debug.fill("a [MASK:2]").finish_reason == "length"
    assert debug.fill("a [MASK:2] b").finish_reason == "stop"


@pytest.mark.slow
def test_a_thought_that_is_too_long_to_be_drawn_gives_way_to_the_prompt(debug):
    defaults = replace(debug.defaults, reasons_in_one_row=False, max_thinking_tokens=200, guidance_scale=0.0)
    model = MMaDA(debug.model, debug.prompts, debug.image_tokenizer, defaults=defaults)
    drawing, other = model.run([DrawRequest("a cat", size=(120, 120), think=True, steps=1), DrawRequest("a cat", steps=1)])
    assert drawing.prompt == other.prompt == "a cat"


def test_bad_images(debug, picture):
    with pytest.raises(ImageError, match="same size"):
        debug.fill_image(picture, Image.new("L", (8, 8)), prompt="x")
    with pytest.raises(ImageError, match=r"cannot|corrupt|no image"):
        debug.ask(b"not a picture", "what?")
    with pytest.raises(InputError, match="requests"):
        debug.run([])


def test_defaults_can_be_changed(first_fill):
    model = MMaDA.debug()
    assert model.use(cache="dual", threshold=0.5) is model
    assert (model.defaults.cache, model.planner.text_params().cache, model.planner.text_params().threshold) == ("dual", CacheConfig(), 0.5)
    with pytest.raises(InputError, match="did you mean 'threshold'"):
        model.use(treshold=0.5)
    with pytest.raises(InputError, match="cache='both' is unknown"):
        model.use(cache="both")
    with pytest.raises(InputError, match="block_length=0 must be a whole number of at least 1"):
        model.use(block_length=0)
    for change, message in (
        ({"image_steps": 0}, "image_steps=0"),
        ({"guidance_scale": -1.0}, "guidance"),
        ({"image_mode": "x"}, "image_mode='x'"),
    ):
        with pytest.raises(InputError, match=message):
            model.use(**change)
    assert model.defaults == MMaDA.debug().use(cache="dual", threshold=0.5).defaults
    model.use(style=Style(draw_thinking="Dream. ", thinking="Dream. "))
    assert "Dream. hello" in model.prompts.tokenizer.decode(first_fill(model.planner, ChatRequest("hello", think=True)).canvas.tokens)
    model.use(image_tokenizer="no/such")
    with pytest.raises(CheckpointError, match="no/such"):
        model.draw("a cat")


@pytest.mark.parametrize("cache", [pytest.param("prefix", marks=pytest.mark.slow), "dual"])
def test_cached_requests_of_every_kind_equal_each_alone(mixture, cache):
    model = MMaDA.debug().use(cache=cache)
    for request, result in zip(mixture, run(model, mixture), strict=True):
        (alone,) = run(model, [request])
        assert ids(result) == ids(alone)
        assert result.num_forwards == alone.num_forwards


def test_bad_checkpoints(debug, tmp_path):
    debug.save_pretrained(tmp_path)
    for text, message in (
        ('{"blocklength": 3}', "did you mean 'block_length'"),
        ('{"block', "mmada.json cannot be used"),
        ('{"style": {"seperator": "token"}}', "did you mean 'separator'"),
        ('{"style": {"separator": "tokens"}}', "separator='tokens' is unknown"),
        ('{"threshold": "0.9"}', "threshold='0.9' must be a number of at least 0"),
        ("[]", "is no JSON object"),
    ):
        (tmp_path / "mmada.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            MMaDA.from_pretrained(tmp_path)
    (tmp_path / "mmada.json").unlink()
    assert MMaDA.from_pretrained(tmp_path).defaults == GenerationConfig()
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        MMaDA.from_pretrained(tmp_path)
    save_image_tokenizer(debug.image_tokenizer, tmp_path / "image_tokenizer")
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="only in part"):
        MMaDA.from_pretrained(tmp_path)


def test_an_image_tokenizer_of_another_size_is_refused(debug):
    from mmada.image import ImageTokenizer, ImageTokenizerConfig

    config = ImageTokenizerConfig(
        ch=8, encoder_ch_mult=(1,), encoder_num_res_blocks=(1,), decoder_ch_mult=(1,), decoder_num_res_blocks=(1,), z_channels=4
    )
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        save_image_tokenizer(ImageTokenizer(config), directory)
        model = MMaDA(debug.model, debug.prompts, directory, defaults=debug.defaults)
        with pytest.raises(CheckpointError, match="has 16 codes, the model 64"):
            model.draw("x")


def test_quantized_weights_are_loaded_by_their_format_or_not_at_all(debug, tmp_path):
    debug.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingDependencyError, match="bitsandbytes"):
        MMaDA.from_pretrained(tmp_path)
