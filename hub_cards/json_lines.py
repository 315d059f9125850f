# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads files of JSON lines. Errors name the line."""

import json
import os
from collections.abc import Iterator


def read_json_lines(
    path: str | os.PathLike, fields: dict[str, type | tuple[type, ...]] | None = None
) -> Iterator[tuple[int, dict]]:
    """
    The rows of a file with the numbers of their lines, from 1 on. Empty lines are passed over.

    Args:
        path: the file.
        fields: the fields that each row must have, and their types.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no JSON object, or lacks a field. The message names file and line.
    """
    # Bytes, because the message for a line that is no UTF-8 shall have the number of that line.
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                # Editors on Windows may begin a file with a byte order mark, which `json` refuses.
                row = json.loads(line.decode("utf-8-sig"))
            # `json` raises RecursionError if lists are nested too deeply. Of its other error only `msg` is shown:
            # the whole text has a line number, which would always be 1.
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number} is not JSON: {getattr(error, 'msg', error)}.") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number} is not a JSON object, but a {type(row).__name__}.")
            for name, kind in (fields or {}).items():
                if not isinstance(row.get(name), kind):
                    is_there = f"has {row[name]!r:.100} as" if name in row else "lacks"
                    raise ValueError(f"{path}, line {number} {is_there} `{name}`, which must be {kind_name(kind)}.")
            yield number, row


def kind_name(kind: type | tuple[type, ...]) -> str:
    # Several types are always those of numbers: JSON may have 1 where 1.0 is meant.
    names = {str: "a text", list: "a list", dict: "an object", bool: "true or false"}
    return "a number" if isinstance(kind, tuple) or kind in (int, float) else names[kind]
