# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import importlib
import json
import pickle
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import jinja2
import numpy as np
import pytest
import safetensors.numpy
import torch
import yaml
from huggingface_hub.utils import validate_repo_id
from places import ROOT
from tiny_corpus import TINY_TEXT_CONFIG, write_corpus
from tiny_models import tiny_model, tiny_processor
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from hub_cards.command_line import OUR_PACKAGES, ArgumentParser, run_command
from hub_cards.push import check_branch, format_size
from processing.export import export_repository
from training import train
from training.evaluation import evaluate_held_out


@pytest.mark.parametrize(
    "provoke, message",
    [
        (lambda: check_branch("a..b"), "'a..b' cannot be the name of a branch"),
        (lambda: open("no/such/file"), "No such file or directory: 'no/such/file'"),
        (lambda: __import__("no_such_module"), "No module named 'no_such_module'"),
        (lambda: jinja2.Template("{{ 1 / nothing }}").render(), "The chat template"),
        (lambda: yaml.safe_load("a: [1\nb"), "is broken"),
        (lambda: pickle.loads(b"garbage"), "is broken"),
        (lambda: json.loads("{"), "is broken"),
        (lambda: b"\xff".decode(), "is broken"),
        (lambda: validate_repo_id("no id"), "Repo id"),
        (lambda: safetensors.numpy.load(b"garbage"), "is broken"),
        (lambda: json.loads("[" * 100_000), "nested too deeply"),
    ],
)
def test_what_bad_input_leads_to_is_one_line(provoke, message, capsys):
    assert run_command(lambda argv: provoke(), "a.command") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("a.command: error: ") and message in line


def raise_error(error):
    raise error


@pytest.mark.parametrize(
    "provoke, last_line",
    [
        (lambda: {}["id"], "KeyError: 'id'"),
        (lambda: raise_error(IndexError()), "IndexError: IndexError"),
        (lambda: raise_error(RecursionError()), "RecursionError: RecursionError"),
        # errors of types that bad input leads to, but raised by Python, a library and torch, and not by us
        (lambda: int("four"), "ValueError: invalid literal for int() with base 10: 'four'"),
        (lambda: "four" + 4, 'TypeError: can only concatenate str (not "int") to str'),
        (lambda: np.zeros(3).reshape(2), "ValueError: cannot reshape array of size 3 into shape (2,)"),
        (lambda: torch.zeros(3).view(2), "RuntimeError: shape '[2]' is invalid for input of size 3"),
        # our function, another one's error
        (lambda: format_size(None), "TypeError: float() argument must be a string or a real number, not 'NoneType'"),
    ],
)
def test_bugs_keep_their_traceback_above_the_line(provoke, last_line, capsys):
    assert run_command(lambda argv: provoke(), "a.command") == 1
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "Traceback (most recent call last):" and last == f"a.command: error: {last_line}"


def test_our_packages_are_all_known():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "pretrained"}
    assert packages <= OUR_PACKAGES == packages | {"transformers_modules", "benchmarks"}


def test_a_mistake_that_remote_code_finds_is_one_line(tmp_path, capsys):
    processor = tiny_processor()
    export_repository(tiny_model(processor), processor, tmp_path / "model")
    load_audio = get_class_from_dynamic_module("audio_vita_audio.load_audio", str(tmp_path / "model"))
    assert load_audio.__module__.startswith("transformers_modules.")
    capsys.readouterr()
    assert run_command(lambda argv: load_audio(3.5, 16000), "a.command") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("a.command: error: ")


def test_a_traceback_on_request():
    with pytest.raises(ValueError, match="four"):
        run_command(lambda argv: int(*argv), "a.command", ["four", "--traceback"])
    assert run_command(lambda argv: len(argv), "a.command", ["--traceback", "x"]) == 1


def test_interruption_and_exit_codes(capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    assert run_command(interrupted, "a.command") == 1
    assert capsys.readouterr().err == "a.command: error: interrupted\n"
    assert run_command(lambda argv: None, "a.command") == 0
    assert run_command(lambda argv: len(argv), "a.command", ["x", "y"]) == 2


def test_both_spellings_of_options():
    parser = ArgumentParser()
    parser.add_argument("--max_new_tokens", type=int)
    parser.add_argument("--output_dir")
    parser.add_argument("texts", nargs="*")
    for argv in (["--max-new-tokens", "3", "--output-dir=a-b"], ["--max_new_tokens=3", "--output_dir", "a-b"]):
        arguments = parser.parse_args(argv)
        assert (arguments.max_new_tokens, arguments.output_dir) == (3, "a-b")
    assert parser.parse_args(["--", "--not-an-option", "a-b"]).texts == ["--not-an-option", "a-b"]
    subcommand = parser.add_subparsers().add_parser("sub")
    subcommand.add_argument("--dry_run", action="store_true")
    assert type(subcommand) is ArgumentParser


def test_options_are_written_with_underscores():
    """Both spellings are read; help, README and examples have one, that of transformers and TRL."""
    packages = OUR_PACKAGES - {"transformers_modules"}
    files = [
        file for name in packages for kind in ("py", "yaml", "jinja") for file in (ROOT / name).rglob(f"*.{kind}")
    ]
    for path in [ROOT / "README.md", *files]:
        # commands of vLLM and pip have hyphens
        text = re.sub(
            r"^vllm serve .*$|pip install --no-deps", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        found = re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)+", text)
        assert not found, f"{path}: {found}"
    assert len(files) > 80


# Runs commands, one after the other, and prints how each ended.
DRIVER = """
import contextlib, importlib, io, json, os, sys
from hub_cards.command_line import run_command

for name, argv, token in json.load(open(sys.argv[1])):
    if token is not None:
        os.environ["HF_TOKEN"] = token
    module, err = importlib.import_module(name), io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = run_command(module.main, module.PROG, argv)
    lines = [line for line in err.getvalue().splitlines() if "error:" in line or line.startswith("Traceback")]
    print(json.dumps([name, code, lines]))
"""


class Nonsense(BaseHTTPRequestHandler):
    """A Hub whose answers are no answers."""

    def do_GET(self):
        body = b"<html>Log in to the Wi-Fi</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", "f" * 40)
        self.send_header("ETag", '"f"')
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_HEAD = do_POST = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def nonsense():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Nonsense)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("state", ["answering", "offline", "nonsense"])
def test_what_the_hub_refuses_is_one_line_from_every_command(hub, nonsense, state, tmp_path):
    corpus = str(write_corpus(tmp_path / "corpus", num_clips=4))
    for repo_type in ("model", "dataset"):
        hub.api().create_repo("vita/gated", repo_type=repo_type)
        hub.api().update_repo_settings("vita/gated", repo_type=repo_type, gated="manual")
    settings = ["--output_dir", "new/out", "--use_cpu", "True", "--code_cache_dir", str(tmp_path / "codes"), "--stage"]

    def jobs_for(repo, token=None):
        from_nothing = ["1", "--text_config", json.dumps(TINY_TEXT_CONFIG), "--dataset_name", corpus]
        dataset, scored = ["--dataset_name", repo], ["--output_dir", "new/out", "--model", repo]
        return [
            ("training.train", [*settings, "4", "--model_name_or_path", repo, "--dataset_name", corpus], token),
            ("training.train", [*settings, *from_nothing, "--codec_name_or_path", repo], token),
            ("training.train", [*settings, "4", "--model_name_or_path", repo, *dataset], token),
            ("training.evaluation.evaluate_held_out", [*scored, "--corpus_dir", corpus, "--sets", "asr"], token),
            ("training.evaluation.evaluate_benchmarks", [*scored, *dataset], token),
        ]

    jobs = jobs_for("vita/missing")
    if state == "answering":
        jobs += jobs_for("vita/gated", "") + jobs_for("vita/missing", "hf_" + "w" * 34)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    (tmp_path / "work").mkdir()
    variables = {"offline": {"HF_HUB_OFFLINE": "1"}, "nonsense": {"HF_ENDPOINT": nonsense}}.get(state, {})
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path / "jobs.json")],
        env=hub.environment(tmp_path / "home") | {"PYTHONPATH": str(ROOT)} | variables,
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reports = list(map(json.loads, done.stdout.splitlines()))
    assert len(reports) == len(jobs)
    for name, code, lines in reports:
        (line,) = lines
        assert code == 1 and line.startswith(f"{name}: error: ") and "vita/" in line, line
    assert not list((tmp_path / "work").iterdir())


def write_codec_checkpoint(folder):
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "vita_audio_codec", "voice_names": ["joe"]}')
    (folder / "phonemes.json").write_text("[" * 100_000)
    (folder / "model.safetensors").write_bytes(b"cut off")


@pytest.mark.parametrize(
    "module, argv, said",
    [
        ("training.codec.tokenizer", ["--config", "bad.yaml"], "bad.yaml, line 2: there is no setting `corpus`"),
        ("training.codec.tokenizer", ["--config", "codec.yaml"], "clips.jsonl, line 1 is not JSON"),
        ("training.codec.tokenizer", ["--config", "codec.yaml", "--corpus_dir", "no"], "no/clips.jsonl"),
        ("training.codec.decoder", ["--config", "bad.yaml"], "bad.yaml, line 2: there is no setting `corpus`"),
        ("training.evaluation.evaluate_codec", ["--codec", "no", "--corpus_dir", "bad"], "no folder or file 'no'"),
        (
            "training.evaluation.evaluate_codec",
            ["--codec", "spoilt", "--corpus_dir", "bad"],
            "clips.jsonl, line 1 is not JSON",
        ),
        (
            "training.evaluation.evaluate_codec",
            ["--codec", "spoilt", "--corpus_dir", "few"],
            "has 1 held-out clips of the codec's default voice, joe,",
        ),
        ("training.evaluation.corpus_benchmarks", ["--corpus_dir", "few"], "line 1 lacks `id`, which must be a text"),
        ("training.corpus.render", ["--limit", "0"], "limit must be at least 1"),
        ("training.assemble", ["--model", "no", "--sample_question", "q.wav"], "no audio file q.wav"),
        (
            "hub_cards.publish_corpus",
            ["--corpus_dir", "bad", "--repo_id", "a/b"],
            "conversations.jsonl, line 2 is not",
        ),
        (
            "hub_cards.publish_corpus",
            ["--corpus_dir", "few", "--repo_id", "a/b"],
            "clips.jsonl, line 1 lacks `duration`",
        ),
        ("modeling_vita_audio.convert_vita_audio_to_hf", ["--input_dir", "spoilt"], "model type"),
        ("processing.convert_glm4_voice_to_hf", ["--tokenizer_dir", "spoilt", "--decoder_dir", "bad"], "spoilt"),
    ],
)
def test_what_users_get_wrong_is_one_line_from_every_command(module, argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("output_dir: new/out\ncorpus: 3\n")
    Path("codec.yaml").write_text("corpus_dir: bad\noutput_dir: new/out\nuse_cpu: true\n")
    write_codec_checkpoint(tmp_path / "spoilt")
    row = '{"messages": [{"role": "user", "content": "Hi"}]}\n'
    clip = '{"path": "a.wav", "text": "Hi", "voice": "joe", "split": "test"}\n'
    for folder, clips, conversations in (
        ("bad", b"\xff\n", row.encode() + b"\xff\n"),
        ("few", clip.encode(), row.encode()),
    ):
        Path(folder).mkdir()
        Path(folder, "clips.jsonl").write_bytes(clips)
        Path(folder, "conversations.jsonl").write_bytes(conversations)
    before = sorted(tmp_path.rglob("*"))
    module = importlib.import_module(module)
    output = [] if "--config" in argv or "--repo_id" in argv or "--codec" in argv else ["--output-dir", "new/out"]
    assert run_command(module.main, module.PROG, [*argv, *output]) == 1
    err = capsys.readouterr().err
    line = err.splitlines()[-1]
    assert line.startswith(f"{module.PROG}: error: ") and said in line and "Traceback" not in err, err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_template_that_refuses_is_said_to_be_one(tmp_path, capsys):
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    corpus = write_corpus(tmp_path / "corpus", num_clips=4)
    for template, said in (
        ("{{ raise_exception('No talking here.') }}", "No talking here."),
        ("{% for %}", "chat template"),
        ("{{ messages[9].content.nothing }}", "chat template"),
    ):
        (tmp_path / "model" / "chat_template.jinja").write_text(template)
        argv = ["--model", str(tmp_path / "model"), "--corpus_dir", str(corpus), "--output_dir", str(tmp_path / "out")]
        assert run_command(evaluate_held_out.main, evaluate_held_out.PROG, [*argv, "--sets", "asr"]) == 1
        err = capsys.readouterr().err
        assert said in err.splitlines()[-1] and "Traceback" not in err
        argv = ["--stage", "4", "--model_name_or_path", str(tmp_path / "model"), "--dataset_name", str(corpus)]
        argv += [
            "--output_dir",
            str(tmp_path / "out"),
            "--code_cache_dir",
            str(tmp_path / "codes"),
            "--use_cpu",
            "True",
        ]
        assert run_command(train.main, train.PROG, [*argv, "--bf16", "False"]) == 1
        err = capsys.readouterr().err
        assert said in err.splitlines()[-1] and "Traceback" not in err
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_modules_that_are_run_do_so_by_one_function(tmp_path):
    modules = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for package in ("training", "hub_cards", "modeling_vita_audio", "processing", "serving")
        for path in sorted((ROOT / package).rglob("*.py"))
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]
    assert len(modules) == 18
    for name in modules:
        source = (ROOT / name.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        assert name == "serving.cli" or f'PROG = "{name}"\n' in source
        assert "sys.exit(run_command(main, PROG))\n" in source or "sys.exit(main())\n" in source
    done = subprocess.run(
        [sys.executable, "-m", "training.train", "--config", str(tmp_path / "none.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("training.train: ")]
    assert done.returncode == 1 and "none.yaml" in line and "Traceback" not in done.stderr
