"""The adapter for lmms-eval: found by its registry, on requests as its tasks make them, and through the harness with a task of ours."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
from PIL import Image

from mmada.errors import InputError

from ..lazy import later

lmms = later("mmada.eval.lmms")
LmmsModel = later("mmada.eval.lmms", "LmmsModel")
Instance = later("lmms_eval.api.instance", "Instance")
registry_v2 = later("lmms_eval.models.registry_v2")
manifest = later("mmada.eval.lmms_plugin", "manifest")
pytestmark = pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is installed without its dependencies by `make setup`")

COLORS = ("red", "blue", "green")
DOCS = [{"question": f"Is it {color}?", "image": Image.new("RGB", (40, 40), color)} for color in COLORS]


@pytest.fixture(scope="module")
def model():
    made = LmmsModel("debug", batch_size=2, device="cpu", max_new_tokens=16)
    made.task_dict = {"colors": {"test": DOCS}}
    return made


def ask(i: int, settings=None, *, visuals=lambda doc: [doc["image"]]) -> Instance:
    """A request as ConfigurableTask.construct_requests makes it."""
    arguments = (DOCS[i]["question"], settings or {}, visuals, i, "colors", "test")
    return Instance("generate_until", arguments, 0, metadata={"task": "colors", "doc_id": i, "repeats": 1})


def test_it_comes_before_the_one_that_needs_a_clone():
    registry = registry_v2.ModelRegistryV2()
    registry.register_manifest(registry_v2.ModelManifest("mmada", simple_class_path="lmms_eval.models.simple.mmada.MMaDA"))
    registry.register_manifest(manifest(), overwrite=True)
    assert registry.get_model_class("mmada") is lmms.LmmsModel


def test_answers_are_those_of_the_pipeline(model, debug):
    expected = [debug.ask(doc["image"], doc["question"], max_new_tokens=16).text for doc in DOCS]
    assert model.generate_until([ask(i) for i in range(3)]) == expected
    words = [debug.chat(doc["question"], max_new_tokens=8).text for doc in DOCS]
    assert model.generate_until([ask(i, {"max_new_tokens": 8}, visuals=lambda _: None) for i in range(3)]) == words


def test_settings_of_a_task_are_used(model, caplog):
    (whole,) = model.generate_until([ask(0)])
    (cut,) = model.generate_until([ask(0, {"until": [whole[3:5]], "temperature": 0, "do_sample": False, "num_beams": 1})])
    assert cut == whole[: whole.find(whole[3:5])]
    assert [record.message for record in caplog.records] == [
        "the task's generation setting num_beams=1 has no meaning here, and is left out"
    ]
    hot = {"temperature": 2.0, "do_sample": True}
    once, again = model.generate_until([ask(0, hot), ask(0, hot)])
    assert whole != once != again, "a repeated request has a seed of its own"


def test_drawings_are_written_and_named(tmp_path, debug):
    artist = LmmsModel("debug", mode="generation", device="cpu", output_image_dir=str(tmp_path / "out"), image_steps=2)
    artist.task_dict = {"colors": {"test": DOCS}}
    found = json.loads(artist.generate_until([ask(1)])[0])
    assert found["text"] == DOCS[1]["question"]
    assert Image.open(found["images"][0]).tobytes() == debug.draw(DOCS[1]["question"], steps=2).image.tobytes()


def test_what_it_cannot_do_is_refused_in_a_sentence(model):
    with pytest.raises(InputError, match="looks at images, not at videos or sounds"):
        model.generate_until([ask(0, visuals=lambda _: ["film.mp4"])])
    with pytest.raises(InputError, match="estimates no likelihoods"):
        model.loglikelihood([])
    with pytest.raises(InputError, match="one turn at a time"):
        model.generate_until_multi_round([])
    with pytest.raises(InputError, match=r"mode='draw' is unknown.*generation"):
        LmmsModel("debug", mode="draw")
