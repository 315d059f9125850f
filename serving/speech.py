# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`vita-audio answer | ask | transcribe | speak`: inputs in; text, speech and times out. `turns.py` is `chat`."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hub_cards.command_line import explain, fail

from .spoken_text import can_be_said


if TYPE_CHECKING:
    import numpy as np

    from processing import VitaAudioPipeline


# soundfile's name of the format and of the samples in it, by the ending of a file's name
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}

COMMANDS_ON_TEXT = ("ask", "speak")
STANDARD_INPUT = "-"

# Programs that play a file. A report names the first that is installed.
# They are those of macOS, PipeWire, PulseAudio, ALSA, SoX and FFmpeg, and what opens any file on a Linux desktop.
PLAYERS = ("afplay", "pw-play", "paplay", "aplay", "play", "ffplay", "xdg-open")


def respond_to_all(arguments: argparse.Namespace, default_output: str | None) -> int:
    """
    Answers, speaks or writes down all inputs of a command. If one of several inputs fails, an error is printed and the
    others go on.

    Args:
        arguments (`argparse.Namespace`): the command's arguments.
        default_output (`str`, *optional*): the name of a file that is overwritten without `--force`; None for a
            command that writes no speech.

    Returns:
        `int`: 0, or 1 if an input failed.

    Raises:
        ValueError, OSError: an option, the model or the only input is wrong. Options and the names of files are
            checked before the model is loaded.
    """
    check_voice(arguments)
    if arguments.command in COMMANDS_ON_TEXT:
        arguments.inputs = read_texts(arguments.inputs)
    else:
        check_files_are_there(arguments.inputs)
    outputs = [None] * len(arguments.inputs)
    if default_output is not None:
        outputs = plan_outputs(arguments, default_output)
    pipe = load_prepared_pipeline(arguments)
    failed = False
    for name, output in zip(arguments.inputs, outputs):
        with showing_answer_warnings():
            try:
                # reading the input is no part of the answer's time
                inputs, source = read_input(arguments.command, pipe, name)
                report, _ = respond(arguments, pipe, name, inputs, source, output)
            except Exception as error:
                # `run_command` makes a line of the only input's error, and gives what may be a bug its traceback
                if len(arguments.inputs) == 1 or explain(error) is None:
                    raise
                failed = True
                fail(f"{name!r:.200}: {explain(error)}", "vita-audio")
            else:
                # flushed, so that a program that reads from a pipe gets each answer at once
                print(json.dumps(report) if arguments.json else describe(report), flush=True)
    return int(failed)


def check_voice(arguments: argparse.Namespace) -> None:
    """
    Raises:
        FileNotFoundError: `--voice` is no file that is there, nor an address.
        ValueError: `--voice` and an input are both the standard input.
    """
    # `transcribe` has no such option
    voice = getattr(arguments, "voice", None)
    if voice is None:
        return
    if voice == STANDARD_INPUT and STANDARD_INPUT in getattr(arguments, "inputs", [STANDARD_INPUT]):
        raise ValueError("--voice and the input cannot both be the standard input.")
    check_files_are_there([voice])


def load_prepared_pipeline(arguments: argparse.Namespace) -> VitaAudioPipeline:
    """The pipeline of a command's options, with its limit of audio; `--voice` becomes the voice that was read."""
    # imported here, so that a wrong name costs no loading
    from .loading import load_pipeline

    pipe = load_pipeline(arguments)
    if arguments.max_audio_seconds is not None:
        pipe.processor.max_audio_seconds = arguments.max_audio_seconds
    if getattr(arguments, "voice", None) is not None:
        from processing import read_voice

        arguments.voice = read_voice(pipe.processor, arguments.voice)
    return pipe


@contextmanager
def showing_answer_warnings() -> Iterator[None]:
    """Prints the warnings of answers, each a line on the standard error."""
    from processing import AnswerWarning

    # warnings of libraries are caught as well, and not shown: what users can act on is an AnswerWarning
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AnswerWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, AnswerWarning):
            print(f"vita-audio: warning: {' '.join(str(warning.message).split())}", file=sys.stderr)


def read_texts(inputs: list[str]) -> list[str]:
    """
    The texts that a command was given, with the lines of the standard input in the place of `-`.

    Raises:
        ValueError: a text is the name of a file, or has neither a letter nor a digit.
    """
    texts = []
    for text in inputs:
        if os.path.isfile(text):
            raise ValueError(
                f"{text} is a file, but the command takes a text. `- < {text}` takes the file's lines, and "
                f"`vita-audio answer {text}` a spoken question."
            )
        texts += filter(str.strip, sys.stdin.read().splitlines()) if text == STANDARD_INPUT else [text]
    # a standard input without lines is refused like an empty text
    for text in texts or [""]:
        if not can_be_said(text):
            raise ValueError(f"The text has nothing in it to be spoken: {text!r:.200}.")
    return texts


def check_files_are_there(names: list[str]) -> None:
    """
    Raises:
        FileNotFoundError: none of the files is there.
    """
    # if one file is there, the others fail when their turn comes; a name with a colon is taken for a URL
    if not any(os.path.exists(name) or name == STANDARD_INPUT or ":" in name for name in names):
        raise FileNotFoundError(f"There is no audio file {', '.join(names):.200}.")


def plan_outputs(arguments: argparse.Namespace, default_output: str) -> list[Path]:
    """
    The file for the speech of each input, in a folder that exists.

    Raises:
        ValueError: the ending of a name is of no format, or a file exists, is a folder or an input.
        OSError: a file cannot be written.
    """
    place = Path(arguments.output or default_output)
    if len(arguments.inputs) == 1 and not place.is_dir():
        outputs = [place]
    else:
        if arguments.output and place.suffix.lower() in FORMATS and not place.is_dir():
            raise ValueError(f"The output of several inputs is a folder for a file of each, got {place}.")
        folder = place if arguments.output else place.with_suffix("")
        on_text = arguments.command in COMMANDS_ON_TEXT
        # texts and the standard input have no name that a file could get
        stems = ["" if on_text or name == STANDARD_INPUT else Path(name).stem for name in arguments.inputs]
        # a/1.wav and b/1.wav must not be answered in the same file, so the numbers tell them apart
        if len(set(stems)) < len(stems):
            stems = [f"{number}-{stem}".rstrip("-") for number, stem in enumerate(stems, 1)]
        outputs = [folder / f"{stem or 1}.wav" for stem in stems]
    for output in outputs:
        check_output(output, arguments.force or str(output) == default_output, is_folder_new=len(outputs) > 1)
        # `samefile` sees through links and other spellings of a path
        if any(os.path.exists(name) and output.exists() and output.samefile(name) for name in arguments.inputs):
            raise ValueError(f"The output {output} is an input, too.")
    return outputs


def check_output(output: Path, force: bool, is_folder_new: bool) -> None:
    folder = output.absolute().parent
    # the folder is made with the first file, so its parent must be there
    if is_folder_new and not folder.exists():
        folder = folder.parent
    if output.suffix.lower() not in FORMATS:
        raise ValueError(f"The name of the output must end with {', '.join(FORMATS)}, got {output}.")
    if not folder.is_dir():
        raise ValueError(f"The folder of the output {output} does not exist.")
    if output.is_dir():
        raise ValueError(f"The output {output} is a folder.")
    if output.exists() and not force:
        raise ValueError(f"The output {output} exists; --force writes over it.")
    try:
        # only writing shows whether one can write: permissions say nothing of a disk that is full or read-only
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"The output {output} cannot be written: {error.strerror}.") from error


def respond(
    arguments: argparse.Namespace,
    pipe: VitaAudioPipeline,
    name: str,
    inputs: list[dict] | np.ndarray,
    source: str | np.ndarray,
    output: Path | None,
) -> tuple[dict, list[int]]:
    """
    Runs the model on one input, and writes the speech to `output`.

    Args:
        arguments (`argparse.Namespace`): the command's arguments.
        pipe ([`VitaAudioPipeline`]): of these.
        name (`str`): the input as it was given, for the report.
        inputs, source: as of [`read_input`].
        output (`Path`, *optional*): None where no speech is asked for.

    Returns:
        `dict` and `list[int]`: the command's report, and the codes of the answer's speech. Times are in seconds, from
        the moment that the input is in memory. The real-time factor is the time needed over the length of the speech
        that was written, or read.
    """
    import numpy as np
    from transformers import set_seed

    options = {
        name: getattr(arguments, name, None) for name in ("mctp_mode", "mctp_verify", "max_new_tokens", "voice")
    }
    options = {name: value for name, value in options.items() if value is not None}
    # a converted model's generation config may name no mode
    mode = options.get("mctp_mode") or getattr(pipe.model.generation_config, "mctp_mode", None) or "vanilla"
    if arguments.seed is not None:
        set_seed(arguments.seed)
        # in greedy search a seed would change nothing
        options["do_sample"] = True

    start = time.perf_counter()
    # A model that ends at once gives no chunk at all
    first_chunk_seconds, total_seconds, text, audio, codes, heard = None, 0.0, "", [], [], {}
    is_heard = arguments.command in ("answer", "chat") and not isinstance(source, str)
    for chunk in pipe.stream(inputs, return_transcript=is_heard, **options):
        if "transcript" in chunk:  # comes last, and its time is not the answer's
            heard = {"question": chunk["transcript"]}
            continue
        # the time is taken anew with each chunk, because nobody knows which is the last
        total_seconds = time.perf_counter() - start
        if first_chunk_seconds is None and ("audio" in chunk or output is None):
            first_chunk_seconds = total_seconds
        text += chunk.get("text", "")
        if "audio" in chunk:
            audio.append(chunk["audio"])
            codes += chunk["audio_codes"]

    # the models of the paper write no text in TTS: report the input
    report = {"input": name, "text": text.strip() or (source if arguments.command == "speak" else ""), "mode": mode}
    if output is None:
        report["audio_seconds"] = len(source) / pipe.processor.feature_extractor.sampling_rate
    elif audio:
        samples, rate = np.concatenate(audio), pipe.processor.output_sampling_rate
        write_audio(output, samples, rate)
        report |= {"audio": str(output), "sampling_rate": rate, "audio_seconds": len(samples) / rate}
    else:
        raise ValueError(f"The model answered without speech, so {output} is not written. Its text: {text.strip()!r}")
    report |= heard | {
        "first_chunk_seconds": first_chunk_seconds,
        "total_seconds": total_seconds,
        "real_time_factor": total_seconds / report["audio_seconds"],
    }
    return report, codes


def read_input(command: str, pipe: VitaAudioPipeline, name: str) -> tuple[list[dict] | np.ndarray, str | np.ndarray]:
    """The pipeline's input for the command's input `name`, and the text or samples in it."""
    from processing.conversation_vita_audio import recognition_conversation, synthesis_conversation

    if command not in COMMANDS_ON_TEXT:
        samples = pipe.processor.load_audio(name)
        return (samples if command == "answer" else recognition_conversation(samples)), samples
    return ([{"role": "user", "content": name}] if command == "ask" else synthesis_conversation(name)), name


def describe(report: dict) -> str:
    """The report of [`respond`] in words."""
    lines = [f"Heard: {report['question']}"] if report.get("question") else []
    lines.append(report["text"])
    if "audio" in report:
        player = next(filter(shutil.which, PLAYERS), None)
        played = f"; to hear it: {player} {report['audio']}" if player else ""
        lines.append(
            f"Speech: {report['audio']} ({report['audio_seconds']:.2f} s at {report['sampling_rate']} Hz){played}"
        )
    first = report["first_chunk_seconds"]
    lines.append(f"First chunk after {first:.3f} s, " if first is not None else "Nothing written, ")
    lines[-1] += f"all after {report['total_seconds']:.3f} s"
    lines[-1] += f": {1 / report['real_time_factor']:.1f}x real time." if report["real_time_factor"] else "."
    return "\n".join(lines)


def write_audio(path: Path, samples: np.ndarray, sampling_rate: int) -> None:
    """
    Writes mono samples in the format of the ending of `path`. They are written to a file beside it, which is renamed,
    so that a full disk or a killed process leaves no half a file.
    """
    import soundfile

    from modeling_vita_audio.saving_vita_audio import replaced_whole

    # encoded in memory, because on a full disk libsndfile says only "System error", which is no OSError
    audio = io.BytesIO()
    audio_format, subtype = FORMATS[path.suffix.lower()]
    soundfile.write(audio, samples, sampling_rate, format=audio_format, subtype=subtype)
    path = path.absolute()
    path.parent.mkdir(exist_ok=True)
    with replaced_whole(path) as unfinished:
        unfinished.write_bytes(audio.getvalue())
