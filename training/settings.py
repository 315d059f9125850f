# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads the settings of a run from a YAML file and the command line. Errors name the file and the line."""

import argparse
import difflib
import enum
import json
import os
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from transformers.hf_argparser import string_to_bool

from hub_cards.command_line import is_raised_by_us, one_line


# No setting needs a larger number, and arithmetic with larger ones can overflow.
LARGEST_NUMBER = 2**53
# Settings that count something, of which there must be at least one
AT_LEAST_ONE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "pad_to_multiple_of",
    "num_threads",
)


class SettingsLoader(yaml.SafeLoader):
    """Reads a YAML file of settings. Names that come twice, and aliases, are errors."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        # With aliases a short file can be of any size, or contain itself.
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not taken", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        # PyYAML takes the last value of a name that comes twice, and says nothing.
        seen = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"`{name}` comes twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_config(path: str | os.PathLike) -> tuple[dict, dict[str, int]]:
    """
    Returns:
        The settings in a YAML file, and the number of the line of each, from 1 on.

    Raises:
        ValueError: the file is no YAML of settings. The message names the file and, where it is known, the line.
        OSError: the file cannot be read.
    """
    try:
        loader = SettingsLoader(Path(path).read_text(encoding="utf-8"))
        # The file is read in two steps, because the nodes know their lines and the values do not.
        node = loader.get_single_node()
        settings = None if node is None else loader.construct_document(node)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
        raise ValueError(f"{place} is no YAML of settings: {getattr(error, 'problem', None) or error}.") from error
    except ValueError as error:
        # such as a date that does not exist, or a number with too many digits
        raise ValueError(f"{path} has a value that cannot be read: {error}") from error
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ValueError(
            f"{path} must have lines `name: value` with the settings, but is a {describe_kind(settings)}."
        )
    return settings, {key.value: key.start_mark.line + 1 for key, _ in node.value}


def describe_kind(value: Any) -> str:
    if value is None:
        return "file without any"
    return "mapping of other keys than names" if isinstance(value, dict) else f"{type(value).__name__}"


def check_setting(value: Any, kind: Any) -> None:
    """
    Raises:
        ValueError: `value` does not fit the type hint `kind`, or has a number that cannot be used.
    """
    if not fits(value, kind):
        name = (
            kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "").replace("NoneType", "None")
        )
        raise ValueError(f"must be {name}, got {value!r:.100}")
    for number in walk_numbers(value):
        if not -LARGEST_NUMBER <= number <= LARGEST_NUMBER:
            raise ValueError(f"has a number that is not finite, or too large: {str(number):.30}")


def walk_numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, dict)):
        for element in value.values() if isinstance(value, dict) else value:
            yield from walk_numbers(element)


def fits(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(fits(element, arguments[0]) for element in value)
    # Other types are left to the parser.
    if kind is Any or origin not in (None, dict):
        return True
    if kind is types.NoneType:
        return value is None
    if kind in (int, float, bool) and isinstance(value, str):
        # YAML reads 1e-3 as text. The parser turns it into a number later, as it does with arguments of the command
        # line.
        try:
            return -LARGEST_NUMBER <= (string_to_bool if kind is bool else kind)(value) <= LARGEST_NUMBER
        except (ValueError, argparse.ArgumentTypeError):
            return False
    # Python counts True as an int, so it would pass for a number below.
    if isinstance(value, bool):
        return kind is bool
    # YAML has no enums, so a member is named by its value, a text.
    if kind is float or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        return isinstance(value, (int, float) if kind is float else str)
    return isinstance(value, dict if origin is dict else kind)


@contextmanager
def checking_settings() -> Iterator[None]:
    """
    Turns errors of transformers and TRL into ours. For code that checks settings, whose errors say what a user did
    wrong.

    Raises:
        ValueError: a setting was refused.
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        if is_raised_by_us(error):
            raise
        raise ValueError(f"The settings are refused: {one_line(error)}") from error


def parse_settings(dataclass_types: tuple[type, ...], prog: str, argv: list[str] | None = None) -> tuple:
    """
    Reads the settings of a run.

    Args:
        dataclass_types: the dataclasses of the settings, as transformers' `HfArgumentParser` takes them.
        prog: name of the command.
        argv: `--config FILE.yaml` and settings that override it; the process's arguments by default.

    Returns:
        An instance of each of `dataclass_types`.

    Raises:
        ValueError, OSError: the file or a setting is wrong. Wrong usage of the command line exits with 2 instead.
    """
    # here, because evaluation reads its YAML files with this module and needs no trl
    from trl import TrlParser

    parser = TrlParser(dataclass_types, prog=prog)
    parser.add_argument("--config", metavar="FILE", help="YAML file of these settings")
    # The file has to be found before the other arguments are read, because its settings become their defaults.
    finder = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(argv)[0].config
    if path is not None:
        settings, lines = read_config(path)
        kinds = {"env": dict}
        for dataclass_type in dataclass_types:
            kinds |= get_type_hints(dataclass_type)
        # transformers accepts True here as well, which its type hint leaves out
        kinds["resume_from_checkpoint"] |= bool
        for name, value in settings.items():
            place = f"{path}, line {lines[name]}"
            if name not in kinds or name.startswith("_"):
                similar = difflib.get_close_matches(name, kinds, 1)
                hint = f"; did you mean `{similar[0]}`?" if similar else f"; {prog} --help lists all."
                raise ValueError(f"{place}: there is no setting `{name}`{hint}")
            try:
                check_setting(value, kinds[name])
                # Their type also allows a text, for JSON on the command line; a YAML file has mappings.
                if name.endswith("_kwargs") and isinstance(value, str):
                    raise ValueError(f"must be a mapping, got {value!r:.100}")
            except ValueError as error:
                raise ValueError(f"{place}: `{name}` {error}.") from error
        # TRL has this entry for variables of the environment.
        os.environ.update({name: str(value) for name, value in settings.pop("env", {}).items()})
        parser.set_defaults_with_config(**settings)
    with checking_settings():
        # Unknown arguments are asked for, because the parser would raise a ValueError, and wrong usage is to exit with
        # 2. By default it would also read a file of arguments beside the script that runs.
        *instances, unknown = parser.parse_args_into_dataclasses(
            argv, return_remaining_strings=True, look_for_args_file=False
        )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    # the parser adds an object for its own option `--config`
    instances = instances[: len(dataclass_types)]
    for name in AT_LEAST_ONE:
        for value in (getattr(instance, name, None) for instance in instances):
            if isinstance(value, int) and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
    return tuple(instances)


def read_mapping(value: dict | str | None, name: str) -> dict | None:
    """
    Reads a setting that is a mapping in a YAML file, and JSON of a mapping on the command line.

    Raises:
        ValueError: `value` is neither.
    """
    try:
        mapping = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{name}` must be a mapping, or JSON of one: {error}") from error
    if not isinstance(mapping, (dict, types.NoneType)):
        raise ValueError(f"`{name}` must be a mapping, or JSON of one, got {value!r:.100}.")
    return mapping
