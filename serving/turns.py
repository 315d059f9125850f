# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`vita-audio chat`: a conversation in the terminal, of texts and audio files, with the model in this process."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hub_cards.command_line import explain, fail

from .history import answer_message, as_asked, has_room
from .speech import check_output, check_voice, describe, load_prepared_pipeline, respond, showing_answer_warnings
from .spoken_text import can_be_said


if TYPE_CHECKING:
    import numpy as np

    from processing import VitaAudioPipeline


# Lines that are no turn
RESET, EXIT = "/reset", "/exit"
# The folder of the answers by default, in that where the command runs
DEFAULT_OUTPUT = "chat"
PROMPT = "> "


def chat(arguments: argparse.Namespace) -> int:
    """
    Runs the command. A turn that fails is named and left out of the conversation, which goes on.

    Args:
        arguments (`argparse.Namespace`): the command's arguments.

    Returns:
        `int`: 0, or 1 if a turn failed that did not come from a terminal, where nobody has seen why.

    Raises:
        ValueError, OSError: an option or the model is wrong.
    """
    folder = Path(arguments.output or DEFAULT_OUTPUT)
    check_output(folder / "1.wav", arguments.force or not arguments.output, is_folder_new=True)
    check_voice(arguments)
    pipe = load_prepared_pipeline(arguments)
    is_live = sys.stdin.isatty()
    if is_live:
        print(f"A question, or the name of an audio file; {RESET} begins anew, {EXIT} ends.", file=sys.stderr)
    history, num_answers, failed = [], 0, False
    while (line := read_line(is_live)) is not None and line != EXIT:
        if line == RESET:
            history = []
        elif line:
            output = folder / f"{num_answers + 1}.wav"
            with showing_answer_warnings():
                try:
                    check_output(output, arguments.force or not arguments.output, is_folder_new=True)
                    message, source = read_turn(pipe, line)
                    heard = as_history(pipe, message, source)
                    history = with_room(pipe, history, heard)
                    report, codes = respond(arguments, pipe, line, as_asked([*history, message]), source, output)
                except Exception as error:
                    # what may be a bug ends the command, with its traceback
                    if explain(error) is None:
                        raise
                    failed = True
                    fail(explain(error), "vita-audio")
                    continue
            num_answers += 1
            # flushed, so that a program that reads from a pipe gets each answer at once
            print(json.dumps(report) if arguments.json else describe(report), flush=True)
            answer = answer_message(report["text"], codes)
            history += [heard, *([] if answer is None else [answer])]
    return int(failed and not is_live)


def with_room(pipe: VitaAudioPipeline, history: list[dict], message: dict) -> list[dict]:
    """The turns so far, without the older half where all and an answer are more than the model was trained with."""
    while history and not has_room(pipe.processor, as_asked([*history, message])):
        turns = [place for place, turn in enumerate([*history, message]) if turn["role"] == "user"]
        history = history[turns[len(turns) // 2] :]
    return history


def read_line(is_live: bool) -> str | None:
    """The next line without the spaces around it, None at the end of the input or after Ctrl-C in a terminal."""
    if is_live:
        try:
            return input(PROMPT).strip()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return None
    line = sys.stdin.readline()
    return line.strip() if line else None


def read_turn(pipe: VitaAudioPipeline, line: str) -> tuple[dict, str | np.ndarray]:
    """
    The user's message of a line, and its text, or the samples of the file that it names.

    Raises:
        ValueError: the line is a command that there is not, or has nothing in it to be asked.
        ValueError, OSError, TypeError: the line names a file that is not there or is no audio.
    """
    from processing.conversation_vita_audio import is_written

    if line.startswith("/") and "/" not in line[1:] and not Path(line).exists():
        raise ValueError(f"There is no {line:.100}; the commands are {RESET} and {EXIT}.")
    if line == "-":
        raise ValueError("- is the standard input, from which the turns are read; give a file by its name.")
    if is_written(line):
        if not can_be_said(line):
            raise ValueError(f"The text has nothing in it to be asked: {line!r:.200}.")
        return {"role": "user", "content": [{"type": "text", "text": line}]}, line
    samples = pipe.processor.load_audio(line)
    return {"role": "user", "content": [{"type": "audio", "audio": samples}]}, samples


def as_history(pipe: VitaAudioPipeline, message: dict, source: str | np.ndarray) -> dict:
    """The user's message as a later turn reads it: its audio as codes, where the model hears by these."""
    if isinstance(source, str) or pipe.processor.hears_features:
        return message
    (codes,) = pipe.processor.encode_audio([source])
    return {"role": "user", "content": [{"type": "audio", "codes": codes}]}
