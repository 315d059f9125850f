# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Whole runs of `training.train`, most of them in processes of their own."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from full_disk import limit_files
from pictures import drawn_colors
from places import ROOT
from tiny_corpus import TINY_TEXT_CONFIG, write_config, write_corpus
from tiny_models import TEXTS, tiny_codec
from training_runs import ENVIRONMENT, finish, settings_of, start
from transformers import AutoModel, Qwen2Config, Qwen2ForCausalLM
from waiting import wait_until

from hub_cards.command_line import run_command
from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor
from training.checkpoints import COMPLETE_FILE, last_complete_checkpoint
from training.conversations import load_conversations
from training.data import build_training_dataset
from training.initialize import build_from_language_model
from training.tokenizer import train_tokenizer
from training.train import PROG, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus and a codec."""
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder / "corpus")
    tiny_codec().save_pretrained(folder / "codec")
    return folder


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_four_stages_one_after_the_other(folder, tmp_path):
    for stage in (1, 2, 3, 4):
        before = {"model_name_or_path": str(tmp_path / f"stage{stage - 1}")}
        before |= dict.fromkeys(["codec_name_or_path", "text_config"])
        settings = settings_of(folder, tmp_path / f"stage{stage}", stage=stage, max_steps=2, save_strategy="no")
        main(["--config", str(write_config(tmp_path / "config.yaml", **(settings | (before if stage > 1 else {}))))])
        saved = tmp_path / f"stage{stage}"
        # a curve for each module
        assert drawn_colors(saved / "losses.png") >= [0, 1, 5, 5][stage - 1]
        assert not (saved / "unfinished").exists() and not (saved / "training_args.bin").exists()
        # the saved model has all losses, whichever the stage was trained with
        model, tokens = AutoModel.from_pretrained(saved), torch.arange(1, 20)[None]
        assert model(tokens, labels=tokens).lm_loss > 0
    model, processor = AutoModel.from_pretrained(saved), VitaAudioProcessor.from_pretrained(saved)
    assert model.config.num_mctp_modules == 5
    assert model.generation_config.mctp_mode == processor.interleave_pattern == [2, 5]
    assert processor.tokenizer.model_max_length == 128  # of the config
    assert str(ROOT) not in "".join(path.read_text() for path in saved.glob("*.json"))
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "audio", "path": str(folder / "corpus" / "audio" / "0.wav")}]}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
    )
    assert model.generate(**inputs, max_new_tokens=8).shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [{}, {"packing": False, "train_sampling_strategy": "group_by_length"}])
def test_a_killed_run_ends_with_the_same_weights(folder, tmp_path, rows):
    def config(name):
        settings = settings_of(
            folder,
            tmp_path / name,
            stage=4,
            max_steps=12,
            save_steps=2,
            save_total_limit=2,
            gradient_accumulation_steps=2,
            **rows,
        )
        return write_config(tmp_path / f"{name}.yaml", **settings)

    main(["--config", str(config("whole"))])
    interrupted = config("interrupted")
    for checkpoint in ("checkpoint-2", "checkpoint-6"):
        process = start(interrupted)
        # in the midst of writing it, or right after
        optimizer = tmp_path / "interrupted" / checkpoint / "optimizer.pt"
        wait_until(lambda optimizer=optimizer, process=process: optimizer.exists() or process.poll() is not None, 300)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "interrupted" / "model.safetensors").exists()
    # one whose writing was cut off
    complete = max(tmp_path.glob("interrupted/checkpoint-*/complete"), key=lambda path: path.stat().st_mtime).parent
    shutil.copytree(complete, tmp_path / "interrupted" / "checkpoint-11")
    (tmp_path / "interrupted" / "checkpoint-11" / COMPLETE_FILE).unlink()
    (tmp_path / "interrupted" / "checkpoint-11" / "model.safetensors").write_bytes(b"cut off")
    finish(start(interrupted))

    assert weights(tmp_path / "interrupted") == weights(tmp_path / "whole")
    histories = [
        json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        for name in ("whole", "interrupted")
    ]
    losses = [[(entry["step"], entry["loss"]) for entry in history if "loss" in entry] for history in histories]
    assert losses[0] == losses[1] and len(losses[0]) == 12


@pytest.mark.slow
@pytest.mark.parametrize("length", [{"max_steps": 2}, {"max_steps": -1, "num_train_epochs": 0.8}])
def test_a_finished_run_started_again_changes_nothing(folder, tmp_path, length):
    # neither ends with an epoch
    settings = settings_of(folder, tmp_path / "run", save_strategy="steps", save_steps=1, **length)
    config = write_config(tmp_path / "config.yaml", **settings)
    main(["--config", str(config)])
    before, state = weights(tmp_path / "run"), (tmp_path / "run" / "trainer_state.json").read_text()
    assert 0 < json.loads(state)["epoch"] < 1
    # the second time as if it had been killed after its last step
    for is_killed in (False, True):
        if is_killed:
            (tmp_path / "run" / "model.safetensors").unlink()
        main(["--config", str(config)])
        assert weights(tmp_path / "run") == before
        assert (tmp_path / "run" / "trainer_state.json").read_text() == state
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == json.loads(state)["global_step"]


@pytest.mark.parametrize("name", ["no-such-folder", "./no/such", "runs/no-such", "{folder}/no-such", True])
def test_a_checkpoint_that_is_not_there_is_said_to_be_so(folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    name = name.format(folder=folder) if isinstance(name, str) else name
    settings = settings_of(folder, tmp_path / "run", max_steps=1, resume_from_checkpoint=name)
    with pytest.raises(FileNotFoundError, match="There is no (complete )?checkpoint"):
        main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_checkpoint_without_optimizer_is_not_gone_on_from(folder, tmp_path):
    settings = settings_of(folder, tmp_path / "run", max_steps=2, save_steps=1, save_only_model=True)
    main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])
    before = weights(tmp_path / "run")
    for more in ({}, {"resume_from_checkpoint": str(tmp_path / "run" / "checkpoint-1")}):
        with pytest.raises(ValueError, match="has no state of the optimizer"):
            main(["--config", str(write_config(tmp_path / "config.yaml", **(settings | {"max_steps": 4} | more)))])
    # a finished model is no checkpoint either
    with pytest.raises(ValueError, match="has no state of the optimizer"):
        again = settings | {"resume_from_checkpoint": str(tmp_path / "run"), "output_dir": str(tmp_path / "again")}
        main(["--config", str(write_config(tmp_path / "config.yaml", **again))])
    assert weights(tmp_path / "run") == before


@pytest.mark.slow
def test_a_run_goes_on_from_its_newest_checkpoint_when_told_so(folder, tmp_path):
    settings = settings_of(folder, tmp_path / "run", max_steps=2, save_steps=1)
    main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])
    settings |= {"max_steps": 3, "resume_from_checkpoint": True}
    main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3]


def test_the_newest_checkpoint_is_that_of_the_latest_time(tmp_path):
    for number, name in enumerate(("1", "4", "2", "9-old")):
        (tmp_path / f"checkpoint-{name}").mkdir()
        (tmp_path / f"checkpoint-{name}" / COMPLETE_FILE).touch()
        os.utime(tmp_path / f"checkpoint-{name}" / COMPLETE_FILE, (number, number))
    # as of a run that went back to step 1
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


@pytest.mark.slow
def test_folders_of_other_names_are_left_alone(folder, tmp_path):
    settings = settings_of(folder, tmp_path / "run", max_steps=3, save_steps=1, save_total_limit=1)
    for name in ("best", "2-keep"):
        (tmp_path / "run" / f"checkpoint-{name}").mkdir(parents=True)
    main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])
    left = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert left == {"checkpoint-best", "checkpoint-2-keep", "checkpoint-3"}


@pytest.mark.slow
def test_what_cannot_be_trained_is_said_before_anything_is_encoded(folder, tmp_path, capsys):
    code, _, err = run_again(capsys, folder, tmp_path, padding_free=True, code_cache_dir=str(tmp_path / "codes"))
    assert code == 1 and "`padding_free=True` has an effect with flash attention alone" in err
    code, _, err = run_again(capsys, folder, tmp_path, resume_from_checkpoint=False)
    assert code == 1 and "To begin anew, give another `output_dir`" in err
    shutil.copytree(folder / "corpus", tmp_path / "corpus")
    lines = (tmp_path / "corpus" / "conversations.jsonl").read_text().splitlines(keepends=True)
    messages = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "It is <|im_end|> four."}]
    row = json.dumps({"id": "bad", "split": "train", "messages": messages})
    (tmp_path / "corpus" / "conversations.jsonl").write_text("".join([*lines[:2], row + "\n", *lines[2:]]))
    places = {"dataset_name": str(tmp_path / "corpus"), "code_cache_dir": str(tmp_path / "codes")}
    for num_proc in (None, 2):
        code, _, err = run_again(capsys, folder, tmp_path, **places, dataset_num_proc=num_proc)
        assert code == 1 and "The conversation 3, which begins 'Hi!', is no example: " in err
        assert "control mark <|im_end|>" in err
    model = {"model_name_or_path": str(tmp_path), "text_config": None, "codec_name_or_path": None}
    code, _, err = run_again(capsys, folder, tmp_path, **model, use_peft=True, push_to_hub=True)
    assert code == 1 and f"for adapters of a model on the Hub, but {tmp_path} is a folder here" in err
    assert not list((tmp_path / "codes").rglob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("max_steps", [3, 2])
def test_a_checkpoint_that_was_deleted_in_part_takes_the_place_of_none(folder, tmp_path, max_steps):
    settings = settings_of(folder, tmp_path / "run", max_steps=2, save_steps=1, save_total_limit=2)
    main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])
    # as a kill in the midst of its deletion leaves it: it was changed last
    shutil.copytree(tmp_path / "run" / "checkpoint-2", tmp_path / "run" / "checkpoint-0")
    (tmp_path / "run" / "checkpoint-0" / COMPLETE_FILE).unlink()
    os.utime(tmp_path / "run" / "checkpoint-0", (time.time() + 60, time.time() + 60))
    settings |= {"max_steps": max_steps}
    main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])
    left = {f"checkpoint-{max_steps - 1}", f"checkpoint-{max_steps}"}
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == left


@pytest.mark.slow
def test_what_was_measured_goes_with_the_weights_it_was_measured_with(folder, tmp_path):
    def run(seed):
        settings = settings_of(folder, tmp_path / "run", stage=1, max_steps=1, save_strategy="no", seed=seed)
        main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])

    run(seed=0)
    (tmp_path / "run" / "results.json").write_text('{"modes": {}}')
    run(seed=0)
    assert (tmp_path / "run" / "results.json").is_file()
    run(seed=1)
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
def test_what_was_measured_goes_when_a_run_goes_on_for_more_steps(folder, tmp_path, capsys):
    run_again(capsys, folder, tmp_path, max_steps=1)
    modes = {"vanilla": {"speed": {"tokens_per_second": 9.0}}}
    (tmp_path / "run" / "results.json").write_text(json.dumps({"modes": modes}))
    (tmp_path / "run" / "results.png").write_bytes(b"picture")
    (tmp_path / "run" / "benchmarks.json").write_text('{"benchmarks": {}}')
    run_again(capsys, folder, tmp_path, max_steps=1)
    assert "Measured on held-out data" in (tmp_path / "run" / "README.md").read_text()
    # the first step after the end of a schedule has no learning rate
    run_again(capsys, folder, tmp_path, max_steps=3)
    assert "Not measured" in (tmp_path / "run" / "README.md").read_text()
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & {"results.json", "results.png", "benchmarks.json"}


@pytest.mark.slow
def test_a_language_model_keeps_its_text(folder, tmp_path):
    tokenizer = train_tokenizer(TEXTS, 300, 1)
    size = len(tokenizer) - 4  # without those for speech
    torch.manual_seed(0)
    language_model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=size, **{k: v for k, v in TINY_TEXT_CONFIG.items() if k != "model_type"})
    )
    language_model.save_pretrained(tmp_path / "llm")
    text_tokenizer = type(tokenizer)(
        vocab={token: i for token, i in tokenizer.get_vocab().items() if i < size},
        merges=[tuple(merge) for merge in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    assert len(text_tokenizer) == size
    text_tokenizer.save_pretrained(tmp_path / "llm")

    codec = AutoModel.from_pretrained(folder / "codec")
    model, processor = build_from_language_model(str(tmp_path / "llm"), codec)
    input_ids = torch.tensor([text_tokenizer("What is two plus two?").input_ids])
    assert processor.tokenizer("What is two plus two?").input_ids == input_ids[0].tolist()
    with torch.no_grad():
        ours, theirs = model(input_ids).logits, language_model(input_ids).logits
    torch.testing.assert_close(ours[..., :size], theirs)
    config = model.config
    assert config.speech_token_offset + config.num_speech_tokens <= config.text_config.vocab_size == ours.shape[-1]

    settings = settings_of(folder, tmp_path / "run", model_name_or_path=str(tmp_path / "llm"), text_config=None)
    main(["--config", str(write_config(tmp_path / "config.yaml", **settings, max_steps=1, save_strategy="no"))])
    assert AutoModel.from_pretrained(tmp_path / "run").config.num_mctp_modules == 0


def test_a_start_needs_something_to_start_from(folder, tmp_path):
    def run(**settings):
        settings = settings_of(folder, tmp_path / "run", **settings)
        main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])

    with pytest.raises(ValueError, match="Give a `model_name_or_path`"):
        run(text_config=None)
    with pytest.raises(ValueError, match="codec_name_or_path"):
        run(codec_name_or_path=None)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"model_name_or_path": "somewhere"}, "`text_config` is for a start from nothing"),
        ({"model_revision": "stage1"}, "`model_revision` is of a `model_name_or_path` on the Hub"),
        ({"dtype": "float33"}, "`dtype` must be a type of torch"),
        ({"tasks": ["asr", "zzz"]}, "the tasks .'zzz'.; its tasks are .'asr', 'sqa', 'tqa', 'tts'."),
    ],
)
def test_settings_of_a_start_without_an_effect_are_refused(folder, tmp_path, settings, message):
    config = write_config(tmp_path / "config.yaml", **settings_of(folder, tmp_path / "run", max_steps=1, **settings))
    with pytest.raises(ValueError, match=message):
        main(["--config", str(config)])


def test_a_branch_that_cannot_be_is_refused_before_the_work(folder, tmp_path):
    settings = settings_of(folder, tmp_path / "run", stage=1, push_to_hub=True, hub_revision="stage 1")
    with pytest.raises(ValueError, match="'stage 1' cannot be the name of a branch"):
        main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])


@pytest.mark.slow
def test_a_codec_beside_a_model_that_has_one_is_refused(folder, tmp_path):
    settings = settings_of(folder, tmp_path / "run", max_steps=1)
    main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])
    del settings["text_config"]
    settings |= {"stage": 2, "model_name_or_path": str(tmp_path / "run"), "output_dir": str(tmp_path / "next")}
    with pytest.raises(ValueError, match="`codec_name_or_path` has no effect"):
        main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])


@pytest.mark.slow
def test_a_language_model_without_the_marks_of_a_chat_learns_to_end(folder, tmp_path):
    """As Llama's base models, which end with a token of their own and have no ChatML."""
    tokenizer = train_tokenizer(TEXTS, 300, 1)
    size = len(tokenizer) - 6  # without those of chats and speech
    text_tokenizer = type(tokenizer)(
        vocab={token: i for token, i in tokenizer.get_vocab().items() if i < size},
        merges=[tuple(merge) for merge in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]],
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    text_tokenizer.save_pretrained(tmp_path / "llm")
    config = {k: v for k, v in TINY_TEXT_CONFIG.items() if k != "model_type"}
    language_model = Qwen2ForCausalLM(Qwen2Config(vocab_size=size, **config))
    language_model.generation_config.eos_token_id = text_tokenizer.eos_token_id
    language_model.save_pretrained(tmp_path / "llm")
    model, processor = build_from_language_model(str(tmp_path / "llm"), AutoModel.from_pretrained(folder / "codec"))
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    messages = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "It is four."}]
    example = processor.build_training_example(messages)
    assert [label for label in example["labels"] if label != -100][-2:].count(end) == 1 and end >= size
    assert model.generation_config.eos_token_id == [end, text_tokenizer.eos_token_id]
    assert processor.tokenizer.eos_token_id == end < model.config.speech_token_offset


def run_again(capsys, folder, tmp_path, **settings):
    """Starts the run in `tmp_path / "run"`, again, and returns what it prints."""
    settings = {"stage": 4, "max_steps": 2, "save_steps": 1} | settings
    settings = settings_of(folder, tmp_path / "run", **settings)
    capsys.readouterr()
    code = run_command(main, PROG, ["--config", str(write_config(tmp_path / "config.yaml", **settings))])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()[-1] if code else ""


@pytest.mark.slow
def test_a_run_says_that_it_is_over_or_goes_on_and_what_was_changed(folder, tmp_path, capsys):
    code, out, _ = run_again(capsys, folder, tmp_path)
    assert code == 0 and "Going on" not in out
    card, before = (tmp_path / "run" / "README.md").read_text(), weights(tmp_path / "run")
    code, out, _ = run_again(capsys, folder, tmp_path)
    assert code == 0 and f"The run in {tmp_path / 'run'} is over since step 2: nothing is trained.\n" in out

    for changed, said in (
        ({"learning_rate": 5e-4}, "learning_rate from 0.001 to 0.0005"),
        ({"tasks": ["asr"]}, "tasks from None to ['asr']"),
        ({"adam_epsilon": 1e-6, "seed": 1}, "seed from 42 to 1, adam_epsilon from None to 1e-06"),
        ({"max_steps": 1}, "max_steps from 2 to 1"),
        ({"interleave_tts": True, "mctp_detach": True}, "interleave_tts from None to True, mctp_detach from None to"),
    ):
        code, out, err = run_again(capsys, folder, tmp_path, **changed)
        assert code == 1 and "is over since step 2, and its weights were made with other settings: " in err
        assert said in err and err.endswith("To train with the new ones, give another `output_dir`.")
        assert (tmp_path / "run" / "README.md").read_text() == card and weights(tmp_path / "run") == before
    # what does not make the weights may be given anew, and what made them stays in the card
    code, out, _ = run_again(capsys, folder, tmp_path, logging_steps=2)
    assert code == 0 and "is over" in out
    assert (tmp_path / "run" / "README.md").read_text() == card

    code, out, _ = run_again(capsys, folder, tmp_path, max_steps=3, learning_rate=5e-4)
    line = f"Going on from {tmp_path / 'run' / 'checkpoint-2'}, after step 2 of 3. Changed from here on: "
    assert code == 0 and line + "learning_rate from 0.001 to 0.0005, max_steps from 2 to 3.\n" in out
    changed = (
        "Up to step 2 it had other settings; changed there: learning_rate from 0.001 to 0.0005, max_steps from 2 to 3."
    )
    assert changed in (tmp_path / "run" / "README.md").read_text()
    # and is still known when the run is looked at once more
    code, out, _ = run_again(capsys, folder, tmp_path, max_steps=3, learning_rate=5e-4)
    assert code == 0 and "is over since step 3" in out and changed in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.slow
def test_settings_of_the_optimizer_that_were_changed_count_from_there_on(folder, tmp_path, capsys):
    """All that the checkpoint has of them is what came before."""
    schedule = {"lr_scheduler_type": "linear", "warmup_steps": 0}
    run_again(capsys, folder, tmp_path, **schedule, mctp_learning_rate_multiplier=3.0)
    settings = {"learning_rate": 1e-5, "weight_decay": 0.3, "adam_beta2": 0.9, "mctp_learning_rate_multiplier": 2.0}
    code, *_ = run_again(capsys, folder, tmp_path, **schedule, **settings, max_steps=4)
    assert code == 0
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    # those of two steps, and then of the last two of four
    assert rates == pytest.approx([1e-3, 5e-4, 5e-6, 2.5e-6])
    groups = torch.load(tmp_path / "run" / "checkpoint-4" / "optimizer.pt", weights_only=True)["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}
    assert all(tuple(group["betas"]) == (0.9, 0.9) for group in groups)
    assert {group["initial_lr"] for group in groups} == {1e-5, 2e-5}


@pytest.mark.slow
def test_with_the_best_checkpoint_the_newest_stays_too(folder, tmp_path, capsys):
    settings = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "save_total_limit": 1}
    # the loss rises, so the first is the best
    settings |= {"metric_for_best_model": "eval_loss", "greater_is_better": True, "max_steps": 3}
    code, *_ = run_again(capsys, folder, tmp_path, **settings)
    best = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert code == 0
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {Path(best).name, "checkpoint-3"}
    code, out, _ = run_again(capsys, folder, tmp_path, **settings)
    assert code == 0 and "is over since step 3: nothing is trained." in out
    # the model is the best one, also where the run was killed before it had written it
    assert weights(tmp_path / "run") == weights(tmp_path / "run" / best) != weights(tmp_path / "run" / "checkpoint-3")
    (tmp_path / "run" / "model.safetensors").unlink()
    run_again(capsys, folder, tmp_path, **settings)
    assert weights(tmp_path / "run") == weights(tmp_path / "run" / best)
    # and in another place
    (there := tmp_path / "there").mkdir()
    shutil.move(tmp_path / "run", there / "run")
    (there / "run" / "model.safetensors").unlink()
    run_again(capsys, folder, there, **settings)
    assert weights(there / "run") == weights(there / "run" / best)


@pytest.mark.slow
def test_losses_of_an_evaluation_are_those_of_the_held_out_conversations_alone(folder, tmp_path, capsys):
    shutil.copytree(folder / "corpus", tmp_path / "corpus")
    path = tmp_path / "corpus" / "conversations.jsonl"
    path.write_text(path.read_text().replace('"split": "test"', '"split": "dev"'))
    settings = {"dataset_name": str(tmp_path / "corpus"), "dataset_test_split": "dev", "eval_strategy": "steps"}
    # what is done to the conversations that are trained on, and all others in one batch
    settings |= {"num_disturbed_copies": 1, "heard_code_noise": 0.5, "gradient_accumulation_steps": 2}
    settings |= {"eval_steps": 2, "per_device_eval_batch_size": 64, "mctp_loss_weight": 0.5}
    code, *_ = run_again(capsys, folder, tmp_path, **settings)
    assert code == 0
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    (logged,) = (
        {name: value for name, value in entry.items() if "loss" in name} for entry in log if "eval_loss" in entry
    )

    model = AutoModel.from_pretrained(tmp_path / "run").eval()
    processor = VitaAudioProcessor.from_pretrained(tmp_path / "run")
    conversations = load_conversations(tmp_path / "corpus", "dev", cache_dir=tmp_path)
    rows = build_training_dataset(conversations, processor, tmp_path / "codes", max_length=128)
    assert len(rows) == 24
    sums, numbers = torch.zeros(6), torch.zeros(6)
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        with torch.no_grad():
            outputs = model(ids, labels=labels)
        targets = torch.tensor([(labels[:, shift:] != -100).sum() for shift in range(1, 7)])
        sums += targets * torch.stack([outputs.lm_loss, *outputs.mctp_losses])
        numbers += targets
    lm_loss, *mctp_losses = (sums / numbers).tolist()
    expected = {"eval_loss": lm_loss + 0.5 * sum(mctp_losses) / 5, "eval_lm_loss": lm_loss}
    expected |= {f"eval_mctp_loss_{k}": loss for k, loss in enumerate(mctp_losses, 1)}
    assert logged == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_checkpoints_of_others_are_named_and_left_alone(folder, tmp_path, capsys):
    (tmp_path / "run" / "checkpoint-500").mkdir(parents=True)
    code, out, _ = run_again(capsys, folder, tmp_path, save_total_limit=1)
    assert code == 0 and "has checkpoint-500, which no run of ours has written to its end" in out
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-500", "checkpoint-2"}


@pytest.mark.slow
@pytest.mark.parametrize("max_steps", [1, 2])
def test_a_run_that_was_stopped_is_not_said_to_be_over(folder, tmp_path, capsys, max_steps):
    code, *_ = run_again(capsys, folder, tmp_path, max_steps=3)
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")
    for path in (tmp_path / "run").glob("*.*"):
        path.unlink()
    code, _, err = run_again(capsys, folder, tmp_path, max_steps=max_steps)
    assert code == 1 and err.endswith(
        f"The run in {tmp_path / 'run'} was stopped after step 2 of 3, and {max_steps} are asked for: ask for more "
        "than 2, or give another `output_dir`."
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed, said",
    [
        ({"text_config": TINY_TEXT_CONFIG | {"hidden_size": 48, "attention_dropout": 0.1}}, "hidden_size 32, not 48"),
        ({"num_mctp_modules": 7}, "num_mctp_modules 5, not 7"),
        ({"text_vocab_size": 330}, "text_vocab_size 320, not 330"),
        ({"stage": 1}, "stage 4, not 1"),
        ({"text_config": TINY_TEXT_CONFIG}, "attention_dropout 0.1, not 0.0"),
    ],
)
def test_a_run_of_other_sizes_is_not_gone_on_with(folder, tmp_path, capsys, changed, said):
    run_again(capsys, folder, tmp_path, max_steps=1)
    before = weights(tmp_path / "run")
    code, _, err = run_again(capsys, folder, tmp_path, **changed)
    assert code == 1 and said in err and "would go on from" in err and "another `output_dir`" in err
    assert weights(tmp_path / "run") == before


def hostile_pickle(path):
    """What runs a command where it is unpickled without care."""

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {path.parent / 'harmed'}",)

    torch.save({"state": Hostile(), "python": Hostile()}, path)


def other_state(path):
    torch.save({"state": {}, "param_groups": [{"params": [0, 1, 2]}]}, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, spoil, said",
    [
        ("optimizer.pt", hostile_pickle, "state of the optimizer in .*checkpoint-1 .*is broken"),
        ("optimizer.pt", other_state, "state of the optimizer in .*checkpoint-1 .*is broken"),
        ("scheduler.pt", hostile_pickle, "state of the optimizer in .*scheduler.pt.*is broken"),
        ("scheduler.pt", lambda path: path.unlink(), "has no state of the optimizer and the learning rate"),
        ("scheduler.pt", lambda path: torch.save([], path), "scheduler.pt.*is broken"),
        ("rng_state.pth", hostile_pickle, "state of the random numbers in .*is broken"),
        ("rng_state.pth", lambda path: path.write_bytes(b"PK\x03\x04"), "state of the random numbers in .*is broken"),
        ("rng_state.pth", lambda path: torch.save({"python": 3}, path), "state of the random numbers in .*is broken"),
        ("trainer_state.json", lambda path: path.write_text("[" * 100_000), "trainer_state.json is not JSON"),
        ("trainer_state.json", lambda path: path.write_text('{"log_history": [], "steps": 3}'), "trainer_state.json"),
        ("trainer_state.json", lambda path: path.write_text('{"log_history": 3}'), "trainer_state.json is not as"),
        ("trainer_state.json", lambda path: path.unlink(), "There is no .*trainer_state.json"),
        ("training_args.json", lambda path: path.write_text("{"), "training_args.json is not JSON"),
        ("model.safetensors", lambda path: path.write_bytes(b"cut off"), "weights of .*checkpoint-1. cannot be read"),
        ("config.json", lambda path: path.write_text("{"), "checkpoint-1"),
    ],
)
def test_a_spoilt_checkpoint_is_named_in_one_line(folder, tmp_path, capsys, name, spoil, said):
    if not (folder / "spoilt").is_dir():
        (folder / "spoilt").mkdir()
        run_again(capsys, folder, folder / "spoilt", max_steps=1)
    shutil.copytree(folder / "spoilt" / "run", tmp_path / "run")
    spoil(tmp_path / "run" / "checkpoint-1" / name)
    before = sorted((tmp_path / "run").rglob("*"))
    code, _, err = run_again(capsys, folder, tmp_path)
    assert code == 1 and re.search(said, err), err
    assert (
        sorted((tmp_path / "run").rglob("*")) == before and not (tmp_path / "run" / "checkpoint-1" / "harmed").exists()
    )


@pytest.mark.slow
def test_a_pickle_of_arguments_is_not_read(folder, tmp_path, capsys):
    run_again(capsys, folder, tmp_path, max_steps=1)
    hostile_pickle(tmp_path / "run" / "checkpoint-1" / "training_args.bin")
    assert run_again(capsys, folder, tmp_path)[0] == 0
    assert not (tmp_path / "run" / "checkpoint-1" / "harmed").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, said",
    [
        ("", "must have lines `name: value`"),
        ("- stage\n", "must have lines `name: value`"),
        ("3: 4\n", "must have lines `name: value`"),
        ("stage: !!python/object/apply:os.system ['touch harmed']", "line 1 .*python/object"),
        ("a: &a [1]\nb: *a", "line 2 .*aliases are not taken"),
        ("a: &a [*a]", "line 1 .*aliases are not taken"),
        ("stage: 1\nseed: 2\nstage: 3", "line 3 .*`stage` comes twice"),
        ("text_config:\n  hidden_size: 1\n  hidden_size: 2", "line 3 .*`hidden_size` comes twice"),
        ("seed: 2\nstege: 1", "line 2: there is no setting `stege`; did you mean `stage`"),
        ("stage: one", "line 1: `stage` must be int, got 'one'"),
        ("stage: [1]", "line 1: `stage` must be int"),
        ("stage: 1.5", "line 1: `stage` must be int"),
        ("tasks: asr", "line 1: `tasks` must be list"),
        ("learning_rate: .nan", "line 1: `learning_rate` has a number that is not finite"),
        ("text_config: {hidden_size: 1e400}", "line 1: `text_config` has a number|`text_config`"),
        (f"seed: {'9' * 5000}", "cannot be read|too large"),
        (f"seed: {'9' * 50}", "line 1: `seed` has a number that is not finite, or too large"),
        (f"tasks: {'[' * 5000}", "nested too deeply"),
        ("stage: 1\ntasks:\n\t- b", "line 3 is no YAML"),
        ("env: [1]", "line 1: `env` must be dict"),
        ("num_threads: 0", "`num_threads` must be at least 1"),
        ("gradient_accumulation_steps: 0", "`gradient_accumulation_steps` must be at least 1"),
        ("pad_to_multiple_of: 0", "`pad_to_multiple_of` must be at least 1"),
        ("optim_args: x", "What `optim`, `optim_args` and the other"),
        ("lr_scheduler_kwargs: {a: 1}", "What `lr_scheduler_type` and `lr_scheduler_kwargs` say"),
        # what transformers, accelerate and TRL refuse: as they are parsed, and as the trainer is made
        ("warmup_steps: -5", "The settings are refused: Got warmup_steps = -5"),
        ("accelerator_config: {nonsense: 1}", "The settings are refused: .*unexpected keyword argument 'nonsense'"),
        ("seed: -1", "The settings are refused: Seed must be between"),
        ("report_to: nonsense", "The settings are refused: nonsense is not supported"),
        ("gradient_checkpointing_kwargs: x", "`gradient_checkpointing_kwargs` must be a mapping"),
        ("text_vocab_size: 1000000000", "`text_vocab_size` must be between"),
        ("dtype: int8", "`dtype` must be a type of torch"),
        ("text_config: {model_type: bert}", "What `text_config` or"),
        ("text_config: {model_type: qwen2, hidden_size: 32, num_attention_heads: 0}", "What `text_config` or"),
    ],
)
def test_settings_that_are_none_are_named_in_one_line(folder, tmp_path, monkeypatch, capsys, text, said):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(text)
    arguments = ["--config=config.yaml", "--dataset_name", str(folder / "corpus"), "--output_dir", "runs/run"]
    arguments += ["--codec_name_or_path", str(folder / "codec"), "--code_cache_dir", str(folder / "codes")]
    if "text_config" not in text:
        arguments += ["--text_config", json.dumps(TINY_TEXT_CONFIG)]
    assert run_command(main, PROG, [*arguments, "--use_cpu", "True", "--bf16", "False"]) == 1
    err = capsys.readouterr().err
    line = err.splitlines()[-1]
    assert line.startswith("training.train: error: ") and re.search(said, line) and "Traceback" not in err, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


@pytest.mark.slow
def test_errors_of_the_work_keep_their_traceback(folder, tmp_path, monkeypatch, capsys):
    """A bug that shows after hours must be found without another run; the system's words need no traceback."""
    config = write_config(
        tmp_path / "config.yaml", **settings_of(folder, tmp_path / "run", stage=1, max_steps=2, save_steps=1)
    )
    done = subprocess.run(
        [sys.executable, "-m", "training.train", "--config", config],
        cwd=ROOT,
        env=ENVIRONMENT | {"HF_DATASETS_CACHE": str(tmp_path / "cache")},
        preexec_fn=functools.partial(limit_files, 30_000),
        capture_output=True,
        text=True,
        timeout=300,
    )
    err = done.stderr
    assert done.returncode == 1 and "Traceback" not in err and re.search("(?i)too large|I/O", err.splitlines()[-1]), (
        err
    )

    compute_loss = VitaAudioForConditionalGeneration._loss

    def broken_loss(*args, **kwargs):
        compute_loss(*args, **kwargs)
        return int("four")

    monkeypatch.setattr(VitaAudioForConditionalGeneration, "_loss", broken_loss)
    assert run_command(main, PROG, ["--config", str(config)]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err and "in broken_loss" in err and "in training_step" in err
    line = err.splitlines()[-1]
    assert line == f"{PROG}: error: ValueError: invalid literal for int() with base 10: 'four'"


def test_bytes_that_are_no_text_are_no_settings(tmp_path, capsys):
    (tmp_path / "config.yaml").write_bytes(bytes(range(256)))
    assert run_command(main, PROG, ["--config", str(tmp_path / "config.yaml")]) == 1
    assert "config.yaml is no text in UTF-8" in capsys.readouterr().err


@pytest.mark.slow
def test_a_codec_that_is_none_is_named(folder, tmp_path, capsys):
    run_again(capsys, folder, tmp_path, max_steps=1)
    # a language model for a codec, and a stage's model whose codec is gone
    settings = settings_of(folder, tmp_path / "next", codec_name_or_path=str(tmp_path / "run"))
    assert run_command(main, PROG, ["--config", str(write_config(tmp_path / "config.yaml", **settings))]) == 1
    message = f"`codec_name_or_path`, {tmp_path / 'run'}, must be a speech codec, got a VitaAudio"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "next").exists()


@pytest.mark.slow
def test_an_optimizer_of_other_weights_is_named(folder, tmp_path, capsys):
    run_again(capsys, folder, tmp_path, max_steps=1)
    path = tmp_path / "run" / "checkpoint-1" / "optimizer.pt"
    state = torch.load(path, weights_only=True)
    state["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(state, path)
    code, _, err = run_again(capsys, folder, tmp_path)
    assert code == 1 and "exp_avg of the shape torch.Size([3]) for weights of torch.Size(" in err
