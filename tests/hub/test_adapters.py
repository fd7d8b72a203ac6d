"""Adapters: PEFT around our class, whatever the task type; adapters that name their base; adapter directories as models."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from mmada import MMaDA
from mmada.errors import CheckpointError, MissingDependencyError
from mmada.hub import adapters, checkpoint

from ..lazy import later

AutoModel = later("transformers", "AutoModel")
MMadaModelLM = later("mmada.hub.pretrained", "MMadaModelLM")
peft = later("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = torch.tensor([[256, 72, 73, 74, 75]])


@pytest.fixture(scope="module")
def base(saved_debug):
    return saved_debug


@pytest.fixture(scope="module")
def model(base):
    return MMadaModelLM.from_pretrained(base)


def adapted(model, **settings):
    """With an adapter that is no zero."""
    torch.manual_seed(0)
    return peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, init_lora_weights=False, **settings)).eval()


@pytest.fixture
def saved(base, model, tmp_path):
    """An adapter's directory, and the logits of its model."""
    made = adapted(model)
    made.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        return tmp_path / "adapter", made(IDS).logits


@pytest.mark.parametrize("task", [None, "CAUSAL_LM", "FEATURE_EXTRACTION", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM"])
def test_every_task_type(model, base, tmp_path, task):
    made = adapted(model, task_type=task, target_modules="all-linear" if task == "CAUSAL_LM" else None)
    asked = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    if task in (None, "CAUSAL_LM"):
        made(**asked, labels=IDS).loss.backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in made.named_parameters() if "lora_A" in n)
        assert made.generate(input_ids=IDS, max_new_tokens=4).shape == (1, 9)
    with torch.no_grad():
        logits = made(**asked).logits
    assert not torch.equal(logits, model(IDS).logits)
    made.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    with torch.no_grad():
        torch.testing.assert_close(MMaDA.from_pretrained(tmp_path, device="cpu").model(IDS).logits, logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(AutoModel.from_pretrained(tmp_path)(IDS).logits, logits)


def test_layers_that_nobody_names_are_those_of_kindred_models(model):
    names = {name.split(".")[-4] for name, _ in adapted(model).named_parameters() if "lora_A.default" in name}
    assert names == {"q_proj", "v_proj"}


def test_peft_loads_what_it_saved(saved, model):
    directory, logits = saved
    again = peft.PeftModel.from_pretrained(copy.deepcopy(model), str(directory))
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, logits)
        torch.testing.assert_close(again.merge_and_unload()(IDS).logits, logits, rtol=1e-4, atol=1e-4)
    found = peft.AutoPeftModel.from_pretrained(str(directory), import_allowlist=["mmada.hub.pretrained"])
    with torch.no_grad():
        torch.testing.assert_close(found(IDS).logits, logits)


def test_an_adapter_is_a_model_with_everything(saved, tmp_path):
    directory, logits = saved
    made = MMaDA.from_pretrained(directory, device="cpu")
    assert made.chat("hi", max_new_tokens=4).token_ids
    made.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(MMadaModelLM.from_pretrained(tmp_path / "merged")(IDS).logits, logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(MMadaModelLM.from_pretrained(directory)(IDS).logits, logits)  # beside the base, unmerged
    assert adapters.base_of(directory) == checkpoint.find(
        json.loads((directory / "adapter_config.json").read_text())["base_model_name_or_path"]
    )


def rewrite(directory, **changes):
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model_name_or_path": None}, "is an adapter that does not name its base; write .* into adapter_config.json"),
        (
            {"base_model_name_or_path": "/elsewhere/model"},
            "is an adapter of '/elsewhere/model', which is not here; copy that checkpoint there",
        ),
        ({"peft_type": "NONE SUCH"}, "is an adapter that cannot be merged into its base"),
        ({"r": 3}, r"differs from its base in .* tensors; .*\n .*wrong shape"),
        ({"target_modules": ["q_proj"]}, r"differs from its base in .* tensors; .*\n .*unexpected"),
    ],
)
def test_an_adapter_that_cannot_be_used_says_what_to_do(saved, changes, message):
    directory, _ = saved
    rewrite(directory, **changes)
    with pytest.raises(CheckpointError, match=rf"(?s){message}"):
        MMaDA.from_pretrained(directory)


def test_a_built_in_base_of_another_machine_is_found(saved):
    directory, _ = saved
    rewrite(directory, base_model_name_or_path="/elsewhere/site-packages/mmada/checkpoints/mmada-emoji-base")
    found = adapters.adapter_of(directory)
    assert found is not None
    assert found.base == "mmada-emoji-base"


def test_damaged_and_promptlike_adapters_are_refused(saved, tmp_path, model):
    directory, _ = saved
    (directory / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is not a JSON object"):
        MMaDA.from_pretrained(directory)
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, num_layers=2, token_dim=64, num_attention_heads=4)
    peft.get_peft_model(copy.deepcopy(model), settings).save_pretrained(tmp_path / "prompt")
    with pytest.raises(CheckpointError, match="PROMPT_TUNING puts tokens before a prompt and changes no weights"):
        MMaDA.from_pretrained(tmp_path / "prompt")


def test_without_peft_it_says_so(saved, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"is an adapter, which peft reads; pip install 'mmada\[train\]'"):
        MMaDA.from_pretrained(saved[0])


def test_how_a_base_is_named(base):
    assert adapters.portable_name("") is None
    assert adapters.portable_name("Gen-Verse/MMaDA-8B-MixCoT") == "Gen-Verse/MMaDA-8B-MixCoT"
    assert adapters.portable_name(str(base)) == str(base.resolve())
    assert adapters.portable_name("mmada-emoji-max") == str(checkpoint.find("mmada-emoji-max").resolve())
    assert adapters.adapter_of(base) is None
