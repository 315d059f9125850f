# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The corpus of the small checkpoint: what is said (`questions`, `sentences` and the modules beside them), by whom
(`voices`), what is made of it (`conversations`), and its rendering (`render`).
"""
