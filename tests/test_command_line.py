# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json
import pickle

import jinja2
import pytest
import safetensors.numpy
import yaml

from hub_cards.command_line import ArgumentParser, run_command


@pytest.mark.parametrize(
    "provoke, message",
    [
        (lambda: int("four"), "invalid literal for int() with base 10: 'four'"),
        (lambda: open("no/such/file"), "No such file or directory: 'no/such/file'"),
        (lambda: __import__("no_such_module"), "No module named 'no_such_module'"),
        (lambda: jinja2.Template("{{ 1 / nothing }}").render(), "The chat template"),
        (lambda: yaml.safe_load("a: [1\nb"), "is broken"),
        (lambda: pickle.loads(b"garbage"), "is broken"),
        (lambda: safetensors.numpy.load(b"garbage"), "is broken"),
        (lambda: json.loads("[" * 100_000), "nested too deeply"),
    ],
)
def test_what_bad_input_leads_to_is_one_line(provoke, message, capsys):
    assert run_command(lambda argv: provoke(), "a.command") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("a.command: error: ") and message in line


@pytest.mark.parametrize("error", [KeyError("id"), IndexError(), AttributeError(), AssertionError(), RecursionError()])
def test_bugs_keep_their_traceback(error):
    def command(argv):
        raise error

    with pytest.raises(type(error)):
        run_command(command, "a.command")


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
