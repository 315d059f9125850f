# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapters in the trainer: what a stage adapts, what is saved, and who can load it."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from clean_process import BLOCK_OUR_PACKAGES
from huggingface_hub import ModelCard
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from tiny_models import tiny_model, tiny_plus_processor
from tiny_trainers import TINY_SETTINGS, build_tiny_start
from transformers import set_seed

from hub_cards.model_card import write_model_card
from hub_cards.push import plan_push, push_folder
from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioPipeline, VitaAudioProcessor
from training.adapters import adapt_to_stage
from training.data import build_training_dataset
from training.trainer import VitaAudioSFTConfig, VitaAudioSFTTrainer


# Seconds for each few, which the quick check has not
pytestmark = pytest.mark.slow


NUM_MODULES = 3
LORA = LoraConfig(task_type="CAUSAL_LM", r=4)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Folders with models of no, one and all MCTP modules by their number, the processor, and training examples."""
    folder = tmp_path_factory.mktemp("lora")
    model, processor, conversations = build_tiny_start(folder)
    processor.interleave_pattern = [1, 3]
    for number in (0, 1, NUM_MODULES):
        model.grow_mctp_modules(number)
        model.save_pretrained(folder / str(number))
    return folder, processor, build_training_dataset(conversations, processor, folder)


def make_trainer(start, output_dir, stage, model=None, peft_config=LORA, **settings):
    folder, processor, examples = start
    if model is None:
        number = {1: 0, 2: 0, 3: 1, 4: NUM_MODULES}[stage]
        model = VitaAudioForConditionalGeneration.from_pretrained(folder / str(number))
    defaults = {
        "stage": stage,
        "num_mctp_modules": NUM_MODULES,
        "max_length": 128,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
    }
    args = VitaAudioSFTConfig(output_dir=str(output_dir), **(TINY_SETTINGS | defaults | settings))
    return VitaAudioSFTTrainer(
        model, args, train_dataset=examples, processing_class=processor, peft_config=peft_config
    )


def outputs_of(model, start):
    """Logits of the language model and of all modules for one example."""
    with torch.no_grad():
        outputs = model.eval()(torch.tensor([start[2][0]["input_ids"]]), output_mctp_logits=True)
    return [outputs.logits, *outputs.mctp_logits]


def assert_same_outputs(model, other, start, atol=1e-5):
    for ours, theirs in zip(outputs_of(model, start), outputs_of(other, start), strict=True):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def adapted(names):
    return {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in names if ".lora_" in name}


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, with_adapters, whole",
    [
        (1, ["model.language_model.layers"], []),
        (2, [], ["model.mctp_modules.0"]),
        (3, ["model.mctp_modules.0"], ["model.mctp_modules.1", "model.mctp_modules.2"]),
        (4, ["model.language_model.layers", "model.mctp_modules"], []),
    ],
)
def test_a_stage_adapts_what_it_trains_and_nothing_else(start, tmp_path, stage, with_adapters, whole):
    trainer = make_trainer(start, tmp_path, stage)
    base = trainer.model.get_base_model()
    linear = {
        name.removesuffix(".base_layer")
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and ".lora_" not in name
    }
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    moved = {name for name, tensor in trainer.model.state_dict().items() if not tensor.equal(before[name])}
    assert moved and all(".lora_" in name or ".modules_to_save." in name for name in moved)
    # every linear layer of the parts has an adapter that learns
    expected = {name for name in linear if name.startswith(tuple(with_adapters))} if with_adapters else set()
    assert adapted(moved) == expected
    in_whole = {name.removeprefix("base_model.model.").partition(".modules_to_save.")[0] for name in moved}
    assert {name for name in in_whole if ".lora_" not in name} == set(whole)
    losses = {name for name in trainer.state.log_history[0] if "_loss" in name}
    modules = {f"mctp_loss_{k}" for k in range(1, base.config.num_mctp_modules + 1)}
    assert losses == modules | ({"lm_loss"} if stage in (1, 4) else set())


@pytest.mark.slow
@pytest.mark.parametrize("new_modules_whole", [True, False])
def test_modules_that_a_stage_has_added_are_there_when_the_adapter_is_loaded(start, tmp_path, new_modules_whole):
    trainer = make_trainer(start, tmp_path, 3, train_new_modules_whole=new_modules_whole)
    assert bool(trainer.model.active_peft_config.modules_to_save) == new_modules_whole
    trainer.train()
    trainer.save_repository()
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.config.num_mctp_modules == NUM_MODULES
    assert_same_outputs(trainer.model, loaded, start)
    base = VitaAudioForConditionalGeneration.from_pretrained(start[0] / "1")
    base.grow_mctp_modules(NUM_MODULES)
    assert_same_outputs(trainer.model, PeftModel.from_pretrained(base, tmp_path), start)


def test_a_first_module_is_never_a_copy(start, tmp_path):
    with pytest.raises(ValueError, match="but this is the first one"):
        make_trainer(start, tmp_path, 2, train_new_modules_whole=False)


@pytest.mark.parametrize(
    "target_modules, expected",
    [
        (["q_proj", "proj"], r"model\.mctp_modules\.0\.(layer\.self_attn\.q_proj|proj)"),
        ("up_proj", r"model\.mctp_modules\.0\.layer\.mlp\.up_proj"),
        (r".*\.(k|v)_proj", r"model\.mctp_modules\.0\.layer\.self_attn\.(k|v)_proj"),
        ("all-linear", r"model\.mctp_modules\.0\..*proj"),
    ],
)
def test_layers_by_name_are_those_of_the_stage(start, tmp_path, target_modules, expected):
    trainer = make_trainer(start, tmp_path, 3, peft_config=LoraConfig(r=2, target_modules=target_modules))
    names = adapted(name for name, _ in trainer.model.named_parameters())
    assert names and all(re.fullmatch(expected, name) for name in names)


@pytest.mark.parametrize(
    "stage, peft_config, message",
    [
        (4, {"target_modules": ["qkv"]}, "no linear layers of what stage 4 trains, which are: down_proj, gate_proj"),
        (3, {"modules_to_save": ["lm_head"]}, "Stage 3 does not train lm_head; it trains model.mctp_modules"),
        (3, {"trainable_token_indices": [5]}, "Stage 3 does not train embed_tokens"),
        (4, {"modules_to_save": ["classifier"]}, "classifier: the model has no such modules"),
        (4, {"target_modules": ["lm_head"]}, "no linear layers of what stage 4 trains"),
    ],
)
def test_what_a_stage_leaves_alone_cannot_be_adapted(start, tmp_path, stage, peft_config, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(start, tmp_path, stage, peft_config=LoraConfig(**peft_config))


def test_other_kinds_of_adapters_are_refused(start, tmp_path):
    with pytest.raises(TypeError, match="must be a LoraConfig, got a IA3Config"):
        make_trainer(start, tmp_path, 4, peft_config=IA3Config())


@pytest.mark.slow
@pytest.mark.parametrize("asked", [["embed_tokens", "lm_head"], ["lm_head"], "indices"])
def test_embeddings_and_head_are_trained_whole_or_in_part(start, tmp_path, asked):
    """The model's embeddings and head are one weight, and stay one."""
    tokens = list(range(20, 40))
    config = {"trainable_token_indices": tokens} if asked == "indices" else {"modules_to_save": asked}
    trainer = make_trainer(start, tmp_path, 4, peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, **config))
    trainer.train()
    trainer.save_repository()
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight
    before = VitaAudioForConditionalGeneration.from_pretrained(start[0] / str(NUM_MODULES)).lm_head.weight
    moved = (loaded.lm_head.weight != before).any(dim=1).nonzero().flatten().tolist()
    assert moved == (tokens if asked == "indices" else list(range(len(before))))
    assert_same_outputs(trainer.model, loaded, start)
    # and after a way through a whole folder
    loaded.save_pretrained(tmp_path / "whole")
    whole = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert_same_outputs(trainer.model, whole, start)


@pytest.mark.slow
def test_a_peft_model_is_trained_as_it_is(start, tmp_path):
    model = VitaAudioForConditionalGeneration.from_pretrained(start[0] / str(NUM_MODULES))
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["proj", "v_proj"])
    trainer = make_trainer(start, tmp_path, 4, get_peft_model(model, config), None)
    assert adapted(name for name, _ in trainer.model.named_parameters()) == {
        name.removesuffix(".base_layer")
        for name, _ in model.named_modules()
        if re.search(r"\.(v_proj|\d\.proj)(\.base_layer)?$", name)
    }
    trainer.train()
    trainer.save_repository()
    assert_same_outputs(trainer.model, VitaAudioForConditionalGeneration.from_pretrained(tmp_path), start)


@pytest.mark.parametrize(
    "number, stage, message",
    [
        (NUM_MODULES, 3, "would train model.language_model.layers.0.* which stage 3 leaves alone"),
        (1, 4, "has 1 MCTP modules, but stage 4 is for 3: call `grow_mctp_modules`"),
    ],
)
def test_a_peft_model_for_another_stage_is_refused(start, tmp_path, number, stage, message):
    model = VitaAudioForConditionalGeneration.from_pretrained(start[0] / str(number))
    with pytest.raises(ValueError, match=message):
        make_trainer(start, tmp_path, stage, get_peft_model(model, LoraConfig(target_modules=["q_proj"])), None)


def test_a_peft_model_that_trains_nothing_is_refused(start, tmp_path):
    model = VitaAudioForConditionalGeneration.from_pretrained(start[0] / str(NUM_MODULES))
    frozen = get_peft_model(model, LoraConfig(target_modules=["q_proj"], inference_mode=True))
    with pytest.raises(ValueError, match="no parameters to train"):
        make_trainer(start, tmp_path, 4, frozen, None)


def test_adapters_of_modules_have_their_learning_rate(start, tmp_path):
    trainer = make_trainer(start, tmp_path, 4, mctp_learning_rate_multiplier=10.0)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    rates = {
        names.pop(id(parameter)): group["lr"]
        for group in trainer.create_optimizer().param_groups
        for parameter in group["params"]
    }
    assert not names
    assert {("mctp_modules" in name, round(rate, 12)) for name, rate in rates.items()} == {(True, 0.1), (False, 0.01)}


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_gradient(start, tmp_path):
    gradients = []
    for gradient_checkpointing in (False, True):
        trainer = make_trainer(start, tmp_path, 4, gradient_checkpointing=gradient_checkpointing)
        if gradient_checkpointing:
            # as `train` does
            trainer.model.gradient_checkpointing_enable()
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()
        # other weights than at the start, where one half of each adapter is 0 and the other has no gradient
        set_seed(1)
        for name, parameter in trainer.model.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter, std=0.1)
        trainer.compute_loss(trainer.model, dict(batch)).backward()
        assert trainer.model.get_base_model().gradient_checkpointing == gradient_checkpointing
        gradients.append({name: x.grad for name, x in trainer.model.named_parameters() if x.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


@pytest.mark.slow
def test_where_the_language_model_is_frozen_no_gradient_goes_through_it(start, tmp_path):
    trainer = make_trainer(start, tmp_path, 3, gradient_checkpointing=True, max_steps=1)
    states = []
    language_model = trainer.model.get_base_model().model.language_model
    language_model.register_forward_hook(lambda model, args, output: states.append(output.last_hidden_state))
    trainer.train()
    assert states and not any(hidden_states.requires_grad for hidden_states in states)


def test_the_ears_of_plus_get_no_adapter(start):
    model = tiny_model(tiny_plus_processor())
    config = adapt_to_stage(LORA, model, 4, 10, 10, True)
    names = adapted(name for name, _ in get_peft_model(model, config).named_parameters())
    assert not any("audio_tower" in name for name in names)
    assert {name.split(".")[1] for name in names} == {"language_model", "mctp_modules", "multi_modal_projector"}


@pytest.fixture(scope="module")
def trained(start, tmp_path_factory):
    """A trainer whose adapter is saved, and the folder."""
    folder = tmp_path_factory.mktemp("trained")
    trainer = make_trainer(start, folder, 4, save_strategy="steps", save_steps=1)
    trainer.origin = {"starts_from": {"folder": "3"}, "stages": [], "base_model": None}
    trainer.train()
    trainer.save_repository()
    return trainer, folder


def test_a_folder_has_the_adapter_alone_and_its_own_card(start, trained):
    _, folder = trained
    for place in (folder, folder / "checkpoint-2"):
        names = {path.name for path in place.iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "processor_config.json"} <= names
        assert not {"model.safetensors", "training_args.bin"} & names
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(start[0] / "3")
    assert not (folder / "checkpoint-2" / "README.md").exists()
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "peft" and card.data.pipeline_tag == "audio-to-audio"
    num_parameters = sum(x.numel() for name, x in trained[0].model.named_parameters() if x.requires_grad)
    assert f"an adapter (LoRA) of {num_parameters:,} parameters" in card.text
    assert "`lora_r` | 4 |" in card.text and str(start[0]) not in card.text


@pytest.mark.parametrize("peft_float32", [True, False])
def test_what_is_trained_is_in_float32(start, tmp_path, peft_float32):
    model = VitaAudioForConditionalGeneration.from_pretrained(start[0] / "1", dtype=torch.bfloat16)
    trainer = make_trainer(start, tmp_path, 3, model, peft_float32=peft_float32)
    parameters = list(trainer.model.named_parameters())
    whole = {parameter.dtype for name, parameter in parameters if parameter.requires_grad and "lora" not in name}
    assert whole == {torch.float32 if peft_float32 else torch.bfloat16}
    assert {p.dtype for name, p in parameters if "lora" in name} == {torch.float32}
    assert {p.dtype for _, p in parameters if not p.requires_grad} == {torch.bfloat16}


def test_it_loads_by_peft_and_by_itself_and_decodes_as_it_was_trained(start, trained):
    trainer, folder = trained
    for place in (folder, folder / "checkpoint-2"):
        loaded = VitaAudioForConditionalGeneration.from_pretrained(place)
        assert not any("lora" in name for name, _ in loaded.named_modules())
        assert_same_outputs(trainer.model, loaded, start)
        assert loaded.generation_config.mctp_mode == loaded.config.interleave_pattern == [1, 3]
    base = VitaAudioForConditionalGeneration.from_pretrained(start[0] / str(NUM_MODULES))
    assert_same_outputs(trainer.model, PeftModel.from_pretrained(base, folder), start)


def test_an_adapter_may_lie_in_the_folder_of_its_model(start, trained, tmp_path):
    """As PEFT's `save_pretrained` leaves it where it is told the model's folder."""
    folder = shutil.copytree(start[0] / str(NUM_MODULES), tmp_path / "both")
    model = PeftModel.from_pretrained(VitaAudioForConditionalGeneration.from_pretrained(folder), trained[1])
    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(folder)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    loaded = VitaAudioForConditionalGeneration.from_pretrained(folder)
    assert_same_outputs(trained[0].model, loaded, start)
    assert loaded.name_or_path == str(folder)


def test_an_adapter_can_be_for_an_adapter(start, trained, tmp_path):
    model = VitaAudioForConditionalGeneration.from_pretrained(trained[1])
    trainer = make_trainer(start, tmp_path, 4, model)
    trainer.train()
    trainer.save_repository()
    assert_same_outputs(trainer.model, VitaAudioForConditionalGeneration.from_pretrained(tmp_path), start)
    with pytest.raises(AssertionError):
        assert_same_outputs(trainer.model, trained[0].model, start)


@pytest.mark.parametrize("fault", ["base", "unnamed", "tensors"])
def test_an_adapter_that_cannot_be_right_is_refused(trained, tmp_path, fault):
    config = json.loads((trained[1] / "adapter_config.json").read_text())
    weights = (trained[1] / "adapter_model.safetensors").read_bytes()
    if fault == "base":
        config["base_model_name_or_path"] = str(tmp_path / "gone")
    elif fault == "unnamed":
        config["base_model_name_or_path"] = None
    else:
        config["target_modules"] = ["q_proj"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(weights)
    message = {"base": "which is not here", "unnamed": "does not say", "tensors": "do not fit"}[fault]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        VitaAudioForConditionalGeneration.from_pretrained(tmp_path)


ANSWER = """
import json
from transformers import pipeline

folder, question = sys.argv[1:]
pipe = pipeline("audio-to-audio", model=folder, trust_remote_code=True, device="cpu")
assert type(pipe).__module__.startswith("transformers_modules.")
answer = pipe(question)
print(json.dumps({"text": answer["text"], "num_samples": len(answer["audio"])}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", ["here", pytest.param("on the Hub", marks=pytest.mark.hub), pytest.param("moved", marks=pytest.mark.hub)]
)
def test_a_process_without_our_packages_answers_by_the_adapter(start, trained, tmp_path, where, request):
    place, environment = trained[1], {"HF_HUB_OFFLINE": "1"}
    if where != "here":
        hub = request.getfixturevalue("hub")
        environment, place = hub.environment(tmp_path / "home"), "vita/adapter"
        push_folder(start[0] / str(NUM_MODULES), "vita/base", api=hub.api())
        shutil.copytree(trained[1], tmp_path / "adapter", ignore=shutil.ignore_patterns("checkpoint-*"))
        config = json.loads((trained[1] / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "vita/base"
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
        if where == "on the Hub":
            push_folder(tmp_path / "adapter", place, api=hub.api())
        else:
            # the adapter here, for a model on the Hub
            place = tmp_path / "adapter"
    soundfile.write(tmp_path / "question.wav", 0.3 * np.sin(np.arange(12000) / 20), 16000)
    model = VitaAudioForConditionalGeneration.from_pretrained(trained[1])
    pipe = VitaAudioPipeline(model, processor=VitaAudioProcessor.from_pretrained(trained[1]), device="cpu")
    expected = pipe(str(tmp_path / "question.wav"))
    environment = {**os.environ, **environment, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", BLOCK_OUR_PACKAGES + ANSWER, place, tmp_path / "question.wav"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "text": expected["text"],
        "num_samples": len(expected["audio"]),
    }


def test_only_adapters_of_models_on_the_hub_are_pushed(trained, tmp_path):
    with pytest.raises(ValueError, match="is an adapter of .*, which is not on the Hub"):
        push_folder(trained[1], "user/adapter")
    copied = tmp_path / "adapter"
    shutil.copytree(trained[1], copied, ignore=shutil.ignore_patterns("checkpoint-*"))
    config = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "user/base"}))
    write_model_card(copied)
    data = ModelCard.load(copied / "README.md").data
    assert (data.base_model, data.base_model_relation) == ("user/base", "adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= plan_push(copied).files.keys()


@pytest.mark.slow
def test_a_folder_never_has_an_adapter_and_a_whole_model(start, tmp_path):
    make_trainer(start, tmp_path, 4, peft_config=None).save_repository()
    assert (tmp_path / "model.safetensors").exists()
    trainer = make_trainer(start, tmp_path, 4)
    trainer.save_repository()
    assert (tmp_path / "adapter_model.safetensors").exists() and not (tmp_path / "model.safetensors").exists()
    assert_same_outputs(trainer.model, VitaAudioForConditionalGeneration.from_pretrained(tmp_path), start)
    make_trainer(start, tmp_path, 4, peft_config=None).save_repository()
    assert not list(tmp_path.glob("adapter_*.json")) and not list(tmp_path.glob("adapter_*.safetensors"))
