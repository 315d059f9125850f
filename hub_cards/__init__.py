# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Cards and pushing: what a model or a corpus needs to be found and used on the Hub."""
