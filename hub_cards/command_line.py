# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What all commands share: the spelling of their options, and one line for each error."""

import argparse
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


# No parser knows this option: `run_command` takes it out of the arguments of every command.
TRACEBACK = "--traceback"
# Folders of a checkout that the settings in training/configs name: they are not owners of repositories on the Hub.
CHECKOUT_FOLDERS = ("pretrained", "runs")
# The packages of this repository, and the one as which transformers imports their files from a Hub folder.
OUR_PACKAGES = {"benchmarks", "hub_cards", "modeling_vita_audio", "processing", "serving", "training"}
OUR_PACKAGES |= {"transformers_modules"}


class ArgumentParser(argparse.ArgumentParser):
    """
    A parser that takes options with dashes or underscores between their words, as transformers' parsers do. Options
    are defined with underscores.
    """

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        args = list(sys.argv[1:] if args is None else args)
        # arguments after a bare `--` are no options
        end = args.index("--") if "--" in args else len(args)
        args[:end] = map(with_underscores, args[:end])
        return super().parse_known_args(args, namespace)


def with_underscores(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    # Only the name is respelt, because a value may have dashes of its own.
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def parse_tolerance(text: str) -> float | list[float]:
    """`--mctp_verify`: a number from 0 to 1, or two or three with commas between them, as `generate` has it."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2, 3) or not all(0 <= number <= 1 for number in numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number from 0 to 1, nor two or three of them for text, speech and the first speech, such "
            "as 1,0.3 or 1,0.3,0"
        )
    return numbers if len(numbers) > 1 else numbers[0]


def run_command(command: Callable[[list[str] | None], int | None], prog: str, argv: list[str] | None = None) -> int:
    """
    Runs a command.

    Args:
        command: takes `argv` and returns its exit code, or None where it went well.
        prog: its name, for messages.
        argv: its arguments; the process's by default. With `--traceback` among them, errors are raised as they are.

    Returns:
        `int`: the exit code, which is 1 after an error. Then the last line on the standard error says what went wrong.
        Above it is the traceback, unless the error is one that [`explain`] knows.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if TRACEBACK in argv:
        argv.remove(TRACEBACK)
        return command(argv) or 0
    try:
        return command(argv) or 0
    # Ctrl-C is no `Exception` for Python and no bug, so it gets a line, but no traceback.
    except KeyboardInterrupt:
        return fail("interrupted", prog)
    except Exception as error:
        message = explain(error)
        if message is None:
            traceback.print_exc()
            message = f"{type(error).__name__}: {one_line(error)}"
        return fail(message, prog)


def name_as_typed(command: str, prog: str) -> str:
    """The name under which a module was run: `prog`, such as `training.train`, or `vita-audio` with its `command`."""
    # `vita-audio train` and `python -m training.train` run the same function.
    typed = os.path.basename(sys.argv[0])
    return f"{typed} {command}" if typed == "vita-audio" else prog


def install_command(extras: str) -> str:
    """What installs `extras` of this package, such as `train`: from the checkout that this is, or from the index."""
    is_checkout = (Path(__file__).parents[1] / "setup.py").is_file()
    return f'pip install -e ".[{extras}]"' if is_checkout else f'pip install "vita-audio[{extras}]"'


def is_path(name: str) -> bool:
    """Whether a name is a path on this machine, even one of nothing, and no Hub id USER/NAME."""
    folder = os.path.dirname(name)
    # An id has exactly one slash. If what is before the slash is a folder here, the name is meant as a path.
    return (
        os.path.exists(name)
        or name.count("/") != 1
        or name[0] in "./~"
        or folder in CHECKOUT_FOLDERS
        or os.path.isdir(folder)
    )


def check_place(name: str) -> None:
    """
    Raises:
        FileNotFoundError: `name` is a path of nothing.
    """
    if is_path(name) and not os.path.exists(name):
        if name.partition("/")[0] in CHECKOUT_FOLDERS:
            raise FileNotFoundError(
                f"There is no folder or file {name!r} here: start in the checkout that has it, or give its whole path."
            )
        raise FileNotFoundError(f"There is no folder or file {name!r}, and it is no Hub id such as user/name.")


@contextmanager
def naming(what: str) -> Iterator[None]:
    """For reading files that others have made: errors inside say that `what` is missing or broken."""
    try:
        yield
    except OSError as error:
        # The cause is left out, because `explain` has put it into the message.
        raise OSError(f"{what} cannot be loaded: {explain(error)}") from None
    except Exception as error:
        # A broken file can lead to any error in the library that reads it. Raised from here, it counts as the user's
        # mistake in `explain`, and becomes one line.
        raise ValueError(
            f"{what}: this is broken, or not what it should be ({type(error).__name__}: {error})."
        ) from error


@contextmanager
def no_empty_folder(folder: str | Path | None) -> Iterator[None]:
    """After an error inside, removes `folder` and the folders above it that are new and empty."""
    path = Path(folder or ".").absolute()
    # The innermost folder comes first, because a folder can only be removed when it is empty.
    new = [place for place in (path, *path.parents) if not place.exists()]
    try:
        yield
    # Ctrl-C, too, shall leave no empty folder behind.
    except BaseException:
        # If a folder has something in it, `rmdir` fails; then those above it are not empty either, and all stay.
        with suppress(OSError):
            for place in new:
                place.rmdir()
        raise


def fail(message: str, prog: str) -> int:
    # The standard output may go to another program, as with `--json`, so an error must not stand there.
    print(f"{prog}: error: {message}", file=sys.stderr)
    return 1


def one_line(error: Exception) -> str:
    # An error may have no text at all.
    return " ".join(str(error).split()) or type(error).__name__


def is_raised_by_us(error: Exception) -> bool:
    """
    Whether the error comes from a `raise` in our own code. Such a line says what the user did wrong. The same error
    out of a library may be a bug, which nobody finds without its traceback. A class for users' mistakes would not do,
    because the code of Hub folders cannot import it from here.
    """
    # The last frame is the one that raised. Functions in C have no frame: the error of `int("four")` in our code seems
    # to come from our line, so the line itself is read as well.
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    package = (frame.f_globals.get("__package__") or "").partition(".")[0]
    return package in OUR_PACKAGES and linecache.getline(frame.f_code.co_filename, line).lstrip().startswith("raise ")


def explain(error: Exception) -> str | None:
    """One line on a mistake of the user, a file, a library or the Hub; None for other errors, which may be bugs."""
    # Imported only after an error, because the help and errors of usage shall come at once.
    from json import JSONDecodeError
    from pickle import UnpicklingError

    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, StrictDataclassError
    from huggingface_hub.utils import httpx
    from jinja2 import TemplateError
    from safetensors import SafetensorError
    from yaml import YAMLError

    # transformers raises a plain OSError from what the Hub has answered.
    cause = error.__cause__ if type(error) is OSError and error.__cause__ is not None else error
    # These come before `OSError`, which `HfHubHTTPError` is as well: the Hub's own text has request ids in it.
    if isinstance(cause, (HfHubHTTPError, httpx.TransportError)):
        from .push import describe

        return describe(cause, getattr(cause, "repo_id", None) or "the repository")
    message = one_line(error)
    # These types say what is wrong: a file or the disk, a library, a Hub id, a configuration.
    if isinstance(error, (OSError, ImportError, HFValidationError, StrictDataclassError)):
        return message
    if isinstance(error, (ValueError, TypeError)) and is_raised_by_us(error):
        return message
    if isinstance(error, TemplateError):
        return f"The chat template, chat_template.jinja, refuses the conversation, or is broken: {message}"
    if isinstance(error, (SafetensorError, UnpicklingError, YAMLError, JSONDecodeError, UnicodeDecodeError)):
        return f"A file is broken or not what it should be: {message}"
    # Python's JSON reader says what it was reading. Any other endless recursion is a bug.
    if isinstance(error, RecursionError) and "JSON" in message:
        return f"A file is nested too deeply: {message}"
    return None
