# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The command line."""
