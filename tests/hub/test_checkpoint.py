import json
import time

import pytest
import torch
from safetensors.torch import save_file

from mmada import MMaDA
from mmada.errors import CheckpointError
from mmada.hub import checkpoint
from mmada.hub.family import family_of
from mmada.hub.networks import load_image_tokenizer, save_transformer

from ..lazy import later

pretrained = later("mmada.hub.pretrained")

TENSORS = {"a.weight": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16), "scalar": torch.zeros(())}
SHAPES = {"a.weight": (2, 3), "b": (4,), "scalar": ()}


def raw(header):
    """A safetensors file of this header and no data."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def sharded(directory):
    """Two shards and their index."""
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    parts = [{"a.weight": TENSORS["a.weight"]}, {name: TENSORS[name] for name in ("b", "scalar")}]
    for name, part in zip(names, parts, strict=True):
        save_file(part, directory / name)
    weight_map = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    (directory / checkpoint.INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return [directory / name for name in names]


# Finding a directory.


def test_find_gives_a_directory_as_it_is(tmp_path):
    assert checkpoint.find(tmp_path) == tmp_path
    assert checkpoint.find(str(tmp_path)) == tmp_path


def test_find_expands_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    assert checkpoint.find("~/weights") == tmp_path / "weights"


def test_find_refuses_a_file(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(CheckpointError, match=r"is a file; give the directory that holds config\.json"):
        checkpoint.find(file)


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "/no/where", "~/nowhere", "a/b/c"])
def test_find_refuses_a_missing_directory(name):
    with pytest.raises(CheckpointError, match=f"model='{name}' is no directory; give an existing directory, a hub name"):
        checkpoint.find(name)


def test_find_refuses_the_empty_name_instead_of_taking_the_working_directory():
    with pytest.raises(CheckpointError, match="model='' is empty"):
        checkpoint.find("")


def test_offline_a_hub_name_that_is_not_cached_fails_at_once(tmp_path, monkeypatch):
    # huggingface_hub reads HF_HUB_OFFLINE when it is imported; the attribute is what it read.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(
        CheckpointError, match="model='no-one/nothing' is not in the local cache and the hub cannot be reached; go online once"
    ):
        checkpoint.find("no-one/nothing")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", ["-x/y", "bad name/with space", "a/b--c"])
def test_find_refuses_a_name_that_no_hub_repository_can_have(name):
    with pytest.raises(CheckpointError, match="is neither a directory nor a repository of the hub; check the spelling"):
        checkpoint.find(name)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "asks for consent"),
        ("RevisionNotFoundError", "revision='v2' is not in the repository"),
        ("RepositoryNotFoundError", "log in if it is private"),
        ("XetDownloadError", r"could not be downloaded \(XetDownloadError: why\)"),
        ("OSError", r"could not be downloaded \(OSError: why\)"),
    ],
)
def test_why_a_download_failed_is_said(monkeypatch, kind, message):
    errors = pytest.importorskip("huggingface_hub.errors")
    failure = getattr(errors, kind, OSError)

    def fail(*_, **__):
        raise failure.__new__(failure, "why") if issubclass(failure, errors.HfHubHTTPError) else failure("why")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.find("owner/name", revision="v2")


def test_what_the_hub_is_to_know_reaches_it(monkeypatch, tmp_path, debug):
    debug.save_pretrained(tmp_path / "model")
    seen = {}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **keywords: seen.update(keywords) or str(tmp_path / "model"))
    pretrained.MMadaModelLM.from_pretrained("owner/name", token="secret", cache_dir="/big", local_files_only=True, revision="v2")
    assert {name: seen[name] for name in ("token", "cache_dir", "local_files_only", "revision")} == {
        "token": "secret",
        "cache_dir": "/big",
        "local_files_only": True,
        "revision": "v2",
    }
    for load in (pretrained.ImageTokenizer.from_pretrained, load_image_tokenizer):
        assert load("owner/name", subfolder="image_tokenizer").factor == debug.image_tokenizer.factor
    with pytest.raises(CheckpointError, match="subfolder='no' is not in model='owner/name'"):
        checkpoint.find("owner/name", subfolder="no")


def test_fields_of_the_configuration_can_be_given(tmp_path, debug):
    save_transformer(debug.model, tmp_path)
    assert pretrained.MMadaModelLM.from_pretrained(tmp_path, rope_theta=123.0).config.rope_theta == 123.0


def test_weights_in_another_form_are_replaced(tmp_path, debug):
    """One file that is left beside newer shards would be read instead of them."""
    changed = MMaDA.debug()
    with torch.no_grad():
        changed.model.head_weight.zero_()
    save_transformer(debug.model, tmp_path)
    save_transformer(changed.model, tmp_path, max_shard_size="100KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert not pretrained.MMadaModelLM.from_pretrained(tmp_path).head_weight.any()
    save_transformer(debug.model, tmp_path)
    assert [file.name for file in checkpoint.weight_files(tmp_path)] == ["model.safetensors"]
    assert torch.equal(pretrained.MMadaModelLM.from_pretrained(tmp_path).head_weight, debug.model.head_weight)


def test_who_may_read_the_configuration_may_read_the_weights(tmp_path, debug):
    debug.save_pretrained(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        assert file.stat().st_mode == (file.parent / "config.json").stat().st_mode


# Reading the configuration.


def test_read_config(tmp_path):
    (tmp_path / "config.json").write_text('{"d_model": 64}')
    assert checkpoint.read_config(tmp_path) == {"d_model": 64}


def test_a_missing_or_damaged_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no config\.json; is it the directory of a checkpoint\?"):
        checkpoint.read_config(tmp_path)
    for text in ("", '{"d_model": 6', "[]", '"text"'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json is not .*copy or download it again"):
            checkpoint.read_config(tmp_path)


# Reading shapes.


def test_shapes_of_one_file(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert checkpoint.shapes(tmp_path) == SHAPES


def test_shapes_of_shards(tmp_path):
    files = sharded(tmp_path)
    assert checkpoint.weight_files(tmp_path) == files
    assert checkpoint.shapes(tmp_path) == SHAPES


def test_shapes_of_a_pickle(tmp_path):
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    assert checkpoint.shapes(tmp_path) == SHAPES


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    ran = tmp_path / "ran"
    code = f"cposix\nsystem\n(S'touch {ran}'\ntR.".encode()
    (tmp_path / "pytorch_model.bin").write_bytes(code)
    with pytest.raises(CheckpointError, match="truncated or not a state dict"):
        checkpoint.shapes(tmp_path)
    assert not ran.exists()


def test_a_truncated_pickle_is_refused(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated or not a state dict"):
        checkpoint.shapes(tmp_path)


def test_a_directory_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has neither model\.safetensors nor model\.safetensors\.index\.json"):
        checkpoint.shapes(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    first, second = sharded(tmp_path)
    first.unlink()
    with pytest.raises(CheckpointError, match=rf"names 2 files, of which 1 are missing \({first.name}\)"):
        checkpoint.shapes(tmp_path)
    second.unlink()
    with pytest.raises(CheckpointError, match=rf"of which 2 are missing \({first.name}, {second.name}\)"):
        checkpoint.shapes(tmp_path)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_damaged_index_is_refused(tmp_path, index):
    (tmp_path / checkpoint.INDEX_NAME).write_text(index)
    with pytest.raises(CheckpointError, match=r"index\.json .*(copy|download)"):
        checkpoint.shapes(tmp_path)


@pytest.mark.parametrize("kept", ["nothing", "half the length", "half the header", "no data", "half the data", "all but a byte"])
def test_a_file_that_was_written_only_in_part_is_refused(tmp_path, kept):
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, file)
    data = file.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    cut = {
        "nothing": 0,
        "half the length": 4,
        "half the header": header // 2,
        "no data": header,
        "half the data": (header + len(data)) // 2,
        "all but a byte": len(data) - 1,
    }[kept]
    file.write_bytes(data[:cut])
    with pytest.raises(CheckpointError, match=r"model\.safetensors .*(truncated|only in part)"):
        checkpoint.shapes(tmp_path)


@pytest.mark.parametrize(
    "data", [raw([]), raw({"a": {}}), raw({"a": 5}), raw({"a": {"shape": [1]}}), (3).to_bytes(8, "little") + b"\xff\xfe\xfd"]
)
def test_an_unreadable_header_is_refused(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="has an unreadable header"):
        checkpoint.shapes(tmp_path)


# Comparing.


def test_compare_lists_every_kind_of_difference():
    found = {"same": (1,), "bent": (2, 3), "extra": (4,)}
    expected = {"same": (1,), "bent": (3, 2), "gone": (5, 6), "may miss": (7,)}
    assert checkpoint.compare(found, expected, optional=["may miss"]) == [
        "missing     gone (5, 6)",
        "unexpected  extra (4,)",
        "wrong shape bent (2, 3), the configuration asks for (3, 2)",
    ]
    assert checkpoint.compare(SHAPES, SHAPES) == []


def test_an_optional_tensor_of_the_wrong_shape_is_a_difference():
    assert len(checkpoint.compare({"a": (1,)}, {"a": (2,)}, optional=["a"])) == 1


def test_lists_and_tuples_are_equal_shapes():
    assert checkpoint.compare({"a": [2, 3]}, {"a": (2, 3)}) == []


def test_check_raises_one_error_with_every_difference(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    checkpoint.check(tmp_path, SHAPES)
    checkpoint.check(tmp_path, {**SHAPES, "later": (1,)}, optional=["later"])
    with pytest.raises(CheckpointError) as error:
        checkpoint.check(tmp_path, {"a.weight": (3, 2), "b": (4,), "c": (1,)})
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{tmp_path} does not fit its config.json in 3 of 3 tensors; use the configuration")
    assert [line.split()[0] for line in lines[1:]] == ["missing", "unexpected", "wrong"]


def test_the_address_of_a_model_is_answered_with_its_name():
    with pytest.raises(
        CheckpointError, match=r"model='https://huggingface\.co/a/b-c/tree/main' is an address; give the hub name in it, 'a/b-c'"
    ):
        checkpoint.local("https://huggingface.co/a/b-c/tree/main")


def test_a_run_a_save_and_an_image_tokenizer_are_no_models(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"it looks like a run, whose model is .*model$"):
        checkpoint.read_config(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    (save := tmp_path / "state" / "step-00000001").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="make a model of it"):
        checkpoint.read_config(save)
    with pytest.raises(CheckpointError, match="is an image tokenizer; give it as image_tokenizer"):
        family_of(checkpoint.find("mmada-emoji-tokenizer"))
