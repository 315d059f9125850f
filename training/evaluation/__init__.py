# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of a model (`evaluate_held_out`, `harness`) and of a codec (`evaluate_codec`), as an independent recogniser hears them."""
