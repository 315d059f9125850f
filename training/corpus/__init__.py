# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The corpus of the small checkpoint: what is said (`sentences`), by whom (`voices`), and its rendering (`render`)."""
