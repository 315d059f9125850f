# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Training of the compact codec: of a tokenizer that hears, which starts from Whisper's encoder (`tokenizer`), and of a
decoder that speaks its codes in one voice (`decoder`).
"""
