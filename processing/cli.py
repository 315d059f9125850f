# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The console command `vita-audio`. What is heavy is imported by the command that needs it."""

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path


PACKAGE = Path(__file__).resolve().parent
# an installed package has the model inside, a checkout beside
DEFAULT_MODEL = next(
    filter(Path.is_dir, (folder / "pretrained" / "vita-audio-mini" for folder in (PACKAGE, PACKAGE.parent))),
    PACKAGE.parent / "pretrained" / "vita-audio-mini",
)
SAMPLE_QUESTION = DEFAULT_MODEL / "sample_question.wav"

DELEGATED_COMMANDS = {"train": "Train a stage", "evaluate": "Score a model on held-out data in every mode"}
EXTRAS = {"train": "train", "evaluate": "eval"}  # what `pip` has to install for them


def main(argv: list[str] | None = None) -> int:
    """
    Runs a command.

    Args:
        argv: its arguments; the process's by default.

    Returns:
        `int`: 0, or 1 where it failed, after one line on the standard error that says why. Wrong usage exits with 2.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in DELEGATED_COMMANDS:
            return delegate(argv[0], argv[1:])
        arguments = build_parser().parse_args(argv)
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return fail("interrupted")
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        return fail(message)


def explain(error: Exception) -> str | None:
    """One line on what bad input, a file or the Hub has led to; None on an error that is none of these."""
    from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
    from huggingface_hub.utils import httpx

    # transformers hides what the Hub has answered behind plain errors
    cause = error.__cause__ if type(error) is OSError and error.__cause__ is not None else error
    if isinstance(cause, (HfHubHTTPError, httpx.TransportError)):
        from hub_cards.push import describe

        return describe(cause, getattr(cause, "repo_id", None) or "the repository")
    if isinstance(error, (ValueError, OSError, ImportError, TypeError, StrictDataclassError)):
        return " ".join(str(error).split())


def fail(message: str) -> int:
    print(f"vita-audio: error: {message}", file=sys.stderr)
    return 1


def delegate(command: str, argv: list[str]) -> int:
    try:
        if command == "train":
            from training.train import main as run
        else:
            from training.evaluate import main as run
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"`vita-audio {command}` needs {error.name}, which is not installed; `pip install -e "
            f'".[{EXTRAS[command]}]"` installs all that it needs.'
        ) from error
    return run(argv) or 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vita-audio", description="Speech in, speech out: VITA-Audio.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument(
        "--model", default=str(DEFAULT_MODEL), help="folder or Hub id (default: the shipped small model)"
    )
    model.add_argument("--revision", help="branch, tag or commit of a Hub id (default: its main branch)")
    model.add_argument("--device", default="cpu", help="such as cpu or cuda:0 (default: cpu)")
    # Generation and speech decoding run in a thread each. On two busy cores, more threads inside of each make them wait for one
    # another: a hundred times slower, measured with a small model.
    model.add_argument(
        "--threads", type=int, default=1, help="CPU threads of each operation; more for large models (default: 1)"
    )

    generation = argparse.ArgumentParser(add_help=False, parents=[model])
    generation.add_argument(
        "--mode",
        type=parse_mode,
        help="vanilla, balance, boost, turbo or a list such as 1,10,4,10 (default: the model's)",
    )
    generation.add_argument("--max-new-tokens", type=int, help="the most tokens to write")
    generation.add_argument(
        "--seed", type=int, help="sample with this seed (default: greedy, unless the model samples)"
    )
    generation.add_argument("--json", action="store_true", help="print one line of JSON")

    answer = commands.add_parser("answer", parents=[generation], help="answer a spoken question with speech and text")
    answer.add_argument(
        "audio", nargs="?", default=str(SAMPLE_QUESTION), help="the question (default: a shipped sample)"
    )
    answer.add_argument("--output", default="answer.wav", help="where the spoken answer goes (default: answer.wav)")
    answer.set_defaults(run=run_answer)

    transcribe = commands.add_parser("transcribe", parents=[generation], help="write down speech")
    transcribe.add_argument("audio", help="the recording")
    transcribe.set_defaults(run=run_transcribe)

    speak = commands.add_parser("speak", parents=[generation], help="speak a text")
    speak.add_argument("text", help="the text")
    speak.add_argument("--output", default="speech.wav", help="where the speech goes (default: speech.wav)")
    speak.set_defaults(run=run_speak)

    for command, description in DELEGATED_COMMANDS.items():
        commands.add_parser(command, help=f"{description}; see vita-audio {command} --help", add_help=False)

    export = commands.add_parser("export", parents=[model], help="write a complete Hub repository")
    export.add_argument("folder", help="a folder that does not exist or is empty")
    export.add_argument(
        "--codec",
        help="folder or Hub id of a speech codec, for a converted model that has a tokenizer but no processor",
    )
    export.set_defaults(run=run_export)

    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("folder", help="a model that training or vita-audio export has written")
    place.add_argument("--revision", help="branch (default: the main one and, of a training stage, stage1 to stage4)")

    push = commands.add_parser("push", parents=[place], help="send a folder with its card to the Hub")
    push.add_argument("repo_id", metavar="REPO", help="such as user/name; created if there is none")
    push.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    push.add_argument("--dry-run", "--dry_run", action="store_true", help="only list what would be sent")
    push.set_defaults(run=run_push)

    card = commands.add_parser("card", parents=[place], help="write the card from the files of a folder")
    card.add_argument("--repo-id", help="where it will be, for its snippet (default: as training has pushed it)")
    card.add_argument("--license", help="such as apache-2.0 (default: as it was, or as training was told)")
    card.add_argument("--language", nargs="+", help="such as en (default: as it was, or as training was told)")
    card.add_argument("--converted-from", metavar="REPO", help="the released checkpoint that this was converted from")
    card.add_argument("--benchmarks", metavar="FILE", help="results.json of training.harness, to be shown as well")
    card.add_argument("--overwrite", action="store_true", help="even a card that was edited by hand")
    card.set_defaults(run=run_card)
    return parser


def parse_mode(text: str) -> str | list[int]:
    """A mode's name, or its list of numbers with commas between them."""
    if not text.lstrip("-")[:1].isdigit():
        return text
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,10,4,10") from None


def run_answer(arguments) -> int:
    check_output(arguments.output)
    pipe = load_pipeline(arguments)
    # read beforehand, so that the time that takes is not the answer's
    question = pipe.processor.load_audio(arguments.audio)
    return respond(arguments, pipe, question, output=arguments.output)


def run_transcribe(arguments) -> int:
    pipe = load_pipeline(arguments)
    from .conversation_vita_audio import recognition_conversation

    recording = pipe.processor.load_audio(arguments.audio)
    seconds = len(recording) / pipe.processor.feature_extractor.sampling_rate
    return respond(arguments, pipe, recognition_conversation(recording), input_seconds=seconds)


def run_speak(arguments) -> int:
    check_output(arguments.output)
    pipe = load_pipeline(arguments)
    from .conversation_vita_audio import synthesis_conversation

    if not any(character.isalnum() for character in arguments.text):
        raise ValueError(f"The text has nothing in it to be spoken: {arguments.text!r}.")
    return respond(arguments, pipe, synthesis_conversation(arguments.text), output=arguments.output)


def run_export(arguments) -> int:
    pipe = load_pipeline(arguments)
    from hub_cards.model_card import CARD_FILE, FILES_OF_THE_CARD, metadata_of, write_model_card

    from .export import export_repository

    metadata = metadata_of(Path(arguments.model) / CARD_FILE)
    folder = export_repository(pipe.model, pipe.processor, arguments.folder)
    try:
        for name in FILES_OF_THE_CARD:
            if (Path(arguments.model) / name).is_file():
                shutil.copyfile(Path(arguments.model) / name, folder / name)
        write_model_card(folder, **{key: metadata[key] for key in ("license", "language") if key in metadata})
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    print(folder)
    return 0


def run_push(arguments) -> int:
    from hub_cards.push import describe_push, push_folder

    if arguments.dry_run:
        print(describe_push(arguments.folder, arguments.repo_id, arguments.revision))
    else:
        print(push_folder(arguments.folder, arguments.repo_id, arguments.revision, arguments.private))
    return 0


def run_card(arguments) -> int:
    from hub_cards.model_card import add_benchmarks, read_model_config, write_model_card

    read_model_config(Path(arguments.folder))
    if arguments.benchmarks is not None:
        add_benchmarks(arguments.folder, arguments.benchmarks)
    names = ("repo_id", "revision", "license", "language", "converted_from", "overwrite")
    print(write_model_card(arguments.folder, **{name: getattr(arguments, name) for name in names}))
    return 0


def load_pipeline(arguments):
    if not os.path.isdir(arguments.model) and (arguments.model.count("/") != 1 or arguments.model[0] in "./~"):
        raise FileNotFoundError(f"There is no model folder {arguments.model}; --model takes a folder or a Hub id.")
    if os.path.isdir(arguments.model) and arguments.revision is not None:
        raise ValueError(f"--revision is for a Hub id, but {arguments.model} is a folder.")
    import torch
    import transformers
    from transformers import AutoModel, AutoProcessor, PreTrainedConfig

    import modeling_vita_audio  # noqa: F401  registers the model with the auto classes

    from .pipeline_vita_audio import VitaAudioPipeline

    try:
        device = torch.device(arguments.device)
    except RuntimeError:
        raise ValueError(f"--device must be such as cpu or cuda:0, got {arguments.device}.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device is {arguments.device}, but there are {torch.cuda.device_count()} CUDA GPUs here.")
    if arguments.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {arguments.threads}.")
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config, _ = PreTrainedConfig.get_config_dict(arguments.model, revision=arguments.revision)
    if "model_type" not in config:
        raise ValueError(f"{arguments.model} has no model: it has no config.json with a `model_type`.")
    if config["model_type"] != "vita_audio":
        raise ValueError(f"{arguments.model} has a model of the type {config['model_type']!r}, not 'vita_audio'.")
    model = AutoModel.from_pretrained(arguments.model, revision=arguments.revision)
    if getattr(arguments, "codec", None) is None:
        processor = AutoProcessor.from_pretrained(arguments.model, revision=arguments.revision)
    else:
        processor = build_processor(arguments, model)
    return VitaAudioPipeline(model, processor=processor, device=device)


def build_processor(arguments, model):
    """The processor of a converted model: its tokenizer and the codec that was asked for."""
    from transformers import AutoModel, AutoTokenizer

    from modeling_vita_audio import MCTP_MODES

    from .interleaving_vita_audio import DEFAULT_INTERLEAVE_PATTERN
    from .processing_vita_audio import VitaAudioProcessor

    if os.path.isfile(os.path.join(arguments.model, "processor_config.json")):
        raise ValueError(f"{arguments.model} has a processor with a codec of its own; leave --codec out.")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, revision=arguments.revision)
    codec = AutoModel.from_pretrained(arguments.codec)
    # the layout that a model was trained with is its default mode
    mode = getattr(model.generation_config, "mctp_mode", None)
    pattern = MCTP_MODES.get(mode) if isinstance(mode, str) else mode
    is_layout = pattern is not None and any(pattern[1::2])
    return VitaAudioProcessor.from_codec(
        tokenizer, codec, interleave_pattern=pattern if is_layout else DEFAULT_INTERLEAVE_PATTERN
    )


def respond(arguments, pipe, inputs, output: str | None = None, input_seconds: float | None = None) -> int:
    """
    Runs the model on one input and reports. Times count from the moment that the input is in memory; a real-time factor is the
    time needed over the length of the speech written, or read.
    """
    import numpy as np
    from transformers import set_seed

    options = {"mctp_mode": arguments.mode, "max_new_tokens": arguments.max_new_tokens}
    options = {name: value for name, value in options.items() if value is not None}
    # a converted model's generation config may name none
    mode = options.get("mctp_mode") or getattr(pipe.model.generation_config, "mctp_mode", None) or "vanilla"
    if arguments.seed is not None:
        set_seed(arguments.seed)
        options["do_sample"] = True

    start = time.perf_counter()
    first_chunk_seconds, text, audio = None, "", []
    for chunk in pipe.stream(inputs, **options):
        if first_chunk_seconds is None and ("audio" in chunk or output is None):
            first_chunk_seconds = time.perf_counter() - start
        text += chunk.get("text", "")
        audio += [chunk["audio"]] if "audio" in chunk else []
    total_seconds = time.perf_counter() - start

    sampling_rate = pipe.processor.output_sampling_rate
    # of text that is spoken the model writes none
    report = {"text": text.strip() or getattr(arguments, "text", ""), "mode": mode}
    if output is not None:
        if not audio:
            raise ValueError(
                f"The model answered without speech, so {output} is not written. Its text: {text.strip()!r}"
            )
        samples = np.concatenate(audio)
        write_wav(output, samples, sampling_rate)
        report |= {"audio": output, "sampling_rate": sampling_rate, "audio_seconds": len(samples) / sampling_rate}
    else:
        report["audio_seconds"] = input_seconds
    report["first_chunk_seconds"] = first_chunk_seconds
    report["total_seconds"] = total_seconds
    report["real_time_factor"] = total_seconds / report["audio_seconds"]
    print(json.dumps(report) if arguments.json else describe(report))
    return 0


def describe(report: dict) -> str:
    lines = [report["text"]]
    if "audio" in report:
        lines.append(f"Speech: {report['audio']} ({report['audio_seconds']:.2f} s at {report['sampling_rate']} Hz)")
    first = report["first_chunk_seconds"]
    lines.append(f"First chunk after {first:.3f} s, " if first is not None else "Nothing written, ")
    lines[-1] += f"all after {report['total_seconds']:.3f} s: {1 / report['real_time_factor']:.1f}x real time."
    return "\n".join(lines)


def check_output(output: str) -> None:
    """
    Raises:
        ValueError: an output is not a .wav file in a folder that exists; said before the model runs, as is
        OSError: it cannot be written there.
    """
    if Path(output).suffix.lower() != ".wav":
        raise ValueError(f"The output is written as WAV, so its name must end with .wav, got {output}.")
    if not Path(output).absolute().parent.is_dir():
        raise ValueError(f"The folder of the output {output} does not exist.")
    if Path(output).is_dir():
        raise ValueError(f"The output {output} is a folder.")
    try:
        with tempfile.TemporaryFile(dir=Path(output).absolute().parent):
            pass
    except OSError as error:
        raise OSError(f"The output {output} cannot be written: {error.strerror}.") from error


def write_wav(path: str, samples, sampling_rate: int) -> None:
    """Writes 16-bit mono samples beside `path` and moves them there, so that a full disk leaves no half a file."""
    import soundfile

    wav = io.BytesIO()
    soundfile.write(wav, samples, sampling_rate, format="WAV", subtype="PCM_16")
    path = Path(path).absolute()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(wav.getvalue())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
