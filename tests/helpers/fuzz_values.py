# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What the fuzzers have in common."""

from hypothesis import strategies as st


# What users' mistakes may end in
CLEAR_ERRORS = (ValueError, TypeError, OSError)

# Anything that JSON or Python can hold
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
