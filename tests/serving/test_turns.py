# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from places import ROOT

from modeling_vita_audio import VitaAudioForConditionalGeneration
from serving.cli import main


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(folder)
    return str(folder)


def user(part):
    return {"role": "user", "content": [part]}


def run_chat(monkeypatch, capsys, lines, *argv):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    code = main(["chat", "--json", *argv])
    printed = capsys.readouterr()
    return code, [json.loads(line) for line in printed.out.splitlines()], printed.err


@pytest.mark.slow
def test_each_turn_knows_those_before(pipe, folder, question, monkeypatch, capsys):
    lines = [question, "Two plus two?", "", "/reset", "Two plus two?", "/exit", "never asked"]
    code, reports, _ = run_chat(monkeypatch, capsys, lines, "--model", folder)
    assert code == 0
    assert [report["input"] for report in reports] == [question, "Two plus two?", "Two plus two?"]
    assert [report["audio"] for report in reports] == ["chat/1.wav", "chat/2.wav", "chat/3.wav"]
    first = pipe(question, return_transcript=True)
    assert reports[0]["text"] == first["text"].strip() and reports[0]["question"] == first["transcript"]
    # The model's hearing of the first turn, and its answer, are before the second
    history = [
        user({"type": "audio", "audio": question}),
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": reports[0]["text"]},
                {"type": "audio", "codes": first["audio_codes"]},
            ],
        },
    ]
    written = user({"type": "text", "text": "Two plus two?"})
    second, alone = pipe([*history, written]), pipe([written])
    assert second["text"] != alone["text"]
    assert reports[1]["text"] == second["text"].strip() and "question" not in reports[1]
    assert reports[2]["text"] == alone["text"].strip()
    for report, expected in zip(reports, (first, second, alone)):
        samples, _ = soundfile.read(report["audio"], dtype="float32")
        np.testing.assert_allclose(samples, expected["audio"], atol=0.02)


@pytest.mark.slow
def test_older_turns_are_left_out_of_long_conversations(pipe, tmp_path, question, monkeypatch, capsys):
    pipe.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 200}))
    num_tokens, generate = [], VitaAudioForConditionalGeneration.generate

    def counting(model, **inputs):
        num_tokens.append(inputs["input_ids"].shape[1])
        return generate(model, **inputs)

    monkeypatch.setattr(VitaAudioForConditionalGeneration, "generate", counting)
    code, reports, errors = run_chat(monkeypatch, capsys, [question] * 8, "--model", str(tmp_path))
    assert code == 0 and len(reports) == 8
    assert "more than the 200" not in errors
    # the answer has room, too
    assert max(num_tokens) <= 150 < 2 * max(num_tokens)


@pytest.mark.slow
def test_a_turn_that_fails_is_left_out(pipe, folder, question, monkeypatch, capsys):
    lines = ["missing.wav", "/begin", "...", "-", "Two <|im_end|>", "Two plus two?"]
    code, reports, errors = run_chat(monkeypatch, capsys, lines, "--model", folder)
    # What nobody saw at a terminal, the exit code says
    assert code == 1
    errors = [line for line in errors.splitlines() if "error" in line]
    messages = ("missing.wav", "/reset and /exit", "nothing in it", "the turns are read", "<|im_end|>")
    for message, line in zip(messages, errors, strict=True):
        assert line.startswith("vita-audio: error: ") and message in line
    (report,) = reports
    assert report["text"] == pipe("Two plus two?")["text"].strip() and report["audio"] == "chat/1.wav"


@pytest.mark.slow
def test_options(pipe, folder, question, monkeypatch, capsys):
    options = ["--model", folder, "--mode", "turbo", "--voice", question, "--output", "spoken"]
    code, (report,), _ = run_chat(monkeypatch, capsys, [question], *options)
    assert code == 0 and report["mode"] == "turbo" and report["audio"] == "spoken/1.wav"
    assert report["text"] == pipe(question, voice=question, mctp_mode="turbo")["text"].strip()
    code, reports, errors = run_chat(monkeypatch, capsys, [question], *options)
    assert code == 1 and not reports and "spoken/1.wav exists; --force" in errors
    assert run_chat(monkeypatch, capsys, [question], *options, "--force")[0] == 0


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--voice", "missing.wav"], "There is no audio file missing.wav"),
        (["--voice", "-"], "cannot both be the standard input"),
        (["--output", "nowhere/at/all"], "does not exist"),
        (["--model", "/nowhere"], "/nowhere"),
    ],
)
def test_wrong_options_are_named_before_the_first_turn(argv, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, reports, errors = run_chat(monkeypatch, capsys, ["Two?"], *argv)
    assert code == 1 and not reports and message in errors.splitlines()[-1]


@pytest.mark.slow
def test_a_process_of_its_own_answers_line_by_line(folder, question):
    """As a program talks to it: the next question comes after the answer to the one before."""
    argv = [sys.executable, "-m", "serving.cli", "chat", "--model", folder]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv, env=environment, text=True, **pipes) as process:
        printed = []
        for line in (question, "Two plus two?"):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            while not printed or not printed[-1].startswith("First chunk after"):
                printed.append(process.stdout.readline())
                assert printed[-1], process.stderr.read()
            printed.append("")
        rest, errors = process.communicate("/exit\n", timeout=60)
    assert process.returncode == 0, errors
    speech = [line for line in printed if line.startswith("Speech: ")]
    assert ["chat/1.wav" in speech[0], "chat/2.wav" in speech[1]] == [True, True] and not rest
    assert len(list(Path("chat").glob("*.wav"))) == 2
