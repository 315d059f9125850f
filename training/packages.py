# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Packages that not everybody has, some of them for the weights in them alone."""

from importlib.util import find_spec
from pathlib import Path


def package_folder(module: str, purpose: str, command: str) -> Path:
    """
    The folder of a package, which is not imported for it.

    Args:
        module (`str`): its name in Python.
        purpose (`str`): what needs it.
        command (`str`): what installs it.

    Raises:
        ImportError: the package is not installed.
    """
    if (spec := find_spec(module)) is None:
        raise ImportError(f"{purpose} needs the module `{module}`: `{command}`.")
    return Path(spec.origin).parent
