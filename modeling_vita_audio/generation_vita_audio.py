# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""VITA-Audio generation: a schedule decides which tokens the language model writes and which the MCTP modules."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMode
from transformers.generation.streamers import BaseStreamer

from .cache_vita_audio import VitaAudioCache


# The decoding modes of the paper (arXiv 2505.03739) as schedules [main, mctp, main, mctp, ...]
MCTP_MODES = {
    "vanilla": [1, 0],
    "balance": [1, 4, 3, 8, 4, 10],
    "boost": [1, 10, 4, 10],
    "turbo": [1, 10],
}


def resolve_mctp_mode(mctp_mode: str | list[int], num_mctp_modules: int) -> list[int]:
    """
    Args:
        mctp_mode (`str` or `list[int]`): a mode's name or a schedule, see [`VitaAudioGenerationMixin`].
        num_mctp_modules (`int`): how many modules the model has.

    Returns:
        `list[int]`: the schedule.

    Raises:
        ValueError: if it is no schedule, or one for a model with more modules.
    """
    schedule = MCTP_MODES.get(mctp_mode) if isinstance(mctp_mode, str) else mctp_mode
    if not isinstance(schedule, list | tuple):
        raise ValueError(
            f"Unknown `mctp_mode` {mctp_mode!r}. It is one of {', '.join(MCTP_MODES)} or a list of numbers."
        )
    if not all(isinstance(number, int) and number >= 0 for number in schedule):
        raise ValueError(f"`mctp_mode` must be a list of integers that are not negative, got {mctp_mode}.")
    if len(schedule) == 0 or len(schedule) % 2 == 1:
        raise ValueError(f"`mctp_mode` must be a list of pairs [main, mctp, main, mctp, ...], got {mctp_mode}.")
    if min(schedule[::2]) < 1:
        raise ValueError(
            f"`mctp_mode` must begin each pair with 1 or more tokens of the language model, got {mctp_mode}."
        )
    if max(schedule[1::2]) > num_mctp_modules:
        raise ValueError(
            f"`mctp_mode` {mctp_mode} takes {max(schedule[1::2])} MCTP steps, but the model has {num_mctp_modules} modules."
        )
    return list(schedule)


def iterate_writers(schedule: list[int]) -> Iterator[int]:
    """Who writes each new token: 0 is the language model, k the MCTP module k. The last pair repeats for ever."""
    pairs = list(zip(schedule[::2], schedule[1::2]))
    for main, mctp in itertools.chain(pairs, itertools.repeat(pairs[-1])):
        yield from itertools.repeat(0, main)
        yield from range(1, mctp + 1)


class VitaAudioGenerationMixin(GenerationMixin):
    """
    Adds the argument `mctp_mode` to [`~GenerationMixin.generate`]. Its default is `generation_config.mctp_mode`, which is
    saved with the generation config, else `"vanilla"`.

    A schedule is a list [main, mctp, main, mctp, ...]: the language model writes `main` tokens, the MCTP modules 1, 2,
    ... the next `mctp` ones, and so on; the last pair repeats for ever. The names are `"vanilla"` [1, 0], which is
    the language model alone, `"balance"` [1, 4, 3, 8, 4, 10], `"boost"` [1, 10, 4, 10] and `"turbo"` [1, 10].

    The rows of a batch follow the schedule in lockstep. All else is as in transformers, for greedy search and sampling:
    logits processors, stopping criteria and streamers see every token, and `scores` and `logits` hold one element per
    new token; `hidden_states` and `attentions` hold one per forward of the language model.
    """

    def _prepare_generation_config(self, generation_config: GenerationConfig | None, **kwargs: Any):
        mctp_mode = kwargs.pop("mctp_mode", None)
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        if mctp_mode is None:
            mctp_mode = getattr(generation_config, "mctp_mode", None) or "vanilla"
        generation_config.mctp_mode = resolve_mctp_mode(mctp_mode, self.config.num_mctp_modules)

        # transformers would first offer to fetch some of the modes that are refused here
        self._validate_generation_mode(generation_config.get_generation_mode(), generation_config, {})
        if any(generation_config.mctp_mode[1::2]) and not generation_config.use_cache:
            raise ValueError(f"`mctp_mode` {mctp_mode} needs `use_cache=True`.")
        return generation_config, model_kwargs

    def _validate_generation_mode(self, generation_mode: GenerationMode, *args):
        if generation_mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
            name = generation_mode.replace("_", " ")
            raise ValueError(f"{type(self).__name__} generates by greedy search or sampling, not by {name}.")
        super()._validate_generation_mode(generation_mode, *args)

    def _prepare_cache_for_generation(self, generation_config: GenerationConfig, model_kwargs: dict, *args):
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)
        cache = model_kwargs.get("past_key_values")
        if any(generation_config.mctp_mode[1::2]) and not isinstance(cache, VitaAudioCache):
            model_kwargs["past_key_values"] = VitaAudioCache(self.config, cache)

    def _sample(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: BaseStreamer | None = None,
        **model_kwargs,
    ) -> GenerateDecoderOnlyOutput | torch.LongTensor:
        """[`GenerationMixin._sample`], except that a token's logits come from whom the schedule names."""
        if not any(generation_config.mctp_mode[1::2]):
            return super()._sample(
                input_ids,
                logits_processor,
                stopping_criteria,
                generation_config,
                synced_gpus=synced_gpus,
                streamer=streamer,
                **model_kwargs,
            )

        return_dict = generation_config.return_dict_in_generate
        scores = () if return_dict and generation_config.output_scores else None
        raw_logits = () if return_dict and generation_config.output_logits else None
        attentions = () if return_dict and generation_config.output_attentions else None
        hidden_states = () if return_dict and generation_config.output_hidden_states else None
        has_eos_stopping_criteria = any(hasattr(criteria, "eos_token_id") for criteria in stopping_criteria)
        pad_token_id = generation_config._pad_token_tensor
        unfinished_sequences = torch.ones(input_ids.shape[0], dtype=torch.long, device=input_ids.device)
        this_peer_finished = False
        num_surplus = 0  # tokens written only to keep other processes company
        num_unread = None  # tokens that the language model has not read yet; None is the prompt

        for writer in iterate_writers(generation_config.mctp_mode):
            if not self._has_unfinished_sequences(this_peer_finished, synced_gpus, device=input_ids.device):
                break

            if writer > 0:
                next_token_logits = self.forward_mctp(
                    input_ids[:, -writer:].to(self.device),
                    model_kwargs["past_key_values"],
                    model_kwargs.get("attention_mask"),
                )
            else:
                if num_unread is None:
                    outputs = self._prefill(input_ids, generation_config, model_kwargs)
                else:
                    model_inputs = self.prepare_inputs_for_generation(
                        input_ids, next_sequence_length=num_unread, **model_kwargs
                    )
                    outputs = self(**model_inputs, return_dict=True)
                num_unread = 0
                next_token_logits = outputs.logits
                if attentions is not None:
                    attentions += (outputs.attentions,)
                if hidden_states is not None:
                    hidden_states += (outputs.hidden_states,)
            num_unread += 1
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs)

            # A copy, so as not to keep the prompt's logits alive
            next_token_logits = next_token_logits[:, -1].to(copy=True, dtype=torch.float32, device=input_ids.device)
            next_token_scores = logits_processor(input_ids, next_token_logits)
            if generation_config.do_sample:
                probs = nn.functional.softmax(next_token_scores, dim=-1)
                next_tokens = torch.multinomial(probs, num_samples=1).squeeze(1)
            else:
                next_tokens = torch.argmax(next_token_scores, dim=-1)
            if has_eos_stopping_criteria:
                next_tokens = next_tokens * unfinished_sequences + pad_token_id * (1 - unfinished_sequences)
            input_ids = torch.cat([input_ids, next_tokens[:, None]], dim=-1)

            if this_peer_finished:
                num_surplus += 1
                continue
            if scores is not None:
                scores += (next_token_scores,)
            if raw_logits is not None:
                raw_logits += (next_token_logits,)
            if streamer is not None:
                streamer.put(next_tokens.cpu())
            unfinished_sequences = unfinished_sequences & ~stopping_criteria(input_ids, scores)
            this_peer_finished = bool(unfinished_sequences.max() == 0)

        if streamer is not None:
            streamer.end()
        input_ids = input_ids[:, : input_ids.shape[1] - num_surplus]
        if not return_dict:
            return input_ids
        return GenerateDecoderOnlyOutput(
            sequences=input_ids,
            scores=scores,
            logits=raw_logits,
            attentions=attentions,
            hidden_states=hidden_states,
            past_key_values=model_kwargs["past_key_values"],
        )


__all__ = ["MCTP_MODES", "VitaAudioGenerationMixin"]
