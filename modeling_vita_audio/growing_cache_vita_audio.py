# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Tensors that grow in place, and a cache of keys and values that are such: what is held already is copied only when its
buffer is full, and not for each new token.
"""

import copy

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer


class GrowingTensor:
    """
    A tensor that is appended to along one dimension. It lies at the start of a buffer whose size along this dimension
    is a power of two, so the buffer takes less than twice the memory of the longest tensor that it has held.

    Where gradients are computed or code is compiled, nothing is written in place: then [`append`] concatenates.

    Args:
        dim (`int`): the dimension that grows.
    """

    def __init__(self, dim: int):
        self.dim = dim
        self.length = 0
        self.buffer: torch.Tensor | None = None
        # Whether the buffer was made here. Any other tensor may be somebody else's, so it is not written to
        self.is_own = False

    def __copy__(self) -> "GrowingTensor":
        """One with a length of its own and the same buffer, which only the original may write to."""
        other = GrowingTensor(self.dim)
        other.set(self.read())
        return other

    def __deepcopy__(self, memo: dict) -> "GrowingTensor":
        # Without the room for more
        other = GrowingTensor(self.dim)
        other.set(None if self.buffer is None else self.read().clone())
        return other

    def set(self, tensor: torch.Tensor | None):
        """Replaces the tensor. It is held as it is, and copied when it is next appended to."""
        self.buffer, self.is_own = tensor, False
        self.length = 0 if tensor is None else tensor.shape[self.dim]

    def read(self, start: int = 0, end: int | None = None) -> torch.Tensor | None:
        """
        A view of `start` to `end - 1`, by default of all; None before anything was held. It stays as it is until
        something is appended after a [`crop`] that took some of it back.
        """
        if self.buffer is None:
            return None
        end = self.length if end is None else end
        return self.buffer.narrow(self.dim, start, end - start)

    def crop(self, length: int):
        """Forgets all beyond a length. The room is used again."""
        self.length = min(length, self.length)

    def move_rows(self, shifts: list[int], length: int):
        """
        Moves row r by `shifts[r]` columns to the right, or to the left where that is negative, and keeps the first
        `length` columns. Where nothing is moved to, something stays that has no meaning, but is finite.
        """
        if not self._is_writable():
            self.buffer, self.is_own = self.buffer.clone(), True
        for row, shift in enumerate(shifts):
            start, end = max(shift, 0), min(self.length + shift, length)
            if shift != 0 and start < end:
                columns = self.buffer[row : row + 1]
                moved = columns.narrow(self.dim, start - shift, end - start).clone()
                columns.narrow(self.dim, start, end - start).copy_(moved)
        self.length = length

    def append(self, new: torch.Tensor) -> torch.Tensor:
        """Appends a tensor, which has the shape of the one held but for the dimension that grows, and returns all."""
        length = self.length + new.shape[self.dim]
        # What a backward pass has kept must not change, not even beyond the part that it needs
        grows_in_place = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        if grows_in_place and self._has_room(new, length):
            self.buffer.narrow(self.dim, self.length, new.shape[self.dim]).copy_(new)
            self.length = length
            return self.read()
        held = [self.read()] if self.length > 0 else []
        if not grows_in_place:
            self.set(torch.cat([*held, new], dim=self.dim))
            return self.buffer
        shape = list(new.shape)
        shape[self.dim] = 1 << (length - 1).bit_length()
        dtype = torch.promote_types(self.buffer.dtype, new.dtype) if held else new.dtype
        buffer = new.new_empty(shape, dtype=dtype)
        # `cat` refuses tensors that do not belong together, where `copy_` would repeat rows
        torch.cat([*held, new], dim=self.dim, out=buffer.narrow(self.dim, 0, length))
        self.buffer, self.is_own, self.length = buffer, True, length
        return self.read()

    def _has_room(self, new: torch.Tensor, length: int) -> bool:
        return (
            self._is_writable()
            and length <= self.buffer.shape[self.dim]
            and (len(new), new.dtype, new.device) == (len(self.buffer), self.buffer.dtype, self.buffer.device)
        )

    def _is_writable(self) -> bool:
        # Outside of inference mode, PyTorch refuses to change what was made inside of it
        return self.is_own and (torch.is_inference_mode_enabled() or not self.buffer.is_inference())


class GrowingLayer(DynamicLayer):
    """
    A [`DynamicLayer`] whose keys and values grow in place.

    The tensors that [`update`] returns, and `keys` and `values`, are views `(batch_size, num_heads, num_columns,
    head_dim)` of larger buffers. They stay as they are until an [`update`] after a [`crop`] that took back some of
    their columns; clone what must stay longer.
    """

    def __init__(self):
        # Before `super`, which sets `keys` and `values` to None
        self._keys, self._values = GrowingTensor(dim=-2), GrowingTensor(dim=-2)
        super().__init__()

    # What the base class does with these two but for growing and cropping (offloading, choosing rows, resetting), it
    # does here, too
    @property
    def keys(self) -> torch.Tensor | None:
        return self._keys.read()

    @keys.setter
    def keys(self, keys: torch.Tensor | None):
        self._keys.set(keys)

    @property
    def values(self) -> torch.Tensor | None:
        return self._values.read()

    @values.setter
    def values(self, values: torch.Tensor | None):
        self._values.set(values)

    def __copy__(self) -> "GrowingLayer":
        other = type(self).__new__(type(self))
        other.__dict__ |= {**self.__dict__, "_keys": copy.copy(self._keys), "_values": copy.copy(self._values)}
        return other

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor):
        self.device = key_states.device
        # Not by the properties, whose setters code that PyTorch 2.11 has compiled calls once more at its end
        self._keys.set(torch.empty_like(key_states[..., :0, :]))
        self._values.set(torch.empty_like(value_states[..., :0, :]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Appends keys and values `(batch_size, num_heads, num_new_columns, head_dim)` and returns all.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._keys.append(key_states), self._values.append(value_states)

    def get_seq_length(self) -> int:
        """The number of columns."""
        return self._keys.length

    def crop(self, tokens_to_remove: int):
        """
        Takes back the last columns.

        Args:
            tokens_to_remove (`int`): minus their number.

        Raises:
            ValueError: the number is positive.
        """
        if tokens_to_remove > 0:
            # An error since transformers 5.20, the length that remains before
            super().crop(tokens_to_remove)
            return
        for tensor in (self._keys, self._values):
            tensor.crop(max(tensor.length + tokens_to_remove, 0))


def move_rows_of_layer(layer: DynamicLayer, shifts: list[int], num_columns: int):
    """
    Moves the keys and values of row r by `shifts[r]` columns to the right, see [`GrowingTensor.move_rows`]. The layer
    is a [`GrowingLayer`] or a [`DynamicLayer`] of transformers, not one of a subclass.
    """
    if not layer.is_initialized:
        return
    if isinstance(layer, GrowingLayer):
        for tensor in (layer._keys, layer._values):
            tensor.move_rows(shifts, num_columns)
        return
    for name in ("keys", "values"):
        tensor = GrowingTensor(dim=-2)
        tensor.set(getattr(layer, name))
        tensor.move_rows(shifts, num_columns)
        setattr(layer, name, tensor.read())


class GrowingCache(DynamicCache):
    """
    A [`DynamicCache`] whose full attention layers are [`GrowingLayer`]s; all others (such as those of sliding
    attention, which do not grow) are those of transformers.

    Args:
        config (`PreTrainedConfig`): the language model's configuration.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config=config)
        self.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in self.layers]


__all__ = ["GrowingCache", "GrowingLayer", "GrowingTensor", "move_rows_of_layer"]
