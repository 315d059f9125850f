# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`vita-audio merge`: an adapter and its model become one folder."""

import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model

from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor
from serving.cli import DEFAULT_MODEL, main
from training.adapters import name_base, save_adapter


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Of the shipped model, with random weights that change what it says."""
    folder = tmp_path_factory.mktemp("adapter")
    model = VitaAudioForConditionalGeneration.from_pretrained(DEFAULT_MODEL)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "up_proj", "proj"], init_lora_weights=False
    )
    torch.manual_seed(0)
    adapted = get_peft_model(model, config)
    name_base(adapted)
    save_adapter(adapted, folder)
    VitaAudioProcessor.from_pretrained(DEFAULT_MODEL).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_outputs_of_what_is_merged_are_those_of_the_adapter(adapter, tmp_path, capsys):
    assert main(["merge", str(adapter), str(tmp_path / "merged")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "merged")
    base = VitaAudioForConditionalGeneration.from_pretrained(DEFAULT_MODEL)
    adapted = PeftModel.from_pretrained(VitaAudioForConditionalGeneration.from_pretrained(DEFAULT_MODEL), adapter)
    merged = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "merged")
    ids = torch.randint(20, 1400, (2, 60), generator=torch.Generator().manual_seed(0))
    outputs = []
    for model in (adapted, merged, base):
        with torch.no_grad():
            output = model.eval()(ids, output_mctp_logits=True)
        outputs.append([output.logits, *output.mctp_logits])
    for of_adapter, of_merged, of_base in zip(*outputs, strict=True):
        torch.testing.assert_close(of_adapter, of_merged, atol=1e-4, rtol=0)
        assert (of_merged - of_base).abs().max() > 0.1
    # a whole repository, which needs neither PEFT nor the base model
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"model.safetensors", "processor_config.json", "modeling_vita_audio.py", "README.md"} <= names
    assert not {"adapter_config.json", "adapter_model.safetensors"} & names
    assert ModelCard.load(tmp_path / "merged" / "README.md").data.library_name == "transformers"
    assert main(["ask", "Which?", "--model", str(tmp_path / "merged"), "--max_new_tokens", "12", "--json"]) == 0


@pytest.mark.slow
def test_what_is_merged_has_licence_and_origin_of_the_adapter(adapter, tmp_path):
    named = shutil.copytree(adapter, tmp_path / "named")
    of_license = {"license": "other", "license_name": "theirs", "license_link": "LICENSE"}
    metadata = of_license | {"base_model": "vita/base", "base_model_relation": "adapter"}
    (named / "README.md").write_text(f"---\n{json.dumps(metadata)}\n---\nMine.\n")
    assert main(["merge", str(named), str(tmp_path / "merged")]) == 0
    data = ModelCard.load(tmp_path / "merged" / "README.md").data.to_dict()
    assert (of_license | {"base_model": "vita/base", "base_model_relation": "finetune"}).items() <= data.items()


@pytest.mark.slow
def test_the_base_can_be_another_one(adapter, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(adapter, moved)
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(tmp_path / "gone")})
    )
    assert main(["merge", str(moved), str(tmp_path / "merged")]) == 1
    assert "which is not here" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()
    assert main(["merge", str(moved), str(tmp_path / "merged"), "--base", str(DEFAULT_MODEL)]) == 0
    assert (tmp_path / "merged" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_quantised_adapter_is_what_is_merged_with_weights_of_fewer_bits(adapter, quantization, tmp_path):
    assert main(["merge", str(adapter), str(tmp_path / "merged")]) == 0
    options = ["--quantization", quantization]
    assert main(["export", "--model", str(adapter), *options, str(tmp_path / "quantised")]) == 0
    ids = torch.randint(20, 1400, (1, 30), generator=torch.Generator().manual_seed(0))
    logits = []
    for place, kwargs in (("merged", {"quantization_config": quantization}), ("quantised", {})):
        model = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / place, **kwargs)
        assert model.generation_config.mctp_mode == "boost"
        with torch.no_grad():
            logits.append(model.eval()(ids).logits)
    torch.testing.assert_close(*logits, atol=0, rtol=0)


@pytest.mark.slow
def test_what_is_merged_can_be_trained_and_what_is_not_is_not_saved(adapter, tmp_path):
    model = VitaAudioForConditionalGeneration.from_pretrained(adapter)
    assert all(parameter.requires_grad for parameter in model.parameters())
    base = VitaAudioForConditionalGeneration.from_pretrained(DEFAULT_MODEL)
    with pytest.raises(ValueError, match="adapters beside its weights"):
        PeftModel.from_pretrained(base, adapter).get_base_model().save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{model}", "{out}"], "is no adapter: it has no adapter_config.json"),
        (["./nothing", "{out}"], "There is no folder or file './nothing'"),
        (["{adapter}", "{adapter}"], "is not an empty folder"),
        (["{adapter}", "{out}", "--base", "./nothing"], "There is no folder or file './nothing'"),
        (["{orphan}", "{out}"], "was trained on the model '/gone', which is not here. `base_model_name_or_path` in"),
    ],
)
def test_mistakes_are_one_line(adapter, tmp_path, capsys, arguments, message):
    orphan = shutil.copytree(adapter, tmp_path / "orphan")
    config = json.loads((orphan / "adapter_config.json").read_text())
    (orphan / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone"}))
    places = {"model": DEFAULT_MODEL, "adapter": adapter, "orphan": orphan, "out": tmp_path / "out"}
    assert main(["merge", *(argument.format(**places) for argument in arguments)]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()
