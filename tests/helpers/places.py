# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Where things are in the checkout that is tested."""

from pathlib import Path


ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
HELPERS = TESTS / "helpers"
FIXTURES = TESTS / "fixtures"
MINI = ROOT / "pretrained" / "vita-audio-mini"
