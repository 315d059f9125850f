# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import copy
import json

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from pictures import drawn_colors
from tiny_corpus import write_corpus
from tiny_models import tiny_plus_processor
from tiny_trainers import TINY_SETTINGS, build_tiny_start

from hub_cards.command_line import run_command
from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor
from training.checkpoints import last_complete_checkpoint
from training.conversations import load_conversations
from training.preference import (
    PROG,
    VitaAudioGRPOConfig,
    VitaAudioGRPOTrainer,
    build_preference_dataset,
    main,
)
from training.rewards import REWARDS, agreement, speaking_time, word_accuracy


# Seconds for each few, which the quick check has not
pytestmark = pytest.mark.slow


NUM_MODULES = 3


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A random model, its processor, and questions."""
    folder = tmp_path_factory.mktemp("preference")
    model, processor, conversations = build_tiny_start(folder)
    model.grow_mctp_modules(NUM_MODULES)
    model.generation_config.mctp_mode = [1, NUM_MODULES]
    return model, processor, build_preference_dataset(conversations, processor, folder / "codes")


def silent(waveform, sampling_rate):
    """What a recogniser hears in noise."""
    return ""


def make_trainer(start, output_dir, **settings):
    model, processor, questions = start
    kwargs = {name: settings.pop(name) for name in ("reward_funcs",) if name in settings}
    defaults = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "lr_scheduler_type": "constant",
        "report_to": "none",
    }
    args = VitaAudioGRPOConfig(output_dir=str(output_dir), **(TINY_SETTINGS | defaults | settings))
    return VitaAudioGRPOTrainer(copy.deepcopy(model), args, processor, silent, train_dataset=questions, **kwargs)


def speaks(completion_ids, text, seconds, transcript, reference, **kwargs):
    """Rewards speech."""
    assert len(completion_ids) == len(text) == len(seconds) == len(transcript) == len(reference)
    return seconds


def all_alike(completion_ids, **kwargs):
    """Rewards nothing more than anything else."""
    return [0.0] * len(completion_ids)


def test_questions_are_prompts_without_their_answers(start):
    _, processor, questions = start
    # 18 clips in training, each in a TTS and a spoken conversation; written answers are left out
    assert len(questions) == 36
    texts = [processor.tokenizer.decode(prompt) for prompt in questions["prompt"]]
    assert all(text.endswith("<|im_start|>assistant\n") for text in texts)
    is_read_aloud = [reference in text for reference, text in zip(questions["reference"], texts)]
    assert sum(is_read_aloud) == 18
    assert sum("<|begin_of_audio|>" in text for text in texts) == 18


def test_what_is_to_be_heard_is_the_reference_of_the_row(start, tmp_path):
    _, processor, _ = start
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(8000) / 9), 16000)
    messages = [{"role": "user", "content": "<|audio|>"}, {"role": "assistant", "content": "<|audio|>"}]
    row = {"messages": messages, "audios": ["a.wav", "a.wav"]}
    rows = [row | {"reference": "It is four."}, row | {"id": "2"}]
    (tmp_path / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = build_preference_dataset(load_conversations(tmp_path), processor, tmp_path / "codes")
    # the other one has no words
    assert questions["reference"] == ["It is four."]


def test_nothing_to_reward(start, tmp_path):
    _, processor, _ = start
    written = Dataset.from_dict({"messages": [[{"role": "assistant", "content": "Yes."}]], "audios": [[]]})
    with pytest.raises(ValueError, match="No conversation ends with a spoken turn"):
        build_preference_dataset(written, processor, tmp_path)
    spoken = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "<|audio|>"}]
    wordless = Dataset.from_dict({"messages": [spoken], "audios": [[]], "reference": ["?"]})
    with pytest.raises(ValueError, match="says in words what is to be heard"):
        build_preference_dataset(wordless, processor, tmp_path)
    with pytest.raises(ValueError, match="hear by features"):
        build_preference_dataset(written, tiny_plus_processor(), tmp_path)


def test_rewards():
    references = ["Two plus two is four.", "Paris.", "", "Yes."]
    heard = ["2 plus 2 is 4", "paris paris paris", "four", ""]
    assert word_accuracy(references, heard) == [1, 0, 0, 0]
    assert word_accuracy(["one two three four"], ["one two nine four"]) == [0.75]
    assert agreement(text=["", "one two"], transcript=["one", "one two"], reference=None) == [0, 1]
    # 0.1 s and 0.053 s for each of 10 characters
    assert speaking_time(["0123456789"] * 4, [0.63, 1.26, 0.315, 0]) == pytest.approx([1, 0.5, 0.5, 0])


def test_settings_are_checked(tmp_path):
    for settings, message in (
        ({"rewards": ["loudness"]}, "Unknown reward 'loudness'; `rewards` are of word_accuracy"),
        ({"mctp_loss_weight": 0}, "must be positive"),
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"use_vllm": True}, "`use_vllm=True` is refused"),
    ):
        with pytest.raises(ValueError, match=message):
            VitaAudioGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)
    # DDP's search for unused parameters does not allow that a step runs the model twice
    assert VitaAudioGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False).ddp_find_unused_parameters is False
    arguments = ["--dataset_name", "no", "--model_name_or_path", "no", "--model_revision", "stage4", "--beta", "0.1"]
    with pytest.raises(ValueError, match="TRL loads without `model_revision`"):
        main([*arguments, "--output_dir", str(tmp_path), "--use_cpu", "--bf16", "False"])


def test_losses_are_those_of_the_formulas(start, tmp_path):
    trainer = make_trainer(start, tmp_path, learning_rate=0.0, max_steps=1, temperature=0.7, reward_funcs=[speaks])
    model, inputs = trainer.model, {}

    def keep(_, batch, *args, **kwargs):
        inputs.update(batch)
        return VitaAudioGRPOTrainer._compute_loss(trainer, _, batch)

    trainer._compute_loss = keep
    trainer.train()
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    start_of_answer = inputs["prompt_ids"].shape[1]
    with torch.no_grad():
        states = model.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            output_mctp_hidden_states=False,
        )
        logits = model.lm_head(states.last_hidden_state).float()
        log_probs = (logits[:, :-1] / 0.7).log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        per_token, _, _ = trainer._get_per_token_logps_and_entropies(
            model, ids, mask, inputs["completion_ids"].shape[1]
        )
        answered = inputs["completion_mask"].bool()
        torch.testing.assert_close(
            per_token[answered], log_probs[:, start_of_answer - 1 :][answered], atol=1e-5, rtol=1e-5
        )
        labels = torch.where(answered, inputs["completion_ids"], -100)
        labels = torch.cat([torch.full_like(inputs["prompt_ids"], -100), labels], dim=1)
        loss = model(
            input_ids=ids,
            attention_mask=mask,
            labels=labels,
            use_cache=False,
            lm_loss_weight=0.0,
            mctp_loss_weight=1.0,
        ).loss
    (logged,) = [entry["mctp_loss"] for entry in trainer.state.log_history if "mctp_loss" in entry]
    assert logged == pytest.approx(loss.item(), rel=1e-4)


def test_the_reward_rises(start, tmp_path):
    trainer = make_trainer(start, tmp_path, max_steps=30, learning_rate=1e-2, max_grad_norm=1.0, reward_funcs=[speaks])
    modules_before = copy.deepcopy(trainer.model.model.mctp_modules.state_dict())
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert sum(rewards[-3:]) > 1.5 * sum(rewards[:3]), rewards
    losses = [entry["mctp_loss"] for entry in trainer.state.log_history if "mctp_loss" in entry]
    assert sum(losses[-3:]) < sum(losses[:3]), losses
    assert any(
        not torch.equal(weight, modules_before[name])
        for name, weight in trainer.model.model.mctp_modules.state_dict().items()
    )


def test_modules_follow_a_language_model_that_has_nothing_to_learn(start, tmp_path):
    trainer = make_trainer(start, tmp_path, reward_funcs=[all_alike])
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    changed = {name for name, weight in trainer.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert any("mctp_modules" in name for name in changed)
    assert not [name for name in changed if ".layers." in name and "mctp_modules" not in name]


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_weights(start, tmp_path):
    whole = make_trainer(start, tmp_path / "whole", max_steps=4, reward_funcs=[speaks])
    whole.train()
    make_trainer(
        start, tmp_path / "half", max_steps=2, save_strategy="steps", save_steps=2, reward_funcs=[speaks]
    ).train()
    checkpoint = last_complete_checkpoint(tmp_path / "half")
    rest = make_trainer(start, tmp_path / "half", max_steps=4, reward_funcs=[speaks])
    rest.train(resume_from_checkpoint=checkpoint)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, rest.model.state_dict()[name]), name


@pytest.mark.slow
def test_a_whole_run(start, tmp_path):
    model, processor, _ = start
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    write_corpus(tmp_path / "corpus", 8)
    options = {
        "dataset_name": tmp_path / "corpus",
        "tasks": ["tts", "sqa"],
        "model_name_or_path": tmp_path / "model",
        "code_cache_dir": tmp_path / "codes",
        "output_dir": tmp_path / "tuned",
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 16,
        "max_steps": 2,
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "report_to": "none",
    }
    arguments = []
    for name, value in options.items():
        arguments += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    main(arguments)
    tuned = tmp_path / "tuned"
    card = (tuned / "README.md").read_text(encoding="utf-8")
    assert f"rewarded for {', '.join(REWARDS)}, as the recogniser `whisper-tiny.en` hears them" in card
    assert drawn_colors(tuned / "losses.png") > 0
    assert not list(tuned.rglob("training_args.bin"))
    record = json.loads((tuned / "training_args.json").read_text(encoding="utf-8"))
    assert record["stage"] == 4 and record["settings"]["num_generations"] == 2
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tuned)
    assert loaded.generation_config.mctp_mode == [1, NUM_MODULES]
    assert VitaAudioProcessor.from_pretrained(tuned).audio_tokenizer is not None
    assert run_command(lambda: main([*arguments, "--model_name_or_path", str(tmp_path / "no")]), PROG) == 1
