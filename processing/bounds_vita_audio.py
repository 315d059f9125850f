# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Smallest and largest values of what configurations have."""

from transformers import PreTrainedConfig


# Smallest and largest values that make sense, with room to spare: a config beyond them is a mistake, and is refused
# before it fills the memory. These are of several configurations
SAMPLING_RATES, CODEBOOK_SIZES, DEPTHS, INITIALIZER_RANGES = (8000, 192000), (2, 2**20), (0, 256), (0.0, 10.0)


def check_bounds(config: PreTrainedConfig, bounds: dict[str, tuple[float, float]]) -> None:
    """
    Raises:
        ValueError: a field of `config` is a number, or a list with one, beyond the smallest and largest in `bounds`.
    """
    for name, (smallest, largest) in bounds.items():
        numbers = [getattr(config, name)]
        while numbers:
            number = numbers.pop()
            # Lists may hold lists, as dilations do
            if isinstance(number, (list, tuple)):
                numbers += number
            elif isinstance(number, bool) or not smallest <= number <= largest:
                raise ValueError(f"`{name}` must be {smallest} to {largest}, got {getattr(config, name)!r:.200}.")


__all__ = ["CODEBOOK_SIZES", "DEPTHS", "INITIALIZER_RANGES", "SAMPLING_RATES", "check_bounds"]
