# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Runs the MCTP modules for the batch of a runner of vLLM: after a forward of the language model they read its columns,
and write the next tokens of the requests whose schedule has them next.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from vllm.forward_context import set_forward_context
from vllm.v1.attention.backend import CommonAttentionMetadata

from .columns import RequestColumns
from .requests import DecodingOptions
from .schedules import num_drafts, uses_modules, writer_of


# Chooses tokens for rows of the batch: by the number of the module, the rows, scores `(len(rows), vocab_size)`, and
# what was written in this step so far
Choose = Callable[[int, list[int], torch.Tensor, list[list[int]]], list[int]]


@dataclass
class RequestState:
    """
    `request` is vLLM's own state, by which a later request of the same name is told from this one. Without `columns`
    no module ever writes for the request, and none reads.
    """

    request: object
    columns: RequestColumns | None
    schedule: list[int]

    def is_of(self, request: object, num_read: int) -> bool:
        """Whether this is the state of a request of which the language model has read so many columns."""
        return self.request is request and (self.columns is None or self.columns.num_read[0] == num_read)


@dataclass
class Reading:
    """The columns `start` to `end - 1` of the request in row `row` of the batch, which a module reads now."""

    row: int
    state: RequestState
    start: int
    end: int


class ModuleDecoder:
    """
    Args:
        runner (`GPUModelRunner`): of vLLM, with its model loaded.

    Attributes:
        options ([`DecodingOptions`]): of the engine.
        has_batch (`bool`): whether the language model has read columns for which `write` was not called yet.
    """

    def __init__(self, runner):
        self.runner, self.model = runner, runner.get_model()
        self.options = DecodingOptions(runner.vllm_config)
        self.has_batch = False
        cache_config = runner.vllm_config.cache_config
        self._block_size = cache_config.block_size
        # the blocks that requests share must have the columns of all modules
        self._shared_block_size = cache_config.block_size if cache_config.enable_prefix_caching else None
        self._states: dict[str, RequestState] = {}
        # What the last call of a module was about. Within a step the next module often reads the same columns
        self._last_columns: tuple[list, tuple] | None = None

    @property
    def _request_ids(self) -> list[str]:
        batch = self.runner.input_batch
        return batch.req_ids[: batch.num_reqs]

    def read(self, hidden_states: torch.Tensor) -> None:
        """Takes what the language model has read for the batch, `(num_tokens, hidden_size)` with padding behind."""
        if self.options.num_modules == 0:
            return
        requests, batch = self.runner.requests, self.runner.input_batch
        self._states = {name: state for name, state in self._states.items() if name in requests}
        ends = self.runner.query_start_loc.np[: batch.num_reqs + 1].tolist()
        for row, request_id in enumerate(self._request_ids):
            request, start = requests[request_id], int(batch.num_computed_tokens_cpu[row])
            state = self._states.get(request_id)
            # A new request, or one that was preempted, begins after the prefix that vLLM had in its cache
            if state is None or not state.is_of(request, start):
                schedule = self.options.schedule_of(request.sampling_params)
                columns = RequestColumns(self.options.num_modules, start) if uses_modules(schedule) else None
                state = self._states[request_id] = RequestState(request, columns, schedule)
            if state.columns is not None:
                # a copy, because a graph on a GPU writes into the same tensor every time
                state.columns.append(0, hidden_states[ends[row] : ends[row + 1]].clone())
        self.has_batch = True

    def write(self, is_writing: list[bool], bursts: list[list[int]], choose: Choose) -> list[list[int]]:
        """
        Lets the modules write, and read what they are to read.

        Args:
            is_writing (`list[bool]`):
                For each row of the batch whether the language model has written a token for it, which is not so for a
                prompt that is read in part.
            bursts (`list[list[int]]`):
                The tokens of each row that vLLM has not put into its batch yet.
            choose: see [`Choose`].

        Returns:
            `list[list[int]]`: `bursts` with the modules' tokens behind.
        """
        self.has_batch, self._last_columns = False, None
        batch, bursts = self.runner.input_batch, [list(burst) for burst in bursts]
        states = [self._states[request_id] for request_id in self._request_ids]
        num_tokens = [int(number) + len(burst) for number, burst in zip(batch.num_tokens_no_spec, bursts)]
        num_modules_writing = [0] * len(states)
        for row, state in enumerate(states):
            if is_writing[row] and state.columns is not None:
                # the last token has not been read by any level
                state.columns.rewind(num_tokens[row] - 1)
                num_modules_writing[row] = self._burst_length(row, state, num_tokens[row])
        for module_idx in range(1, self.options.num_modules + 1):
            readings = []
            for row, state in enumerate(states):
                if state.columns is None:
                    continue
                start = state.columns.num_read[module_idx]
                end = state.columns.end_of_reading(
                    module_idx, num_tokens[row], num_modules_writing[row], self._shared_block_size
                )
                if end > start:
                    readings.append(Reading(row, state, start, end))
            if not readings:
                continue
            hidden_states = self._run_module(module_idx, readings, bursts)
            parts = hidden_states.split([reading.end - reading.start for reading in readings])
            for reading, part in zip(readings, parts):
                reading.state.columns.append(module_idx, part)
            writing = [i for i, reading in enumerate(readings) if num_modules_writing[reading.row] >= module_idx]
            if writing:
                rows = [readings[i].row for i in writing]
                logits = self.model.compute_logits(torch.stack([parts[i][-1] for i in writing]))
                positions = [num_tokens[row] + module_idx - 1 - int(batch.num_prompt_tokens[row]) for row in rows]
                logits = self._of_speech_alone(logits, positions)
                for row, token in zip(rows, choose(module_idx, rows, logits, bursts)):
                    bursts[row].append(token)
        return bursts

    def _burst_length(self, row: int, state: RequestState, num_tokens: int) -> int:
        """How many tokens the modules write next for a row that has so many tokens."""
        num_prompt_tokens = int(self.runner.input_batch.num_prompt_tokens[row])
        room = self.runner.max_model_len - num_tokens
        if (max_tokens := state.request.sampling_params.max_tokens) is not None:
            room = min(room, num_prompt_tokens + max_tokens - num_tokens)
        # the language model writes one token after drafts
        limit = min(room - self.options.is_verified, self.options.num_modules)
        return num_drafts(state.schedule, num_tokens - num_prompt_tokens, limit)

    def _of_speech_alone(self, logits: torch.Tensor, positions: list[int]) -> torch.Tensor:
        """-inf for all that is no speech, at those positions where the model was trained to have nothing else."""
        if self.options.layout is None:
            return logits
        is_place = [writer_of(self.options.layout, position) > 0 for position in positions]
        is_place = torch.tensor(is_place, device=logits.device)
        return logits.masked_fill(is_place[:, None] & ~self.options.is_speech.to(logits.device), -torch.inf)

    def _run_module(self, module_idx: int, readings: list[Reading], bursts: list[list[int]]) -> torch.Tensor:
        """Runs a module for columns of several requests in one call; `(num_columns, hidden_size)`."""
        places = [(reading.row, reading.start, reading.end) for reading in readings]
        if self._last_columns is None or self._last_columns[0] != places:
            self._last_columns = (places, self._columns_of(places))
        columns, slots, metadata = self._last_columns[1]
        tokens = [
            token
            for row, start, end in places
            for token in self._tokens(row, start + module_idx, end + module_idx, bursts[row])
        ]
        hidden_states = torch.cat([reading.state.columns.unread(module_idx, reading.end) for reading in readings])
        name = self.model.mctp_modules[module_idx - 1].attention_name
        vllm_config = self.runner.vllm_config
        with set_forward_context({name: metadata}, vllm_config, num_tokens=len(tokens), slot_mapping={name: slots}):
            return self.model.run_module(
                module_idx, torch.tensor(tokens, device=columns.device), hidden_states, columns + module_idx
            )

    def _tokens(self, row: int, start: int, end: int, burst: list[int]) -> list[int]:
        """Tokens of a row, of which the last ones are not in vLLM's batch."""
        batch = self.runner.input_batch
        num_in_batch = int(batch.num_tokens_no_spec[row])
        tokens = batch.token_ids_cpu[row, start : min(end, num_in_batch)].tolist()
        return tokens + burst[max(start - num_in_batch, 0) : max(end - num_in_batch, 0)]

    def _columns_of(self, places: list[tuple[int, int, int]]) -> tuple[torch.Tensor, torch.Tensor, object]:
        """The columns `(num_columns,)`, their slots in vLLM's cache, and what attention needs to know of them."""
        runner, device = self.runner, self.runner.device
        lengths = [end - start for _, start, end in places]
        rows = torch.tensor([row for row, _, _ in places], device=device)
        columns = torch.cat([torch.arange(start, end) for _, start, end in places]).to(device)
        starts_cpu = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        ends = torch.tensor([end for _, _, end in places], dtype=torch.int32, device=device)
        block_table = runner.input_batch.block_table[0].get_device_tensor(runner.input_batch.num_reqs)[rows]
        of_columns = torch.repeat_interleave(torch.tensor(lengths)).to(device)
        slots = block_table[of_columns, columns // self._block_size].long() * self._block_size
        slots += columns % self._block_size
        metadata = runner.attn_groups[0][0].build_metadata(
            CommonAttentionMetadata(
                query_start_loc=starts_cpu.to(device),
                query_start_loc_cpu=starts_cpu,
                seq_lens=ends,
                num_reqs=len(places),
                num_actual_tokens=len(columns),
                max_query_len=max(lengths),
                max_seq_len=max(end for _, _, end in places),
                block_table_tensor=block_table.contiguous(),
                slot_mapping=slots,
                causal=True,
                positions=columns,
            )
        )
        return columns, slots, metadata


__all__ = ["ModuleDecoder"]
