# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from full_disk import on_full_disk
from huggingface_hub import ModelCard
from places import ROOT

from processing.conversation_vita_audio import recognition_conversation, synthesis_conversation
from processing.pipeline_vita_audio import VitaAudioPipeline
from serving.cli import DEFAULT_MODEL, build_parser, main
from serving.loading import load_pipeline
from serving.speech import write_audio


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pipe.model.save_pretrained(folder)
    pipe.processor.save_pretrained(folder)
    return str(folder)


def run_json(capsys, *argv):
    assert main([*argv, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def assert_wav(path, expected):
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == expected["sampling_rate"]
    np.testing.assert_allclose(samples, expected["audio"], atol=0.02)


def test_answer(pipe, folder, question, capsys):
    report = run_json(capsys, "answer", question, "--model", folder)
    expected = pipe(question)
    assert report["text"] == expected["text"].strip() and report["mode"] == "boost"
    assert report["audio"] == "answer.wav" and report["sampling_rate"] == 16000
    assert_wav("answer.wav", expected)
    assert report["audio_seconds"] == len(expected["audio"]) / 16000
    assert 0 < report["first_chunk_seconds"] <= report["total_seconds"]
    assert report["real_time_factor"] == pytest.approx(report["total_seconds"] / report["audio_seconds"])


def test_the_model_is_loaded_as_the_options_say(folder):
    before = torch.get_num_threads()
    try:
        for dtype, threads in (("bfloat16", before + 1), ("float32", before)):
            loaded = load_pipeline(
                Namespace(model=folder, revision=None, device="cpu", dtype=dtype, threads=threads)
            ).model
            assert loaded.dtype == getattr(torch, dtype) and torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_answer_for_people(pipe, folder, question, capsys):
    assert main(["answer", question, "--model", folder, "--output", "spoken.wav"]) == 0
    out = capsys.readouterr().out
    assert pipe(question)["text"].strip() in out
    assert "spoken.wav" in out and "First chunk after" in out and "x real time" in out


@pytest.mark.slow
def test_options_of_the_generation(pipe, folder, question, capsys):
    report = run_json(capsys, "answer", question, "--model", folder, "--mode", "2,8", "--max-new-tokens", "30")
    assert report["mode"] == [2, 8]
    assert report["text"] == pipe(question, mctp_mode=[2, 8], max_new_tokens=30)["text"].strip()
    verified = ["answer", question, "--model", folder, "--mode", "2,8", "--max-new-tokens", "30", "--mctp-verify"]
    expected = pipe(question, mctp_mode=[2, 8], max_new_tokens=30, mctp_verify=[0, 1e-9])["text"].strip()
    assert run_json(capsys, *verified, "0,1e-9")["text"] == expected
    with pytest.raises(SystemExit):
        main([*verified, "2"])
    assert "'2' is no number from 0 to 1" in capsys.readouterr().err
    argv = ["answer", question, "--model", folder, "--seed"]
    texts = [run_json(capsys, *argv, seed)["text"] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.slow
def test_both_spellings_and_one_name(pipe, folder, question, capsys):
    argv = ["answer", question, "--model", folder]
    reports = [
        run_json(capsys, *argv, "--mctp_mode", "turbo", "--max_new_tokens", "30"),
        run_json(capsys, *argv, "--mctp-mode=turbo", "--max-new-tokens=30"),
        run_json(capsys, *argv, "--modes", "turbo", "--max-new_tokens", "30"),
    ]
    assert len({(report["text"], report["audio_seconds"]) for report in reports}) == 1
    assert reports[0]["mode"] == "turbo"
    assert run_json(capsys, *argv, "--dtype", "bfloat16")["audio_seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3", "a.WAV"])
def test_formats_of_the_output(pipe, folder, question, capsys, name):
    report = run_json(capsys, "answer", question, "--model", folder, "--output", name)
    assert soundfile.info(name).format == Path(name).suffix[1:].upper()
    assert soundfile.info(name).duration == pytest.approx(report["audio_seconds"], abs=0.1)


@pytest.mark.slow
def test_files_that_are_there_are_written_over_where_that_was_asked_for(folder, question, capsys):
    argv = ["answer", question, "--model", folder, "--output", "a.wav"]
    assert main(argv) == 0
    Path("a.wav").write_bytes(b"mine")
    assert main(argv) == 1
    assert "The output a.wav exists; --force writes over it." in capsys.readouterr().err
    assert Path("a.wav").read_bytes() == b"mine"
    assert main([*argv, "--force"]) == 0
    for _ in range(2):
        assert main(["answer", question, "--model", folder]) == 0


@pytest.mark.slow
def test_several_inputs_and_a_bad_one(pipe, folder, question, capsys):
    write_bad_files()
    shutil.copy(question, "second.wav")
    assert main(["answer", question, "short.wav", "missing.wav", "second.wav", "--model", folder, "--json"]) == 1
    captured = capsys.readouterr()
    reports = [json.loads(line) for line in captured.out.splitlines()]
    assert [(report["input"], report["audio"]) for report in reports] == [
        (question, "answer/question.wav"),
        ("second.wav", "answer/second.wav"),
    ]
    assert_wav("answer/question.wav", pipe(question))
    first, second = (line for line in captured.err.splitlines() if "warning" not in line)
    assert "short.wav lasts 0.010 s" in first and "no audio file missing.wav" in second
    assert main(["answer", question, "second.wav", "--model", folder, "-o", "mine"]) == 0
    assert sorted(path.name for path in Path("mine").iterdir()) == ["question.wav", "second.wav"]
    assert main(["answer", question, "./question.wav", "--model", folder]) == 0
    assert sorted(path.name for path in Path("answer").glob("*-*")) == ["1-question.wav", "2-question.wav"]


@pytest.mark.slow
def test_standard_input(pipe, folder, question, tmp_path):
    argv = [sys.executable, "-m", "serving.cli", "speak", "-", "--model", folder, "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(argv, input="Two plus two\n\nThree\n", env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    reports = map(json.loads, process.stdout.splitlines())
    assert [(report["input"], report["audio"]) for report in reports] == [
        ("Two plus two", "speech/1.wav"),
        ("Three", "speech/2.wav"),
    ]


@pytest.mark.parametrize(
    "config, hint",
    [
        ({"model_type": "qwen2_mtp"}, "`python -m modeling_vita_audio.convert_vita_audio_to_hf --input_dir"),
        ({"model_type": "glm4_voice_codec"}, "`vita-audio export --model MODEL --codec"),
    ],
)
def test_models_of_other_types_have_a_next_command(tmp_path, config, hint, capsys):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["answer", "--model", str(tmp_path)]) == 1
    assert hint in capsys.readouterr().err


@pytest.mark.slow
def test_a_lost_codec_can_be_put_back(folder, question, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    shutil.move(model / "audio_tokenizer", tmp_path / "codec")
    assert main(["answer", question, "--model", str(model)]) == 1
    assert "has no codec" in capsys.readouterr().err
    assert main(["export", "--model", str(model), "--codec", str(model), str(tmp_path / "whole")]) == 1
    assert f"--codec {model} must be a speech codec, got a VitaAudio" in capsys.readouterr().err
    assert main(["export", "--model", str(model), "--codec", str(tmp_path / "codec"), str(tmp_path / "whole")]) == 0
    assert main(["answer", question, "--model", str(tmp_path / "whole")]) == 0

    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "interleave_pattern": [2, 6]}))
    assert main(["export", "--model", str(model), "--codec", str(tmp_path / "codec"), str(tmp_path / "other")]) == 0
    layouts = [json.loads((tmp_path / name / "processor_config.json").read_text()) for name in ("whole", "other")]
    # where the config has no layout, it is that of the default mode of decoding
    assert [layout["interleave_pattern"] for layout in layouts] == [[1, 10, 4, 10], [2, 6]]

    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").unlink()
    assert main(["answer", question, "--model", str(model)]) == 1
    assert "has no tokenizer.json" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith("vita-audio 0.1.0, transformers 5.")


@pytest.mark.parametrize(
    "argv", [["--help"], ["answer", "--help"], ["answer", "missing.wav"], ["sing"], ["card", "--x"]]
)
def test_what_needs_no_model_loads_no_library(argv):
    program = (
        "import sys; from serving.cli import main\n"
        f"try: main({argv})\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert process.stdout.splitlines()[-1] == "[]", process.stderr


@pytest.mark.slow
def test_transcribe(pipe, folder, question, capsys):
    report = run_json(capsys, "transcribe", question, "--model", folder)
    assert report["text"] == pipe(recognition_conversation(question))["text"].strip()
    assert report["audio_seconds"] == 0.75 and report["first_chunk_seconds"] > 0 and "audio" not in report


@pytest.mark.slow
def test_a_model_that_ends_at_once_is_reported(pipe, folder, question, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "silent")
    path = tmp_path / "silent" / "generation_config.json"
    end = pipe.tokenizer.eos_token_id
    others = [i for i in range(pipe.model.config.text_config.vocab_size) if i != end]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"suppress_tokens": others}))
    assert main(["transcribe", question, "--model", str(tmp_path / "silent")]) == 0
    assert "Nothing written" in capsys.readouterr().out


@pytest.mark.slow
def test_speak(pipe, folder, question, capsys):
    report = run_json(capsys, "speak", "Two plus two", "--model", folder)
    expected = pipe(synthesis_conversation("Two plus two"))
    assert report["text"] == (expected["text"].strip() or "Two plus two") and report["audio"] == "speech.wav"
    assert_wav("speech.wav", expected)


@pytest.mark.slow
def test_speak_in_a_voice(pipe, folder, question, capsys):
    argv = ["speak", "Two plus two", "Four", "--model", folder, "--voice", question, "--json"]
    assert main(argv) == 0
    for report in map(json.loads, capsys.readouterr().out.splitlines()):
        expected = pipe(synthesis_conversation(report["input"]), voice=question)
        assert_wav(report["audio"], expected)
        assert expected["audio_codes"] != pipe(synthesis_conversation(report["input"]))["audio_codes"]


@pytest.mark.parametrize(
    "argv, message",
    [
        (["speak", "Two", "--voice", "missing.wav"], "There is no audio file missing.wav"),
        (["ask", "-", "--voice", "-"], "cannot both be the standard input"),
    ],
)
def test_a_voice_that_is_not_there_is_named_before_the_model_is_loaded(argv, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Two"))
    # a folder without a model, which loading would name
    assert main([*argv, "--model", "tests"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantized_weights(pipe, folder, question, capsys, tmp_path, quantization):
    pytest.importorskip("torchao")
    report = run_json(capsys, "answer", question, "--model", folder, "--quantization", quantization)
    quantized = type(pipe.model).from_pretrained(folder, quantization_config=quantization)
    expected = VitaAudioPipeline(quantized, processor=pipe.processor, device="cpu")(question)
    assert report["text"] == expected["text"].strip()
    assert_wav("answer.wav", expected)
    # in a folder of their own, which then says so itself
    measured, whole = shutil.copytree(folder, tmp_path / "measured"), str(tmp_path / "whole")
    (measured / "results.json").write_text('{"modes": {"boost": {"asr": {"wer": 0.125}}}}')
    assert main(["export", whole, "--model", str(measured), "--quantization", quantization]) == 0
    capsys.readouterr()
    card = Path(whole, "README.md").read_text()
    assert f"(`{quantization}`) by torchao" in card and '"torchao' in card
    # what was measured is of the weights as they were
    assert not Path(whole, "results.json").exists() and "12.5%" not in card and "Not measured" in card
    assert run_json(capsys, "answer", question, "--model", whole)["text"] == report["text"]
    assert main(["answer", question, "--model", whole, "--quantization", quantization]) == 1
    assert "quantised already" in capsys.readouterr().err


def test_quantized_weights_are_not_for_vllm(capsys):
    assert main(["serve", "--quantization", "int8", "--engine", "vllm", "--port", "0"]) == 1
    assert "--quantization is for --engine transformers" in capsys.readouterr().err


def test_export(pipe, folder, tmp_path, capsys):
    assert main(["export", str(tmp_path / "out"), "--model", folder]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert "custom_pipelines" in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("place", ["a folder", pytest.param("the Hub", marks=pytest.mark.hub)])
def test_an_export_keeps_what_the_card_says(place, folder, tmp_path, request):
    model, environment = shutil.copytree(folder, tmp_path / "model"), os.environ | {"PYTHONPATH": str(ROOT)}
    metadata = {
        **{"license": "other", "license_name": "theirs", "license_link": "LICENSE", "language": ["zh", "en"]},
        **{"base_model": "VITA-MLLM/VITA-Audio-Boost", "base_model_relation": "quantized"},
    }
    # by hand, as people do it
    (model / "README.md").write_text(f"---\n{json.dumps(metadata)}\n---\nMine.\n")
    (model / "results.json").write_text('{"modes": {"boost": {"asr": {"wer": 0.125}}}}')
    if place == "the Hub":
        hub = request.getfixturevalue("hub")
        hub.api().create_repo("vita/mini")
        hub.api().create_branch("vita/mini", branch="mine")
        hub.api().upload_folder(repo_id="vita/mini", folder_path=model, revision="mine")
        environment = hub.environment(tmp_path / "home", PYTHONPATH=str(ROOT))
    options = ["--model", "vita/mini", "--revision", "mine"] if place == "the Hub" else ["--model", str(model)]
    command = [sys.executable, "-m", "serving.cli", "export", *options, str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert metadata.items() <= card.data.to_dict().items()
    assert "**Converted from [`VITA-MLLM/VITA-Audio-Boost`]" in card.text and "Mine." not in card.text
    assert "| Speech recognition: word error rate | 12.5% |" in card.text


def test_export_whose_card_fails_leaves_nothing(folder, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    (model / "results.json").write_text("not JSON")
    assert main(["export", str(tmp_path / "out"), "--model", str(model)]) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command, package, extra", [("train", "trl", "train"), ("evaluate", "jiwer", "eval")])
def test_what_a_command_lacks_is_named(command, package, extra, tmp_path):
    # as if it were not installed
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module', name={package!r})\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-m", "serving.cli", command, "--help"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert (
        f'`vita-audio {command}` needs {package}, which is not installed; `pip install -e ".[{extra}]"`' in run.stderr
    )


def test_where_there_is_no_checkout_the_package_is_installed_by_its_name(tmp_path):
    """The modules of the command line, as a wheel brings them."""
    for name in ("hub_cards/__init__.py", "hub_cards/command_line.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    code = "from hub_cards.command_line import install_command; print(install_command('train'))"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == 'pip install "vita-audio[train]"', done.stderr


def test_without_a_file_the_shipped_sample_is_answered():
    arguments = build_parser().parse_args(["answer"])
    assert arguments.inputs == [str(DEFAULT_MODEL / "sample_question.wav")] and arguments.model == str(DEFAULT_MODEL)


def write_bad_files():
    soundfile.write("short.wav", np.zeros(160), 16000)
    soundfile.write("empty.wav", np.zeros(0), 16000)
    soundfile.write("silent.wav", np.zeros(16000), 16000)
    os.mkdir("folder.wav")
    Path("folder.wav", "question.wav").touch()
    soundfile.write("long.wav", np.zeros(8000 * 600), 8000, subtype="PCM_U8")
    soundfile.write("nan.wav", np.full(8000, np.nan), 16000, subtype="FLOAT")
    with open("corrupt.wav", "wb") as file:
        file.write(b"RIFF nothing")


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv, message",
    [
        (["answer", "missing.wav"], "no audio file missing.wav"),
        (["answer", "short.wav"], "short.wav lasts 0.010 s, shorter"),
        (["answer", "empty.wav"], "empty.wav is empty"),
        (["answer", "long.wav"], "long.wav lasts 600.0 s, longer than the limit"),
        (["answer", "nan.wav"], "nan.wav has NaN"),
        (["transcribe", "silent.wav"], "silent.wav is silent"),
        (["transcribe", "corrupt.wav"], "corrupt.wav is corrupt"),
        (["answer", "question.wav", "--output", "nowhere/a.wav"], "folder of the output nowhere/a.wav"),
        (["answer", "question.wav", "--output", "a.aiff"], "must end with .wav, .flac, .ogg, .mp3"),
        (["answer", "question.wav", "--output", "folder.wav"], "The output folder.wav/question.wav exists; --force"),
        (
            ["answer", "question.wav", "--output", "question.wav", "--force"],
            "The output question.wav is an input, too",
        ),
        (["answer", "question.wav", "second.wav", "--output", "c.wav"], "The output of several inputs is a folder"),
        (["answer", "folder.wav"], "folder.wav is a folder, and no audio file"),
        (["ask", "question.wav"], "question.wav is a file, but the command takes a text. `- < question.wav` takes"),
        (["speak", ""], "nothing in it to be spoken"),
        (["answer", "a.wav", "b.wav"], "no audio file a.wav, b.wav"),
        (["answer", "question.wav", "--output", "/proc/a.wav"], "/proc/a.wav cannot be written"),
        (
            ["answer", "question.wav", "--max-audio-seconds", "0.5"],
            "lasts 0.8 s, longer than the limit of max_audio_seconds = 0.5",
        ),
        (["answer", "question.wav", "--mode=-1,10"], "not negative"),
        (["answer", "question.wav", "--mode", "warp"], "warp"),
        (["answer", "question.wav", "--mode", "1,2,3"], "pairs"),
        (["answer", "question.wav", "--mode", "1,11"], "11 MCTP steps"),
        (["answer", "question.wav", "--max-new-tokens", "1"], "without speech"),
        (["answer", "question.wav", "--threads", "0"], "--threads must be at least 1"),
        (["answer", "question.wav", "--max_new_tokens", "0"], "--max_new_tokens must be at least 1"),
        (["ask", "Hi", "--seed", "-1"], "--seed must be between 0 and 4294967295"),
        (["speak", "say <|audio_3|>"], "<|audio_3|>"),
        (["speak", " . "], "nothing in it to be spoken"),
        (["export", "."], "not an empty folder"),
    ],
)
def test_errors_are_one_clear_line(folder, question, capsys, argv, message):
    write_bad_files()
    assert main([*argv, "--model", folder]) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("vita-audio: error: ") and message in line
    assert captured.out == ""


@pytest.mark.parametrize("option", ["threads", "max_new_tokens"])
def test_numbers_below_one_are_refused(option, capsys):
    assert main(["answer", f"--{option}", "0"]) == 1
    assert f"--{option} must be at least 1, got 0" in capsys.readouterr().err


def test_missing_model_and_gpu(question, folder, capsys):
    assert main(["answer", question, "--model", "./nothing"]) == 1
    assert "no folder or file './nothing'" in capsys.readouterr().err
    assert main(["answer", question, "--model", __file__]) == 1
    assert "--model takes a folder or a Hub id, but" in capsys.readouterr().err
    assert main(["answer", question, "--model", folder, "--device", "cuda:99"]) == 1
    assert "--device is cuda:99, but there are" in capsys.readouterr().err
    assert main(["answer", question, "--model", folder, "--device", "abacus"]) == 1
    assert "got abacus" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["sing"], ["speak"], ["answer", "a.wav", "--mode", "1,x"]])
def test_wrong_usage_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    assert "usage: vita-audio" in capsys.readouterr().err


@pytest.mark.parametrize("command, options", [("train", "--stage --hub_model_id"), ("evaluate", "--mctp_mode --sets")])
def test_train_and_evaluate_pass_their_arguments_on(command, options, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: ") and set(options.split()) <= set(re.findall(r"--\w+", said))


def test_what_an_answer_that_was_killed_has_left_goes_with_the_next(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".{socket.gethostname()}-{dead.pid}-wav.unfinished").write_bytes(b"half")
    write_audio(tmp_path / "a.wav", np.zeros(100), 16000)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.wav"]


@pytest.mark.slow
def test_full_disk_leaves_the_wav_as_it_was(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, np.zeros(100), 16000)
    before = path.read_bytes()
    with pytest.raises(OSError):
        on_full_disk(1000, write_audio, path, np.zeros(16000), 16000)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
