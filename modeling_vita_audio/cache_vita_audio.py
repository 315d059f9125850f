# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What a generation has computed so far: the key-value caches and the states with which MCTP modules catch up."""

import copy
from collections.abc import Callable

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, StaticLayer

from .configuration_vita_audio import VitaAudioConfig
from .growing_cache_vita_audio import GrowingCache, GrowingLayer, GrowingTensor, move_rows_of_layer


class ColumnBuffer:
    """
    A tensor `(batch_size, num_columns, ...)` that grows at its right end and can forget columns at its left end. It
    holds the columns `start` to `end - 1`.
    """

    def __init__(self):
        # The columns up to `end - 1`, with some before `start`
        self.columns = GrowingTensor(dim=1)
        self.start = 0
        self.end = 0

    def append(self, columns: torch.Tensor):
        self.columns.append(columns)
        self.end += columns.shape[1]

    def read(self, start: int, end: int) -> torch.Tensor:
        """The columns `start` to `end - 1`, a view as that of [`GrowingTensor.read`]."""
        first = self.end - self.columns.length
        return self.columns.read(start - first, end - first)

    def keep(self, start: int, end: int):
        """Drops the columns before `start` and those from `end` on."""
        num_dropped = max(self.end - end, 0)
        self.columns.crop(self.columns.length - num_dropped)
        self.start, self.end = max(start, self.start), self.end - num_dropped
        # Forgotten columns stay until they are more than the others, so that it is rare that these are copied
        if self.columns.length > 2 * (self.end - self.start):
            self.columns.set(self.read(self.start, self.end).clone())

    def move_rows(self, shifts: list[int], start: int, end: int):
        """
        Moves row r by `shifts[r]` columns to the right, or to the left where that is negative, and then has the
        columns `start` to `end - 1`. A row that has nothing for some of these gets others of its columns there.
        """
        if self.columns.length > 0:
            held = self.columns.read()
            targets = torch.arange(start, end, device=held.device)
            sources = targets - torch.tensor(shifts, device=held.device)[:, None] - (self.end - self.columns.length)
            rows = torch.arange(len(held), device=held.device)[:, None]
            self.columns.set(held[rows, sources.clamp(0, self.columns.length - 1)])
        self.start, self.end = start, end

    def apply(self, function: Callable[[torch.Tensor], torch.Tensor]):
        """Replaces the columns by a function of them, which must not change their number."""
        if self.columns.length > 0:
            self.columns.set(function(self.columns.read()))


def check_can_crop(layers: list[CacheLayerMixin]):
    """
    Raises:
        ValueError: a layer quantises what it holds, of which nothing can be taken back.
    """
    # All such layers of transformers have this method, and no base class of all its releases
    if names := {type(layer).__name__ for layer in layers if hasattr(layer, "_quantize")}:
        raise ValueError(
            f"Tokens cannot be taken back from a cache of {', '.join(sorted(names))}, as `mctp_verify` does with "
            "drafts that are rejected. Use another `cache_implementation`, or `mctp_verify=False`."
        )


def crop_layer(layer: CacheLayerMixin, tokens_to_remove: int):
    """
    Does what [`CacheLayerMixin.crop`] does, also for static layers, which have no such method in transformers 5.19,
    and for layers that hold nothing yet, for some of which it fails.

    Raises:
        ValueError: the layer overwrites old tokens, so they cannot come back.
    """
    if not layer.is_initialized:
        return
    if type(layer) is StaticLayer:
        # What lies beyond the length is masked, and the next tokens overwrite it
        # In place, because compiled code keeps the address of this tensor
        layer.cumulative_length.sub_(abs(tokens_to_remove))
    # A sliding static layer has written new tokens over the old ones
    elif isinstance(layer, StaticLayer):
        raise ValueError(f"Tokens cannot be taken back from a {type(layer).__name__}. Use a dynamic cache.")
    else:
        layer.crop(tokens_to_remove)


class VitaAudioCache(Cache):
    """
    The state of one generation. For the language model it is an ordinary [`Cache`], whose `layers` are those of the
    language model. For the MCTP modules it keeps all that they need to go on from any point.

    Notation: the language model has read the columns (tokens) 0 to N - 1. Module k has read the columns 0 to n_k - 1,
    where N >= n_1 >= n_2 ..., and has combined column i with the token i + k. The columns that a module has not read
    yet are kept here. 4 K more are kept for K modules, so that [`~VitaAudioCache.crop`] can take back the last K
    tokens at any time: the last module must then read the K columns before them again, which it combined with those
    tokens. [`~VitaAudioCache.move_rows`] needs the others.

    Args:
        config ([`VitaAudioConfig`]):
            The model's configuration.
        language_model_cache (`Cache`, *optional*, defaults to a [`GrowingCache`]):
            An empty cache of the language model, of any type. Its layers are shared, not copied.

    Attributes:
        mctp_caches (`list[Cache]`): the keys and values of the modules. Each module has a cache of its own with one
            layer, which is of the type of the language model's last layer, so that all modules can run the same
            compiled code.

    Raises:
        ValueError: if `language_model_cache` is not empty, because the hidden states of what it holds were not kept.
    """

    def __init__(self, config: VitaAudioConfig, language_model_cache: Cache | None = None):
        if language_model_cache is None:
            language_model_cache = GrowingCache(config.text_config)
        if language_model_cache.get_seq_length() > 0:
            raise ValueError(
                "The MCTP modules cannot continue from a cache that was filled without them. Start the sequence "
                "with an empty cache, or with `cache=VitaAudioCache(model.config)`."
            )
        super().__init__(layers=language_model_cache.layers, offloading=language_model_cache.offloading)
        self.layer_class_to_replicate = language_model_cache.layer_class_to_replicate
        # A `DynamicCache` that was made without a config has no layers before its first tokens
        last_layer = self.layers[-1] if self.layers else DynamicLayer()
        self.mctp_caches = [Cache(layers=[copy.deepcopy(last_layer)]) for _ in range(config.num_mctp_modules)]
        self._clear()

    def _clear(self):
        self.inputs_embeds = ColumnBuffer()
        self.position_ids = ColumnBuffer()
        # Element k holds the hidden states that module k + 1 reads
        self.hidden_states = [ColumnBuffer() for _ in self.mctp_caches]

    @property
    def buffers(self) -> list[ColumnBuffer]:
        return [self.inputs_embeds, self.position_ids, *self.hidden_states]

    def num_columns_read(self, module_idx: int) -> int:
        """n_k, the number of columns that module k = 1, 2, ... has read; for k = 0 those of the language model, N."""
        cache = self.mctp_caches[module_idx - 1] if module_idx > 0 else self
        # A static layer counts in a tensor
        return int(cache.get_seq_length())

    def append_language_model(
        self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor, hidden_states: torch.Tensor
    ):
        """
        Keeps what the language model has just read, for the modules.

        Args:
            inputs_embeds (`torch.Tensor` of shape `(batch_size, num_new_columns, hidden_size)`): the embeddings.
            position_ids (`torch.LongTensor` of shape `(batch_size or 1, num_new_columns)`): the positions.
            hidden_states (`torch.Tensor` of shape `(batch_size, num_new_columns, hidden_size)`): the final, normalised
                hidden states.
        """
        num_modules = len(self.hidden_states)
        if num_modules > 0:
            # The last module has read the fewest columns, so it decides what can be forgotten
            start = self.num_columns_read(num_modules) - 4 * num_modules
            for buffer in self.buffers:
                buffer.keep(start, buffer.end)
            self.inputs_embeds.append(inputs_embeds)
            # One row of positions may serve the whole batch, but selecting rows of the cache needs one for each
            self.position_ids.append(position_ids.expand(inputs_embeds.shape[0], -1))
            self.hidden_states[0].append(hidden_states)

    def unread(
        self, module_idx: int, num_new_tokens: int | None = None
    ) -> tuple[torch.Tensor, torch.LongTensor, torch.Tensor]:
        """
        What module k can read next, n columns: those up to the one that it combines with the last known token.

        Args:
            module_idx (`int`): k.
            num_new_tokens (`int`, *optional*, defaults to k): how many tokens are known that the language model has
                not read; 0 to read ahead in a prompt whose end has not come.

        Returns:
            `tuple`: the hidden states of the module before it `(batch_size, n, hidden_size)`, the position ids of the
            columns `(batch_size, n)` and the embeddings of the tokens n_k + k to N - 1
            `(batch_size, max(N - n_k - k, 0), hidden_size)`.
        """
        num_read = self.num_columns_read(0)
        num_new_tokens = module_idx if num_new_tokens is None else num_new_tokens
        start, end = self.num_columns_read(module_idx), num_read - module_idx + num_new_tokens
        # The states that module k reads end where module k - 1 has stopped
        if start >= end or self.hidden_states[module_idx - 1].end < end:
            raise ValueError(
                f"It is not the turn of MCTP module {module_idx}: modules 1, 2, ... run in this order, once after "
                "each forward of the language model."
            )
        return (
            self.hidden_states[module_idx - 1].read(start, end),
            self.position_ids.read(start, end),
            # The tokens from N on have no embeddings here: MCTP modules wrote them, and the caller embeds them
            self.inputs_embeds.read(min(start + module_idx, num_read), num_read),
        )

    def append_module(self, module_idx: int, hidden_states: torch.Tensor):
        """Keeps the hidden states `(batch_size, n, hidden_size)` that module k has just computed, for the next one."""
        if module_idx < len(self.hidden_states):
            self.hidden_states[module_idx].append(hidden_states)

    def crop(self, tokens_to_remove: int):
        """
        Takes back the last tokens that the language model has read, and all that the modules have computed from them.

        Args:
            tokens_to_remove (`int`): minus the number of tokens, as in [`Cache.crop`].

        Raises:
            ValueError: if states have been forgotten that are needed to go on from there.
        """
        end = max(self.num_columns_read(0) - abs(tokens_to_remove), 0)
        # Module k has combined column i with the token i + k, so the last k columns that remain are unread again
        ends = [max(end - module_idx, 0) for module_idx in range(len(self.hidden_states) + 1)]
        if self.hidden_states and min(ends[-1], self.num_columns_read(len(ends) - 1)) < self.hidden_states[0].start:
            raise ValueError(f"Cannot take back {abs(tokens_to_remove)} tokens: the states before them are forgotten.")
        for module_idx, cache in enumerate(self.mctp_caches, start=1):
            # A module that is behind has read nothing that must be taken back, hence the `min`
            crop_layer(cache.layers[0], min(ends[module_idx] - self.num_columns_read(module_idx), 0))
        for layer in self.layers:
            crop_layer(layer, tokens_to_remove)
        for buffer, buffer_end in zip(self.buffers, [end, end, *ends]):
            buffer.keep(buffer.start, buffer_end)

    def can_move_rows(self, num_read: int | None = None) -> bool:
        """
        Whether [`~VitaAudioCache.move_rows`] is possible after the next forward of the language model. Sliding layers
        keep no columns for rows to fall back to, static ones have no room for rows that are ahead, and states may be
        missing: after [`~VitaAudioCache.rewind`], or where modules are far behind. These find them by reading on.

        Args:
            num_read (`int`, *optional*): how many columns all modules will have read then; by default so many as the
                last module has read now.
        """
        if self.offloading or any(type(layer) not in (GrowingLayer, DynamicLayer) for layer in self.layers):
            return False
        num_modules, start = len(self.hidden_states), self.hidden_states[0].start
        num_read = self.num_columns_read(num_modules) if num_read is None else num_read
        # Besides the unread columns, some are kept that rows can fall back to. A forward leaves a row at most K + 1
        # columns behind another one, and so many then remain for `crop`. Before the first column, nothing is missing
        return start == 0 or num_read - start >= 2 * (num_modules + 1)

    def move_rows(self, shifts: list[int], num_columns: int):
        """
        Takes back the last tokens, of each row its own number, and moves what remains so that all rows end at the same
        column again. To the left of it, the caller masks what belongs to no row.

        Rows read the same number of columns in each forward. So a module that has more to read of one row than of
        another reads some columns of the other one again.

        Args:
            shifts (`list[int]`): by how many columns each row moves to the right, or to the left where negative.
            num_columns (`int`): how many columns there are then. Row r keeps those up to `num_columns - shifts[r]`.

        Raises:
            ValueError: if states have been forgotten that a row would need again.
        """
        if not any(shifts):
            self.crop(num_columns - self.num_columns_read(0))
            return
        ends, num_modules = [num_columns - shift for shift in shifts], len(self.mctp_caches)
        # As in `crop`, the last k columns of each row are unread again
        read = [num_columns] + [
            max(num_columns - max(max(ends) - self.num_columns_read(k), k), 0) for k in range(1, num_modules + 1)
        ]
        start = self.hidden_states[0].start
        if start > 0:
            start = max(start + max(shifts), 0)
            if read[-1] < start:
                raise ValueError(f"Cannot move rows by {shifts} columns: the states before them are forgotten.")
        for layer in self.layers:
            move_rows_of_layer(layer, shifts, num_columns)
        for cache, num_read in zip(self.mctp_caches, read[1:]):
            move_rows_of_layer(cache.layers[0], shifts, num_read)
        for buffer, buffer_end in zip(self.buffers, [num_columns, num_columns, *read]):
            buffer.move_rows(shifts, start, buffer_end)

    def rewind(self, num_columns: int) -> int:
        """
        Goes back to any earlier point, whatever states have been forgotten: the language model and all modules then
        have read the same columns, at most those of `num_columns` that every module has read.

        Args:
            num_columns (`int`): a module combines a column with one of the next K tokens, so of a sequence of which
                the first p tokens stay, these are at most p - K.

        Returns:
            `int`: how many columns are read now.
        """
        num_columns = max(0, min(num_columns, *(self.num_columns_read(i) for i in range(len(self.mctp_caches) + 1))))
        for cache in (self, *self.mctp_caches):
            num_read = int(cache.get_seq_length())
            for layer in cache.layers:
                crop_layer(layer, num_columns - num_read)
        self._clear()
        for buffer in self.buffers:
            buffer.start = buffer.end = num_columns
        return num_columns

    # Sliding layers then keep what leaves their window, so that `crop` can bring it back
    def activate_past_recording(self):
        super().activate_past_recording()
        for cache in self.mctp_caches:
            cache.activate_past_recording()

    def reset(self):
        super().reset()
        for cache in self.mctp_caches:
            cache.reset()
        self._clear()

    # The base class would reorder its own layers alone
    def reorder_cache(self, beam_idx: torch.LongTensor):
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor):
        super().batch_select_indices(indices)
        for cache in self.mctp_caches:
            cache.batch_select_indices(indices)
        for buffer in self.buffers:
            buffer.apply(lambda columns: columns[indices])

    def batch_repeat_interleave(self, repeats: int):
        super().batch_repeat_interleave(repeats)
        for cache in self.mctp_caches:
            cache.batch_repeat_interleave(repeats)
        for buffer in self.buffers:
            buffer.apply(lambda columns: columns.repeat_interleave(repeats, dim=0))


__all__ = ["VitaAudioCache"]
