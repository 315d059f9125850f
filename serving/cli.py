# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The console command `vita-audio`.

This module imports nothing heavy, so that help and errors of usage come at once. Each command imports what it needs.
"""

import argparse
import json
import os
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from hub_cards.command_line import ArgumentParser, install_command, parse_tolerance, run_command


# `find_spec` finds the package without importing it, which would import torch
PACKAGE = Path(find_spec("processing").origin).parent
# the shipped model lies inside the installed package, and in a checkout beside it
DEFAULT_MODEL = next(
    filter(Path.is_dir, (folder / "pretrained" / "vita-audio-mini" for folder in (PACKAGE, PACKAGE.parent))),
    PACKAGE.parent / "pretrained" / "vita-audio-mini",
)
SAMPLE_QUESTION = DEFAULT_MODEL / "sample_question.wav"

# Their parsers are made from what training and evaluation define, so their arguments are passed on unread.
DELEGATED_COMMANDS = {"train": "train a stage", "evaluate": "score a model on held-out data in every mode"}
EXTRAS = {"train": "train", "evaluate": "eval", "serve": "serve"}  # the extras of this package that they need


def main(argv: list[str] | None = None) -> int:
    """
    Runs a command.

    Args:
        argv (`list[str]`, *optional*): the command's arguments; the process's by default.

    Returns:
        `int`: 0, or 1 if the command failed, after one line on the standard error that says why. Wrong usage exits
        with 2.
    """
    return run_command(run, "vita-audio", sys.argv[1:] if argv is None else argv)


def run(argv: list[str]) -> int:
    if argv and argv[0] in DELEGATED_COMMANDS:
        return delegate(argv[0], argv[1:])
    arguments = build_parser().parse_args(argv)
    return arguments.run(arguments)


def delegate(command: str, argv: list[str]) -> int | None:
    # this is checked before the imports below, which are slow
    for option, name in zip(argv, argv[1:]):
        if option == "--config" and not Path(name).is_file():
            raise FileNotFoundError(f"There is no file {name}; --config takes a YAML file.")
    try:
        if command == "train":
            from training.train import main as run
        else:
            from training.evaluation.evaluate_held_out import main as run
    except ModuleNotFoundError as error:
        raise missing_package(command, error) from error
    return run(argv)


def missing_package(command: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"`vita-audio {command}` needs {error.name}, which is not installed; `{install_command(EXTRAS[command])}` "
        "installs all that it needs."
    )


# argparse's own action for this needs the text when the parser is built, which is for every command
class Version(argparse.Action):
    """Prints the versions of the packages that answers depend on."""

    def __call__(self, parser: argparse.ArgumentParser, *args):
        print(*(f"{name} {metadata.version(name)}" for name in ("vita-audio", "transformers", "torch")), sep=", ")
        parser.exit()


def model_options() -> argparse.ArgumentParser:
    """Options that several commands have; each command adds the help itself."""
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument(
        "--model", default=str(DEFAULT_MODEL), help="folder or Hub id (default: the shipped small model)"
    )
    model.add_argument("--revision", help="branch, tag or commit of a Hub id (default: its main branch)")
    model.add_argument("--device", default="cpu", help="such as cpu or cuda:0 (default: cpu)")
    model.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="type of the weights in memory (default: the one the model is computed in)",
    )
    model.add_argument(
        "--quantization",
        choices=("int8", "int4"),
        help="weights of 8 or 4 bits, by torchao; all else in bfloat16 unless --dtype says otherwise (default: the "
        "weights as they are)",
    )
    # The language model and the codec run in a thread each. On two busy cores, operations of several threads wait for
    # one another: the small model was a hundred times slower with them.
    model.add_argument(
        "--threads", type=int, default=1, help="CPU threads of each operation; more for large models (default: 1)"
    )
    return model


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="vita-audio",
        description="Speech in, speech out: VITA-Audio.",
        epilog="With --traceback, a command that fails shows where.",
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    model = model_options()
    generation = argparse.ArgumentParser(add_help=False, parents=[model])
    generation.add_argument(
        "--mctp_mode",
        "--mode",
        "--modes",
        metavar="MODE",
        type=parse_mode,
        help="such as vanilla or boost (a wrong one lists all), or a list such as 1,10,4,10 (default: the model's)",
    )
    generation.add_argument(
        "--mctp_verify",
        metavar="TOLERANCE",
        type=parse_tolerance,
        help="what the language model keeps of the modules' tokens: those with at least this share of the likeliest "
        "one's probability, from 1 (lossless) to 0 (all), or two such numbers for text and speech, such as 1,0.3, "
        "or a third for the speech after the first forward (default: the model's)",
    )
    generation.add_argument("--max_new_tokens", type=int, help="the most tokens to write")
    generation.add_argument(
        "--max_audio_seconds", type=float, help="the longest recording that is taken (default: the model's limit)"
    )
    generation.add_argument(
        "--seed", type=int, help="sample with this seed (default: greedy, unless the model samples)"
    )
    generation.add_argument("--json", action="store_true", help="print a line of JSON for each input")

    spoken = argparse.ArgumentParser(add_help=False)
    spoken.add_argument(
        "--output",
        "-o",
        help="a wav, flac, ogg or mp3 file for the speech, or a folder for several inputs (default: in this folder)",
    )
    spoken.add_argument(
        "--force", action="store_true", help="write over files that exist; the default output is always written over"
    )

    voice = argparse.ArgumentParser(add_help=False)
    voice.add_argument(
        "--voice",
        metavar="AUDIO",
        help="a recording of the voice to speak in: a file, a URL, or - for the standard input; for models that were "
        "trained with such prompts, as the released ones were (default: the model's own voice)",
    )

    answer = commands.add_parser(
        "answer", parents=[generation, spoken, voice], help="answer spoken questions with speech and text"
    )
    answer.add_argument(
        "inputs",
        metavar="AUDIO",
        # no input is needed, so that the first command of the README works without a recording
        nargs="*",
        default=[str(SAMPLE_QUESTION)],
        help="the questions: files, URLs, or - for the standard input (default: a shipped sample)",
    )
    answer.set_defaults(run=run_speech, default_output="answer.wav")

    ask = commands.add_parser(
        "ask", parents=[generation, spoken, voice], help="answer written questions with speech and text"
    )
    ask.add_argument(
        "inputs", metavar="TEXT", nargs="+", help="the questions, or - for the lines of the standard input"
    )
    ask.set_defaults(run=run_speech, default_output="answer.wav")

    transcribe = commands.add_parser("transcribe", parents=[generation], help="write down speech")
    transcribe.add_argument(
        "inputs", metavar="AUDIO", nargs="+", help="the recordings: files, URLs, or - for the standard input"
    )
    transcribe.set_defaults(run=run_speech, default_output=None)

    speak = commands.add_parser("speak", parents=[generation, spoken, voice], help="speak texts")
    speak.add_argument("inputs", metavar="TEXT", nargs="+", help="the texts, or - for the lines of the standard input")
    speak.set_defaults(run=run_speech, default_output="speech.wav")

    chat = commands.add_parser(
        "chat",
        parents=[generation, voice],
        help="have a conversation in the terminal, in which each turn knows those before it",
        description="Each line of the standard input is a question, or the name of a file with a spoken one. The line "
        "/reset begins another conversation; /exit, or the end of the input, ends it.",
    )
    chat.add_argument(
        "--output", "-o", help="a folder for the speech, 1.wav for the first answer (default: chat, in this folder)"
    )
    chat.add_argument(
        "--force", action="store_true", help="write over files that exist; the default output is always written over"
    )
    chat.set_defaults(run=run_chat)

    # of its own, because defaults belong to the options: None leaves them to the server, and shows which were given
    server_model = model_options()
    server_model.set_defaults(model=None, device=None, threads=None)
    talk = commands.add_parser(
        "talk", parents=[server_model], help="have a spoken conversation, by microphone and loudspeaker or by files"
    )
    talk.add_argument(
        "--url", help="of a server, such as ws://127.0.0.1:8765/v1/realtime (default: one is started, of --model)"
    )
    talk.add_argument("--api_key", help="the key of that server (default: what VITA_AUDIO_API_KEY has)")
    talk.add_argument(
        "--input", nargs="+", metavar="AUDIO", help="files or URLs in the microphone's place, one turn each"
    )
    talk.add_argument("--fast", action="store_true", help="send files faster than they are spoken, and do not play")
    talk.add_argument(
        "--output", "-o", help="a wav, flac, ogg or mp3 file in the loudspeaker's place, for all answers"
    )
    talk.add_argument("--force", action="store_true", help="write over a file that exists")
    talk.add_argument("--mctp_mode", "--mode", metavar="MODE", help="such as vanilla or boost (default: the server's)")
    talk.set_defaults(run=run_talk)

    serve = commands.add_parser("serve", parents=[model], help="talk in the browser, and serve OpenAI's clients")
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (default: only for this machine)")
    serve.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: 8765)")
    serve.add_argument(
        "--api_key",
        help="what clients have to send; better given as VITA_AUDIO_API_KEY in the environment, which no list of "
        "processes shows (default: no key)",
    )
    serve.add_argument(
        "--allow_origin",
        metavar="ORIGIN",
        nargs="+",
        action="extend",
        default=[],
        help="such as https://example.org: other sites whose pages may call the server (default: none)",
    )
    serve.add_argument(
        "--engine",
        default="transformers",
        help="what writes tokens: transformers or vllm, here, or the URL of a server of vLLM (default: transformers)",
    )
    serve.add_argument(
        "--engine_options",
        metavar="JSON",
        type=parse_options,
        default={},
        help="further arguments of vLLM's engine, such as '{\"tensor_parallel_size\": 2}'",
    )
    serve.set_defaults(run=run_serve)

    # these are here for the list of commands in the help: `run` has passed them on before
    for command, description in DELEGATED_COMMANDS.items():
        commands.add_parser(command, help=f"{description}; see vita-audio {command} --help", add_help=False)

    export = commands.add_parser("export", parents=[model], help="write a complete Hub repository")
    export.add_argument("folder", help="a folder that does not exist or is empty")
    export.add_argument(
        "--codec",
        help="folder or Hub id of a speech codec, for a converted model that has a tokenizer but no processor",
    )
    export.set_defaults(run=run_export)

    merge = commands.add_parser("merge", help="write the whole model of an adapter, as a complete Hub repository")
    merge.add_argument("adapter", help="folder or Hub id of what vita-audio train --use_peft has written")
    merge.add_argument("folder", help="a folder that does not exist or is empty")
    merge.add_argument("--base", help="folder or Hub id of the model to put it into (default: as the adapter says)")
    merge.add_argument("--revision", help="branch, tag or commit of the adapter's Hub id (default: its main branch)")
    merge.set_defaults(run=run_merge)

    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("folder", help="a model that training or vita-audio export has written")
    place.add_argument("--revision", help="branch (default: the main one and, of a training stage, stage1 to stage4)")

    push = commands.add_parser("push", parents=[place], help="send a folder with its card to the Hub")
    push.add_argument("repo_id", metavar="REPO", help="such as user/name; created if there is none")
    # None, not False, leaves the choice to the settings of the owner's account
    push.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    push.add_argument("--dry_run", action="store_true", help="only list what would be sent")
    push.set_defaults(run=run_push)

    card = commands.add_parser("card", parents=[place], help="write the card from the files of a folder")
    card.add_argument("--repo_id", help="where it will be, for its snippet (default: as training has pushed it)")
    card.add_argument("--license", help="such as apache-2.0 (default: as it was, or as training was told)")
    card.add_argument("--language", nargs="+", help="such as en (default: as it was, or as training was told)")
    card.add_argument("--converted_from", metavar="REPO", help="the released checkpoint that this was converted from")
    card.add_argument(
        "--benchmarks",
        metavar="FILE",
        help="results.json of training.evaluation.evaluate_benchmarks, to be shown as well",
    )
    card.add_argument("--overwrite", action="store_true", help="even a card that was edited by hand")
    card.set_defaults(run=run_card)
    return parser


def parse_mode(text: str) -> str | list[int]:
    """A mode's name as it is, or the numbers of a list such as `1,10,4,10`."""
    # the model checks the name, because importing the list of modes would import torch; a list may begin with a
    # negative number, which the model refuses
    if not text.lstrip("-")[:1].isdigit():
        return text
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r:.200} is not a list of numbers such as 1,10,4,10") from None


def parse_options(text: str) -> dict:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r:.200} is no JSON: {error}") from None
    if not isinstance(options, dict):
        raise argparse.ArgumentTypeError(f"{text!r:.200} is no JSON object")
    return options


def run_speech(arguments: argparse.Namespace) -> int:
    from .speech import respond_to_all

    return respond_to_all(arguments, arguments.default_output)


def run_chat(arguments: argparse.Namespace) -> int:
    from .turns import chat

    return chat(arguments)


def run_talk(arguments: argparse.Namespace) -> int:
    from .talk import talk

    return talk(arguments)


def run_serve(arguments: argparse.Namespace) -> int:
    from .settings import ServerSettings

    key = os.environ.get("VITA_AUDIO_API_KEY") if arguments.api_key is None else arguments.api_key
    settings = ServerSettings(
        host=arguments.host, port=arguments.port, api_key=key, allow_origin=tuple(arguments.allow_origin)
    )
    try:
        from .run import listen, serve
    except ModuleNotFoundError as error:
        raise missing_package("serve", error) from error
    # a port that is taken is named before the model is loaded, which may take long
    listener = listen(settings)
    from .loading import load_assistant

    serve(load_assistant(arguments), settings, listener)
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    from hub_cards.copied_card import write_copied_card
    from modeling_vita_audio.saving_vita_audio import check_is_free, written_whole
    from processing.export import export_repository

    from .loading import load_pipeline

    folder = Path(arguments.folder).absolute()
    # this is checked before the model is loaded, which may take long
    check_is_free(folder)
    pipe = load_pipeline(arguments)
    with written_whole(folder) as unfinished:
        export_repository(pipe.model, pipe.processor, unfinished)
        write_copied_card(arguments.model, unfinished, arguments.revision, is_measured=arguments.quantization is None)
    print(folder)
    return 0


def run_merge(arguments: argparse.Namespace) -> int:
    from hub_cards.command_line import check_place
    from modeling_vita_audio.saving_vita_audio import check_is_free

    folder = Path(arguments.folder).absolute()
    # these are checked before the model is loaded, which may take long
    check_is_free(folder)
    for name in filter(None, (arguments.adapter, arguments.base)):
        check_place(name)
    from .merging import merge

    merge(arguments.adapter, folder, arguments.base, arguments.revision)
    print(folder)
    return 0


def run_push(arguments: argparse.Namespace) -> int:
    from hub_cards.push import describe_push, push_folder

    if arguments.dry_run:
        print(describe_push(arguments.folder, arguments.repo_id, arguments.revision))
    else:
        print(push_folder(arguments.folder, arguments.repo_id, arguments.revision, arguments.private))
    return 0


def run_card(arguments: argparse.Namespace) -> int:
    from hub_cards.model_card import add_benchmarks, read_model_config, write_model_card

    # a folder without a model is refused before a file is copied into it
    read_model_config(Path(arguments.folder))
    if arguments.benchmarks is not None:
        add_benchmarks(arguments.folder, arguments.benchmarks)
    names = ("repo_id", "revision", "license", "language", "converted_from", "overwrite")
    print(write_model_card(arguments.folder, **{name: getattr(arguments, name) for name in names}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
