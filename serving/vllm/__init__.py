# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""VITA-Audio on vLLM: a plugin that vLLM finds by its entry point, and the arguments of an engine."""

from .arguments import engine_arguments, serve_arguments


__all__ = ["engine_arguments", "serve_arguments"]
