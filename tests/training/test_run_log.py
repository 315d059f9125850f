# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What whole runs leave, and how they compare."""

import json
import shutil

import pytest
from places import ROOT

from hub_cards.command_line import run_command
from training.evaluation import compare_runs
from training.run_log import read_log, write_run_log


SHIPPED = ROOT / "pretrained" / "vita-audio-mini"
TOKENIZER_LOG = json.loads((SHIPPED / "training_logs.json").read_text())["tokenizer"]


def write_record(folder, seed, seconds):
    record = {"recipe": "mini", "seed": seed, "smoke": False, "steps": {"corpus": {"seconds": seconds}}}
    (folder / "reproduction.json").write_text(json.dumps(record))


@pytest.fixture
def run(tmp_path):
    """A run of two trainings, one of which has its log in a checkpoint alone."""
    run = tmp_path / "run"
    for folder in ("tokenizer/checkpoint-3600", "tokenizer/checkpoint-3500", "stage4"):
        (run / folder).mkdir(parents=True)
    # an older checkpoint has less
    (run / "tokenizer/checkpoint-3500/complete").touch()
    (run / "tokenizer/checkpoint-3600/complete").touch()
    (run / "tokenizer/checkpoint-3500/trainer_state.json").write_text('{"log_history": []}')
    state = {"log_history": [row | {"learning_rate": 1e-3} for row in TOKENIZER_LOG]}
    (run / "tokenizer/checkpoint-3600/trainer_state.json").write_text(json.dumps(state))
    shutil.copyfile(SHIPPED / "trainer_state.json", run / "stage4/trainer_state.json")
    write_record(run, 3, 5400)
    return run


def test_logs_of_all_trainings(run, tmp_path):
    (tmp_path / "model").mkdir()
    shutil.copyfile(SHIPPED / "config.json", tmp_path / "model/config.json")
    write_run_log(run, ["tokenizer", "stage4"], tmp_path / "model")
    assert (tmp_path / "model/reproduction.json").read_text() == (run / "reproduction.json").read_text()
    assert (tmp_path / "model/training_logs.png").read_bytes()[:4] == b"\x89PNG"
    logs = json.loads((tmp_path / "model/training_logs.json").read_text())
    assert list(logs) == ["tokenizer", "stage4"]
    assert logs["tokenizer"] == TOKENIZER_LOG and any("eval_test_used_codes" in row for row in TOKENIZER_LOG)
    assert "mctp_loss_10" in logs["stage4"][0] and "learning_rate" not in logs["stage4"][0]
    assert read_log(run / "stage4") == logs["stage4"]
    card = (tmp_path / "model/README.md").read_text()
    assert "`python -m training.reproduce --recipe mini --seed 3`" in card and "| corpus | 1.50 |" in card
    assert "(training_logs.png)" in card

    (tmp_path / "model/README.md").write_text("My own card.\n")
    write_run_log(run, ["tokenizer", "stage4"], tmp_path / "model")
    assert (tmp_path / "model/README.md").read_text() == "My own card.\n"


def write_run(folder, seed, seconds, wer):
    results = json.loads((SHIPPED / "results.json").read_text())
    results["modes"]["boost"]["tts"]["wer"] = wer
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results))
    figures = {"clips": 9, "wer_original": 0.02, "wer_decoded": wer}
    if not seed:
        figures |= {"dnsmos_original": 3.1, "dnsmos_decoded": 2.9}
    (folder / "codec_results.json").write_text(json.dumps({"results": {"all": figures}}))
    write_record(folder, seed, seconds)
    return str(folder)


def test_runs_side_by_side(tmp_path, capsys):
    runs = [write_run(tmp_path / "a", 0, 36_000, 0.051), write_run(tmp_path / "b", 1, 18_000, 0.062)]
    readme = tmp_path / "README.md"
    readme.write_text("before <!-- runs table -->\n<!-- end of runs table --> after")
    compare_runs.main(["--runs", *runs, "--readme", str(readme)])
    printed = capsys.readouterr().out.strip()
    assert "| boost | seed 0 | seed 1 |" in printed
    assert "| TTS, WER | 5.1% | 6.2% |" in printed and "| Hours of the whole run | 10.0 | 5.0 |" in printed
    assert "| Codec, all: WER | 2.0% → 5.1% | 2.0% → 6.2% |" in printed
    assert "| Codec, all: DNSMOS | 3.10 → 2.90 | not measured |" in printed
    assert not any(line.startswith("| Codec") and "similarity" in line for line in printed.splitlines())
    assert printed in readme.read_text()


def test_runs_that_cannot_be_compared(tmp_path, capsys):
    run = write_run(tmp_path / "a", 0, 1, 0.05)
    arguments = ["--runs", run, "--mctp_mode"]
    assert run_command(compare_runs.main, compare_runs.PROG, [*arguments, "fast"]) == 1
    assert "not in fast" in capsys.readouterr().err
    (tmp_path / "a" / "reproduction.json").unlink()
    assert run_command(compare_runs.main, compare_runs.PROG, [*arguments, "boost"]) == 1
    assert "There is no" in capsys.readouterr().err
