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

import pytest
from places import ROOT

from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor, spoken_conversation
from training import reproduce
from training.corpus.general import WORDNET_FOLDER
from training.reproduce import RECIPE, Step


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
    monkeypatch.setattr(reproduce, "RECIPE", recipe)
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
    with pytest.raises(ValueError, match="begun with the seed 1: go on in the same way"):
        reproduce.reproduce(steps, seed=2)
    with pytest.raises(ValueError, match="begun with the seed 1"):
        reproduce.reproduce(steps, seed=1, is_smoke=True)


@pytest.mark.slow
def test_an_interrupt_stops_the_step(tmp_path):
    (tmp_path / "sleeping_step.py").write_text(
        "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    )
    script = (
        "import pathlib; from training import reproduce;"
        "reproduce.RECIPE = [reproduce.Step('sleeping', 1.0, ['sleeping_step'])];"
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


def test_settings_of_all_trainings_are_there():
    for step in RECIPE:
        if step.command[0] in reproduce.TRAININGS:
            assert (ROOT / "training/configs/mini" / f"{step.name}.yaml").is_file()


@pytest.mark.slow
@pytest.mark.skipif(
    not (WORDNET_FOLDER.is_dir() and all(map(shutil.which, ("espeak-ng", "flite", "text2wave"))))
    and "CI" not in os.environ,
    reason="what the corpus is made with is not installed (Debian: espeak-ng flite festival festvox-kdlpc16k "
    "wordnet-base)",
)
def test_the_whole_recipe_at_small_size(tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "training.reproduce", "--output_dir", str(run), "--smoke"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=1200)
    record = json.loads((run / "reproduction.json").read_text())
    assert all(step["tries"] == 1 and "finished" in step for step in record["steps"].values())
    results = json.loads((run / "vita-audio-mini" / "results.json").read_text())
    assert set(results["modes"]) == {"vanilla", "boost"}
    folder = run / "vita-audio-mini"
    processor = VitaAudioProcessor.from_pretrained(folder)
    assert processor.audio_tokenizer.config.tokenizer_config is not None
    conversation = spoken_conversation(str(folder / "sample_question.wav"))
    inputs = processor.apply_chat_template(conversation, tokenize=True, return_dict=True, add_generation_prompt=True)
    sequences = VitaAudioForConditionalGeneration.from_pretrained(folder).generate(**inputs, max_new_tokens=16)
    assert sequences.shape[1] > inputs["input_ids"].shape[1]
