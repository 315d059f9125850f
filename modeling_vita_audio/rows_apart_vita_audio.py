# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Verified decoding of a batch whose rows are at different places: each row keeps as many drafts as the language model
keeps of its own.

Rows differ in length, but all end at the same column of the cache, as prompts that are padded on the left do. A row
that has fallen behind is moved to the right, and more padding is on its left. So the model and its attention see an
ordinary batch.
"""

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import logits_process
from transformers.generation.stopping_criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StopStringCriteria,
)

from .cache_vita_audio import VitaAudioCache
from .decoding_vita_audio import DecodingState, VitaAudioGenerateOutput
from .verification_vita_audio import Tolerances, are_sure, verify_drafts


# Processors of transformers that look at nothing but the scores, so they take those of different lengths at once
PROCESSORS_OF_SCORES = (
    logits_process.EpsilonLogitsWarper,
    logits_process.EtaLogitsWarper,
    logits_process.InfNanRemoveLogitsProcessor,
    logits_process.LogitNormalization,
    logits_process.MinPLogitsWarper,
    logits_process.SuppressTokensLogitsProcessor,
    logits_process.TemperatureLogitsWarper,
    logits_process.TopKLogitsWarper,
    logits_process.TopPLogitsWarper,
    logits_process.TypicalLogitsWarper,
)
# Those that look at the tokens before, too, but at each row by itself
PROCESSORS_OF_ROWS = (
    *PROCESSORS_OF_SCORES,
    logits_process.ExponentialDecayLengthPenalty,
    logits_process.ForcedBOSTokenLogitsProcessor,
    logits_process.ForcedEOSTokenLogitsProcessor,
    logits_process.MinLengthLogitsProcessor,
    logits_process.MinNewTokensLengthLogitsProcessor,
    logits_process.NoBadWordsLogitsProcessor,
    logits_process.NoRepeatNGramLogitsProcessor,
    logits_process.RepetitionPenaltyLogitsProcessor,
    logits_process.SequenceBiasLogitsProcessor,
    logits_process.SuppressTokensAtBeginLogitsProcessor,
    logits_process.WatermarkLogitsProcessor,
)
CRITERIA_OF_ROWS = (EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria, StopStringCriteria)


def can_part(state: DecodingState, cache: VitaAudioCache) -> bool:
    """
    Whether the rows of a batch can be at different places. They stay together where something wants all rows at once:
    a streamer, or processors and criteria that transformers does not have or that count rows.
    """
    # Without a token that ends rows, those that have ended are not padded but written to the end of the last one
    do_rows_end_alike = all(type(criteria) is MaxLengthCriteria for criteria in state.stopping_criteria)
    return (
        len(state.input_ids) > 1
        and state.streamer is None
        and all(type(processor) in PROCESSORS_OF_ROWS for processor in state.logits_processor)
        and all(type(criteria) in CRITERIA_OF_ROWS for criteria in state.stopping_criteria)
        and (state.has_eos or do_rows_end_alike)
        # Before the first row moves, all modules can have read the prompt
        and cache.can_move_rows(state.prompt_length)
    )


class RowsApart:
    """
    What a generation has written so far whose rows differ in length. The language model has read all tokens of a row
    but the last one.

    A row that has ended is let out of the batch, so that the others are faster. Only where somebody has the cache
    afterwards, because `generate` returns it or was given it, the row goes on with padding, as in transformers: its
    drafts are padding and are kept, but it never becomes the longest row.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch_size, prompt_length)`): the prompts.
        logits_processor, stopping_criteria, generation_config: as [`GenerationMixin._sample`] gets them.
        turns (`Iterator[tuple[int, bool]]`): for each new token the module that gives it, and whether it can only be
            speech.
        tolerances ([`Tolerances`]): those of drafts.
    """

    def __init__(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        turns: Iterator[tuple[int, bool]],
        tolerances: Tolerances,
    ):
        self.batch_size, self.prompt_length = input_ids.shape
        input_ids = input_ids.long()
        self.logits_processor, self.stopping_criteria = logits_processor, stopping_criteria
        self.tolerances, self.do_sample = tolerances, generation_config.do_sample
        self.max_length = stopping_criteria.max_length or float("inf")
        pad_token_id = generation_config._pad_token_tensor
        # Without one, all rows end at the same length, and what stands behind an end is never seen
        self.pad_token_id = 0 if pad_token_id is None else int(pad_token_id)
        # Each row's tokens, and behind these its drafts or anything
        self.ids = torch.nn.functional.pad(input_ids, (0, 1), value=self.pad_token_id)
        # The same numbers on the device and here
        self.lengths = input_ids.new_full((self.batch_size,), self.prompt_length)
        self.places = self.lengths.tolist()
        self.are_unfinished = torch.ones_like(self.lengths, dtype=torch.bool)
        self.unfinished_rows = list(range(self.batch_size))
        # Which rows of the prompts those of the batch are, and the tokens of those that were let out
        self.original_rows, self.let_out_rows = torch.arange(self.batch_size, device=input_ids.device), {}
        self.num_drafted, self.num_accepted = torch.zeros_like(self.lengths), torch.zeros_like(self.lengths)
        self._turns, self._turns_so_far = turns, []
        # How many drafts each row has; the longest has `num_drafts`
        self.counts, self.num_drafts = [0] * self.batch_size, 0
        # In sampling, for each draft what it was drawn from, `(batch_size, vocab_size)`, zeros where a row has none
        self.draft_probs: list[torch.Tensor] = []
        is_recorded = generation_config.return_dict_in_generate
        self.keeps_rows = is_recorded or generation_config.is_cache_given
        self.logits = [] if is_recorded and generation_config.output_logits else None
        self.scores = [] if is_recorded and generation_config.output_scores else None
        self.attentions = () if is_recorded and generation_config.output_attentions else None
        self.hidden_states = () if is_recorded and generation_config.output_hidden_states else None

    @property
    def is_finished(self) -> bool:
        # In a cache that somebody goes on with, the rows that have ended have their padding, too
        return not self.unfinished_rows and (not self.keeps_rows or len(set(self.places)) == 1)

    def turn(self, row: int, num_ahead: int) -> tuple[int, bool]:
        """Which module writes the token that is `num_ahead` behind a row's next one; whether it can only be speech."""
        index = self.places[row] - self.prompt_length + num_ahead
        if index >= len(self._turns_so_far):
            self._turns_so_far += itertools.islice(self._turns, index + 1 - len(self._turns_so_far))
        return self._turns_so_far[index]

    def let_out(self) -> list[int]:
        """Lets the rows that have ended out of the batch; returns the others, by their places in the batch before."""
        staying = list(range(self.batch_size))
        if self.keeps_rows or len(self.unfinished_rows) in (0, self.batch_size):
            return staying
        for row in set(staying) - set(self.unfinished_rows):
            self.let_out_rows[int(self.original_rows[row])] = self.ids[row, : self.places[row]]
        staying, self.batch_size = self.unfinished_rows, len(self.unfinished_rows)
        self.places, self.counts = [self.places[row] for row in staying], [0] * self.batch_size
        for name in ("ids", "lengths", "are_unfinished", "num_drafted", "num_accepted", "original_rows"):
            setattr(self, name, getattr(self, name)[staying])
        self.unfinished_rows = list(range(self.batch_size))
        return staying

    def begin_drafts(self, most_drafts: int):
        """Decides how many drafts each row can get; `most_drafts` is how many there can be at all."""
        self.counts, self.draft_probs = [0] * self.batch_size, []
        # The language model writes one token after the drafts, for which there must be room
        rooms = {row: self.max_length - self.places[row] - 1 for row in self.unfinished_rows}
        for row, room in rooms.items():
            while self.counts[row] < room and self.turn(row, self.counts[row])[0] > 0:
                self.counts[row] += 1
        if self.tolerances.is_lossless:
            # The modules run for all rows if they do for one. So a row whose schedule has no drafts here gets some as
            # well, which change nothing but how often the language model has to run
            most = max(self.counts)
            self.counts = [min(most, rooms.get(row, 0)) for row in range(self.batch_size)]
        # Room for the drafts and the token after them
        num_missing = max(self.places) + most_drafts + 1 - self.ids.shape[1]
        if num_missing > 0:
            self.ids = torch.nn.functional.pad(self.ids, (0, num_missing + most_drafts), value=self.pad_token_id)
        if not self.unfinished_rows:
            # The rows that have ended get the padding that they lack
            self.counts = [min(max(self.places) - min(self.places) - 1, most_drafts)] * self.batch_size

    def end_drafts(self):
        """All drafts have been chosen."""
        self.num_drafts = max(self.counts)
        for row in set(range(self.batch_size)) - set(self.unfinished_rows):
            self.counts[row] = self.num_drafts
            self.ids[row, self.places[row] :] = self.pad_token_id

    def unread(self, num_tokens: int) -> torch.LongTensor:
        """The last token of each row and the drafts behind it, `(batch_size, num_tokens)`."""
        return self.ids.gather(1, self.lengths[:, None] - 1 + torch.arange(num_tokens, device=self.ids.device))

    def draft(self, index: int, rows: list[int], logits: torch.Tensor):
        """Chooses draft `index` = 0, 1, ... of some rows from a module's logits `(batch_size, vocab_size)`."""
        row_numbers, rows = rows, torch.tensor(rows, device=self.ids.device)
        places = self.lengths[rows] + index
        scores = self._process(rows, places, logits.to(self.ids.device)[rows].float())
        if self.do_sample:
            probs = scores.softmax(dim=-1)
            tokens = torch.multinomial(probs, num_samples=1).squeeze(1)
            self.draft_probs.append(torch.zeros_like(logits, dtype=torch.float32, device=self.ids.device))
            self.draft_probs[-1][rows] = probs
        else:
            tokens = scores.argmax(dim=-1)
        self.ids[rows, places] = tokens
        if self.tolerances.is_lossless:
            for row, is_sure in zip(row_numbers, are_sure(tokens, scores).tolist()):
                if not is_sure:
                    self.counts[row] = index + 1

    def _process(self, rows: torch.LongTensor, places: torch.LongTensor, logits: torch.Tensor) -> torch.Tensor:
        """
        The processed scores of tokens: of their rows, their places in these and their logits, `(num_tokens,)` and
        `(num_tokens, vocab_size)`.
        """
        if all(type(processor) in PROCESSORS_OF_SCORES for processor in self.logits_processor):
            return self.logits_processor(self.ids[rows, :1], logits)
        scores = torch.empty_like(logits)
        # Tokens at one place have equally many before them, so they make a batch
        for place in places.unique().tolist():
            are_here = places == place
            original_rows = self.original_rows[rows[are_here]]
            processors = LogitsProcessorList(of_rows(processor, original_rows) for processor in self.logits_processor)
            scores[are_here] = processors(self.ids[rows[are_here], :place], logits[are_here])
        return scores

    def verify(self, all_logits: torch.Tensor) -> list[int]:
        """
        Writes to each row the drafts that the language model keeps, up to the first that it rejects, and then one
        token of its own.

        Args:
            all_logits (`torch.Tensor` of shape `(batch_size, num_drafts + 1 or more, vocab_size)`):
                The language model's logits; the last ones are for the drafts and for the token after them.

        Returns:
            `list[int]`: how many of the last `num_drafts + 1` columns that the language model has read stay in each
            row.
        """
        device, num_columns = self.ids.device, self.num_drafts + 1
        columns = torch.arange(num_columns, device=device)
        counts = torch.tensor(self.counts, device=device)
        grid = self.lengths[:, None] + columns
        drafts = self.ids.gather(1, grid)
        # All drafts and the tokens after them, row by row
        of_rows, of_columns = (columns <= counts[:, None]).nonzero(as_tuple=True)
        logits = all_logits[:, -num_columns:].to(device)[of_rows, of_columns].float()
        scores = self._process(of_rows, grid[of_rows, of_columns], logits)
        draft_probs = None
        if self.do_sample:
            # Rows without a draft draw from the language model's own probabilities
            no_probs = all_logits.new_zeros(all_logits.shape[0], all_logits.shape[2], device=device).float()
            draft_probs = torch.stack([*self.draft_probs, *(num_columns - len(self.draft_probs)) * [no_probs]], dim=1)
            draft_probs = draft_probs[of_rows, of_columns]
        drafts_here = drafts[of_rows, of_columns]
        tolerances = self.tolerances(drafts_here, grid[of_rows, of_columns] - self.prompt_length)
        is_kept, tokens = verify_drafts(drafts_here, draft_probs, scores, tolerances)
        # As a table of rows and columns again
        are_kept = torch.zeros_like(grid)
        are_kept[of_rows, of_columns] = (is_kept & (of_columns < counts[of_rows])).long()
        own_tokens = torch.full_like(grid, self.pad_token_id)
        own_tokens[of_rows, of_columns] = tokens
        num_kept = are_kept.cumprod(dim=1).sum(dim=1)
        written = torch.where(columns < num_kept[:, None], drafts, own_tokens)
        written = written.where(self.are_unfinished[:, None], self.pad_token_id)
        self.ids.scatter_(1, grid, written)

        is_end = self._find_ends(grid, written, self.are_unfinished[:, None] & (columns <= num_kept[:, None]))
        has_ended = is_end.any(dim=1)
        num_new = torch.where(has_ended, is_end.long().argmax(dim=1), num_kept) + 1
        self.num_drafted += counts * self.are_unfinished
        self.num_accepted += torch.minimum(num_kept, num_new) * self.are_unfinished
        # Padding follows the longest row
        longest = (self.lengths + num_new * self.are_unfinished).max()
        num_padding = (longest - self.lengths).clamp(max=num_columns)
        num_new = torch.where(self.are_unfinished, num_new, num_padding)
        for records, values in ((self.logits, logits), (self.scores, scores)):
            if records is not None:
                are_new = of_columns < num_new[of_rows]
                self._record(records, of_rows[are_new], grid[of_rows, of_columns][are_new], values[are_new])

        self.lengths = self.lengths + num_new
        self.places = self.lengths.tolist()
        self.are_unfinished = self.are_unfinished & ~has_ended
        self.unfinished_rows = self.are_unfinished.nonzero()[:, 0].tolist()
        return num_new.tolist()

    def _find_ends(self, grid: torch.LongTensor, written: torch.LongTensor, are_new: torch.BoolTensor) -> torch.Tensor:
        """Whether each token ends its row; all arguments, and what is returned, are tables of rows and columns."""
        rows, columns = are_new.nonzero(as_tuple=True)
        lengths = grid[rows, columns] + 1
        is_end = torch.zeros_like(lengths, dtype=torch.bool)
        for criteria in self.stopping_criteria:
            if isinstance(criteria, EosTokenCriteria):
                # It looks at the last token alone
                is_end |= criteria(written[rows, columns][:, None], None)
            elif isinstance(criteria, MaxLengthCriteria):
                is_end |= lengths >= criteria.max_length
            else:
                for length in lengths.unique().tolist():
                    are_here = lengths == length
                    is_end[are_here] |= criteria(self.ids[rows[are_here], :length], None)
        ends = torch.zeros_like(are_new)
        ends[rows, columns] = is_end
        return ends

    def _record(self, records: list, rows: torch.LongTensor, places: torch.LongTensor, values: torch.Tensor):
        """Keeps values `(num_tokens, vocab_size)` in the records `(batch_size, vocab_size)` of their places."""
        for place in places.unique().tolist():
            while len(records) <= place - self.prompt_length:
                records.append(values.new_zeros(self.batch_size, values.shape[1]))
            are_here = places == place
            records[place - self.prompt_length][rows[are_here]] = values[are_here]

    # The same attributes are recorded, and in the same way
    record_forward = DecodingState.record_forward

    def close(self, generation_config: GenerationConfig, **kwargs: Any) -> VitaAudioGenerateOutput | torch.LongTensor:
        """Returns what `generate` does. `kwargs` are further attributes of the output."""
        rows = self.let_out_rows | {
            int(original): row[:length] for original, row, length in zip(self.original_rows, self.ids, self.places)
        }
        sequences = pad_sequence([rows[row] for row in sorted(rows)], True, self.pad_token_id)
        if not generation_config.return_dict_in_generate:
            return sequences
        return VitaAudioGenerateOutput(
            sequences=sequences,
            scores=None if self.scores is None else tuple(self.scores),
            logits=None if self.logits is None else tuple(self.logits),
            attentions=self.attentions,
            hidden_states=self.hidden_states,
            num_drafted_tokens=self.num_drafted,
            num_accepted_tokens=self.num_accepted,
            **kwargs,
        )


def of_rows(processor: LogitsProcessor, rows: torch.LongTensor) -> LogitsProcessor:
    """A processor as it is for some rows of its batch."""
    # A repetition penalty knows how much padding each prompt has, since transformers 5.24
    lengths = getattr(processor, "prompt_ignore_length", None)
    if isinstance(lengths, torch.Tensor):
        processor = copy.copy(processor)
        processor.prompt_ignore_length = lengths.to(rows.device)[rows]
    return processor


def move_columns(columns: torch.Tensor, shifts: torch.LongTensor, num_columns: int) -> torch.Tensor:
    """
    Moves row r of `(batch_size, num_old_columns)` by `shifts[r]` columns to the right, and keeps the first
    `num_columns`. What is new on the left is 0.
    """
    sources = torch.arange(num_columns, device=columns.device) - shifts.to(columns.device)[:, None]
    return columns.gather(1, sources.clamp(min=0)).masked_fill(sources < 0, 0)


__all__ = ["RowsApart", "can_part", "move_columns"]
