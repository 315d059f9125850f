# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Training of the compact codec from nothing (`train`), of its encoder and decoder under a fixed codebook (`tune`), and
of a new decoder for fixed codes (`decoder`).
"""
