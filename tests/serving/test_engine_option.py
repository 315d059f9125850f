# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`vita-audio serve --engine`, as far as it goes without vLLM."""

from importlib.util import find_spec

import pytest

from serving.cli import main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "tensorrt"], "--engine is transformers, vllm or the URL of a server of vLLM, got 'tensorrt'"),
        (["--engine", "http://127.0.0.1:9"], "No server of vLLM answers at http://127.0.0.1:9"),
        (["--engine", "http://127.0.0.1:9", "--engine_options", '{"a": 1}'], "a server elsewhere has its own"),
    ],
    ids=["unknown", "nobody there", "options"],
)
def test_engines_that_are_refused(options, message, capsys):
    assert main(["serve", "--port", "0", *options]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize("engine", ["vllm", "http://127.0.0.1:9"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "0"], "--threads must be at least 1"),
        (["--device", "gpu0"], "--device must be such as cpu or cuda:0, got gpu0"),
        (["--revision", "main"], "--revision is for a Hub id"),
        (["--engine_options", '{"a": 1}', "--engine", "transformers"], "--engine_options are for --engine vllm"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_other_options_are_checked_as_for_the_engine_here(engine, options, message, capsys):
    assert main(["serve", "--port", "0", "--engine", engine, *options]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_that_is_not_installed_is_named(capsys):
    assert main(["serve", "--port", "0", "--engine", "vllm"]) == 1
    error = capsys.readouterr().err
    assert "--engine vllm needs vllm, which is not installed" in error and "Traceback" not in error


@pytest.mark.parametrize("text", ["{", "[1]", "1"])
def test_options_of_the_engine_are_a_json_object(text, capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--engine", "vllm", "--engine_options", text])
    assert "is no JSON" in capsys.readouterr().err
