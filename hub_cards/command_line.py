# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What all commands share: one spelling of their options, and one line for what goes wrong."""

import argparse
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


TRACEBACK = "--traceback"
# Folders of a checkout that the settings in training/configs name: they are not owners of repositories on the Hub.
CHECKOUT_FOLDERS = ("pretrained", "runs")
# The packages of this repository, and the one as which transformers imports their files from a Hub folder.
OUR_PACKAGES = {"benchmarks", "hub_cards", "modeling_vita_audio", "processing", "serving", "training"}
OUR_PACKAGES |= {"transformers_modules"}


class ArgumentParser(argparse.ArgumentParser):
    """
    One whose options may be spelled with dashes or underscores between their words, as those of transformers' parsers may.
    They are defined with underscores.
    """

    def parse_known_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        # what follows a bare `--` are no options
        end = args.index("--") if "--" in args else len(args)
        args[:end] = map(with_underscores, args[:end])
        return super().parse_known_args(args, namespace)


def with_underscores(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def run_command(command: Callable[[list[str] | None], int | None], prog: str, argv: list[str] | None = None) -> int:
    """
    Runs a command.

    Args:
        command: takes `argv` and returns its exit code, or None where it went well.
        prog: its name, for messages.
        argv: its arguments; the process's by default. With `--traceback` among them, errors are raised as they are.

    Returns:
        `int`: the exit code: 1 where it failed, after one line on the standard error that says why. Above this line stands the
        traceback, unless the error is one that [`explain`] knows as a user's mistake.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if TRACEBACK in argv:
        argv.remove(TRACEBACK)
        return command(argv) or 0
    try:
        return command(argv) or 0
    except KeyboardInterrupt:
        return fail("interrupted", prog)
    except Exception as error:
        message = explain(error)
        if message is None:
            traceback.print_exc()
            message = f"{type(error).__name__}: {one_line(error)}"
        return fail(message, prog)


def name_as_typed(command: str, prog: str) -> str:
    """What was typed to run the module `prog`, such as `training.train`: that, or `vita-audio` and its `command`."""
    typed = os.path.basename(sys.argv[0])
    return f"{typed} {command}" if typed == "vita-audio" else prog


def is_path(name: str) -> bool:
    """Whether a name is that of a place on this machine, there or not, rather than one on the Hub, USER/NAME."""
    folder = os.path.dirname(name)
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
        FileNotFoundError: there is nothing of that name here, and it is none of the Hub's either.
    """
    if is_path(name) and not os.path.exists(name):
        if name.partition("/")[0] in CHECKOUT_FOLDERS:
            raise FileNotFoundError(
                f"There is no folder or file {name!r} here: start in the checkout that has it, or give its whole path."
            )
        raise FileNotFoundError(f"There is no folder or file {name!r}, and it is no Hub id such as user/name.")


@contextmanager
def naming(what: str) -> Iterator[None]:
    """For what others have made: what goes wrong inside is said of `what`, which is not there or not as it should be."""
    try:
        yield
    except OSError as error:
        # without what it came from, which need not be explained once more
        raise OSError(f"{what} cannot be loaded: {explain(error)}") from None
    except Exception as error:
        raise ValueError(
            f"{what}: this is broken, or not what it should be ({type(error).__name__}: {error})."
        ) from error


@contextmanager
def no_empty_folder(folder: str | Path | None) -> Iterator[None]:
    """Removes `folder`, and those it lies in, where they were not there before and an error inside has left them empty."""
    path = Path(folder or ".").absolute()
    new = [place for place in (path, *path.parents) if not place.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for place in new:
                place.rmdir()
        raise


def fail(message: str, prog: str) -> int:
    print(f"{prog}: error: {message}", file=sys.stderr)
    return 1


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def is_raised_by_us(error: Exception) -> bool:
    """
    Whether the error comes from a `raise` in our own code. Whoever wrote that line knew what the user did wrong, and says so;
    the same type of error from within a library can as well be a bug, which is found by its traceback alone. A class of its own
    would not do, because the code of Hub folders cannot import one from here.
    """
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    package = (frame.f_globals.get("__package__") or "").partition(".")[0]
    return package in OUR_PACKAGES and linecache.getline(frame.f_code.co_filename, line).lstrip().startswith("raise ")


def explain(error: Exception) -> str | None:
    """One line on a user's mistake, a file, a missing library or the Hub; None on any other error, which may be a bug."""
    from json import JSONDecodeError
    from pickle import UnpicklingError

    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, StrictDataclassError
    from huggingface_hub.utils import httpx
    from jinja2 import TemplateError
    from safetensors import SafetensorError
    from yaml import YAMLError

    # transformers hides what the Hub has answered behind plain errors
    cause = error.__cause__ if type(error) is OSError and error.__cause__ is not None else error
    if isinstance(cause, (HfHubHTTPError, httpx.TransportError)):
        from .push import describe

        return describe(cause, getattr(cause, "repo_id", None) or "the repository")
    message = one_line(error)
    # these say by their type what is missing or wrong: a file, the disk, a library, a name for the Hub, a configuration
    if isinstance(error, (OSError, ImportError, HFValidationError, StrictDataclassError)):
        return message
    if isinstance(error, (ValueError, TypeError)) and is_raised_by_us(error):
        return message
    if isinstance(error, TemplateError):
        return f"The chat template (chat_template.jinja of the processor) refuses the conversation, or is broken: {message}"
    if isinstance(error, (SafetensorError, UnpicklingError, YAMLError, JSONDecodeError, UnicodeDecodeError)):
        return f"A file is broken or not what it should be: {message}"
    # JSON that is nested without end is no bug of ours
    if isinstance(error, RecursionError) and "JSON" in message:
        return f"A file is nested too deeply: {message}"
    return None
