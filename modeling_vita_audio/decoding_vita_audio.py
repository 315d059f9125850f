# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What one generation has written so far, and what `generate` returns."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput

from .compatibility_vita_audio import gives_new_cache_name
from .verification_vita_audio import Tolerances, verify_drafts


@gives_new_cache_name
@dataclass
class VitaAudioGenerateOutput(GenerateDecoderOnlyOutput):
    """
    As [`~generation.GenerateDecoderOnlyOutput`], but `hidden_states` and `attentions` hold one element for each
    forward of the language model, and there are two more attributes.

    Args:
        num_drafted_tokens (`torch.LongTensor` of shape `(batch_size,)`, *optional*, with `mctp_verify` above 0):
            How many tokens the MCTP modules drafted for each row until it ended.
        num_accepted_tokens (`torch.LongTensor` of shape `(batch_size,)`, *optional*, with `mctp_verify` above 0):
            How many of these drafts were kept.
    """

    num_drafted_tokens: torch.LongTensor | None = None
    num_accepted_tokens: torch.LongTensor | None = None


class DecodingState:
    """
    What one generation has written so far: its tokens, which rows have ended, and what it records for its output.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch_size, prompt_length)`): the prompts.
        logits_processor, stopping_criteria, generation_config, streamer: as [`GenerationMixin._sample`] gets them.
    """

    def __init__(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        streamer: BaseStreamer | None,
    ):
        self.input_ids = input_ids
        self.prompt_length = input_ids.shape[1]
        self.logits_processor = logits_processor
        self.stopping_criteria = stopping_criteria
        self.streamer = streamer
        self.do_sample = generation_config.do_sample
        self.pad_token_id = generation_config._pad_token_tensor
        # As in transformers: without a token that ends rows, no row is ever padded
        self.has_eos = any(hasattr(criteria, "eos_token_id") for criteria in stopping_criteria)
        self.unfinished_rows = torch.ones(input_ids.shape[0], dtype=torch.long, device=input_ids.device)
        self.is_finished = False
        # With `synced_gpus` a process goes on while another one has rows to finish; `close` cuts these tokens off
        self.num_after_end = 0
        self.num_drafted = torch.zeros_like(self.unfinished_rows)
        self.num_accepted = torch.zeros_like(self.unfinished_rows)

        # None where nothing is recorded, as transformers' outputs have it
        def record(is_wanted: bool | None) -> tuple | None:
            return () if generation_config.return_dict_in_generate and is_wanted else None

        self.scores = record(generation_config.output_scores)
        self.logits = record(generation_config.output_logits)
        self.attentions = record(generation_config.output_attentions)
        self.hidden_states = record(generation_config.output_hidden_states)

    def score(self, input_ids: torch.LongTensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores `(batch_size, vocab_size)` for the token after `input_ids` in float32, raw and processed."""
        # A copy, because a view would keep the logits of the whole prompt in memory
        logits = logits.to(copy=True, dtype=torch.float32, device=input_ids.device)
        return logits, self.logits_processor(input_ids, logits)

    def choose(self, scores: torch.Tensor) -> torch.LongTensor:
        """Tokens `(batch_size,)` from scores `(batch_size, vocab_size)`; the padding token in rows that have ended."""
        if not self.do_sample:
            return self.pad_finished_rows(scores.argmax(dim=-1))
        return self.pad_finished_rows(torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1))

    def pad_finished_rows(self, tokens: torch.LongTensor) -> torch.LongTensor:
        if not self.has_eos:
            return tokens
        return tokens * self.unfinished_rows + self.pad_token_id.to(tokens.device) * (1 - self.unfinished_rows)

    def write(self, tokens: torch.LongTensor, logits: torch.Tensor, scores: torch.Tensor):
        """Appends one token `(batch_size,)` to each row."""
        self.input_ids = torch.cat([self.input_ids, tokens[:, None]], dim=-1)
        if self.is_finished:
            self.num_after_end += 1
            return
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (logits,)
        if self.streamer is not None:
            self.streamer.put(tokens.cpu())
        self.unfinished_rows = self.unfinished_rows & ~self.stopping_criteria(self.input_ids, self.scores)
        self.is_finished = bool(self.unfinished_rows.max() == 0)

    def verify(
        self,
        all_logits: torch.Tensor,
        drafts: list[tuple[torch.LongTensor, torch.Tensor | None]],
        tolerances: Tolerances,
    ) -> int:
        """
        Writes the drafts that the language model keeps, up to the first that it rejects in any row, in whose place it
        writes its own token. If it keeps all, it writes one token more.

        Args:
            all_logits (`torch.Tensor` of shape `(batch_size, num_drafts + 1 or more, vocab_size)`):
                The language model's logits; the last ones are for the drafts and for the token after them.
            drafts (`list[tuple[torch.LongTensor, torch.Tensor or None]]`):
                For each draft its tokens `(batch_size,)` and, in sampling, the probabilities that they were drawn
                from, `(batch_size, vocab_size)`.
            tolerances ([`Tolerances`]): those of drafts.

        Returns:
            `int`: how many drafts were rejected, always the last ones. One that ends the last row counts as rejected,
            because no generation leaves its last token in the cache.
        """
        # Logits `(batch_size, vocab_size)` of each draft, and of the token after all of them
        *logits_of_drafts, logits_after = all_logits[:, -len(drafts) - 1 :].unbind(1)
        for index, (logits, (draft, draft_probs)) in enumerate(zip(logits_of_drafts, drafts)):
            logits, scores = self.score(self.input_ids, logits)
            place = self.input_ids.shape[1] - self.prompt_length
            is_kept, tokens = verify_drafts(draft, draft_probs, scores, tolerances(draft, place))
            # `write` changes which rows are unfinished, but this token still counts for those that were so before it
            unfinished_rows = self.unfinished_rows
            self.write(self.pad_finished_rows(torch.where(is_kept, draft, tokens)), logits, scores)
            self.num_accepted += unfinished_rows * is_kept
            # A row that has ended rejects nothing, because its tokens are padding
            if self.is_finished or bool((unfinished_rows * ~is_kept).any()):
                return len(drafts) - index
        # All drafts were kept, so the logits after them are those of the next token
        logits, scores = self.score(self.input_ids, logits_after)
        self.write(self.choose(scores), logits, scores)
        return 0

    def record_forward(self, outputs: ModelOutput):
        """Keeps the attentions and hidden states of a forward of the language model, if they are wanted."""
        if self.attentions is not None:
            self.attentions += (outputs.attentions,)
        if self.hidden_states is not None:
            self.hidden_states += (outputs.hidden_states,)

    def close(self, generation_config: GenerationConfig, **kwargs: Any) -> VitaAudioGenerateOutput | torch.LongTensor:
        """Ends the stream and returns what `generate` does. `kwargs` are further attributes of the output."""
        if self.streamer is not None:
            self.streamer.end()
        sequences = self.input_ids[:, : self.input_ids.shape[1] - self.num_after_end]
        if not generation_config.return_dict_in_generate:
            return sequences
        return VitaAudioGenerateOutput(
            sequences=sequences,
            scores=self.scores,
            logits=self.logits,
            attentions=self.attentions,
            hidden_states=self.hidden_states,
            **kwargs,
        )


__all__ = ["DecodingState", "VitaAudioGenerateOutput"]
