# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""VITA-Audio generation: a schedule decides which tokens the language model writes and which the MCTP modules."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMode
from transformers.generation.streamers import BaseStreamer

from .cache_vita_audio import VitaAudioCache
from .compatibility_vita_audio import CACHE, gives_new_cache_name, rename_cache


# The decoding modes of the paper (arXiv 2505.03739) as schedules [main, mctp, main, mctp, ...]
MCTP_MODES = {
    "vanilla": [1, 0],
    "balance": [1, 4, 3, 8, 4, 10],
    "boost": [1, 10, 4, 10],
    "turbo": [1, 10],
}


# Arguments of the model's forward that no generation has a use for
NOT_IN_GENERATION = ("labels", "num_items_in_batch", "skip_logits", "output_mctp_logits")


@gives_new_cache_name
@dataclass
class VitaAudioGenerateOutput(GenerateDecoderOnlyOutput):
    """
    As [`~generation.GenerateDecoderOnlyOutput`], whose `hidden_states` and `attentions` hold one element per forward of
    the language model here, and

    Args:
        num_drafted_tokens (`torch.LongTensor` of shape `(batch_size,)`, *optional*, returned when `mctp_verify=True`):
            How many tokens MCTP modules have drafted for each row, until it ended.
        num_accepted_tokens (`torch.LongTensor` of shape `(batch_size,)`, *optional*, returned when `mctp_verify=True`):
            How many of them were written.
    """

    num_drafted_tokens: torch.LongTensor | None = None
    num_accepted_tokens: torch.LongTensor | None = None


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
            f"Unknown `mctp_mode` {mctp_mode!r:.200}. It is one of {', '.join(MCTP_MODES)} or a list of numbers."
        )
    if not all(isinstance(number, Integral) and number >= 0 for number in schedule):
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
    return [int(number) for number in schedule]


def writer_at(schedule: list[int], position: int) -> int:
    """Who writes new token `position` = 0, 1, ...: 0 is the language model, k the MCTP module k."""
    *pairs, last_pair = zip(schedule[::2], schedule[1::2])
    for main, mctp in itertools.chain(pairs, itertools.repeat(last_pair)):
        if position < main + mctp:
            return max(position - main + 1, 0)
        position -= main + mctp


def verify_draft(draft: torch.LongTensor, draft_probs: torch.Tensor, probs: torch.Tensor) -> torch.LongTensor:
    """
    Speculative sampling (arXiv 2211.17192, algorithm 1): tokens that are distributed by `probs`, and as often as possible
    equal to the draft.

    Args:
        draft (`torch.LongTensor` of shape `(batch_size,)`): tokens that were drawn from `draft_probs`.
        draft_probs (`torch.Tensor` of shape `(batch_size, vocab_size)`): the probabilities of the MCTP module.
        probs (`torch.Tensor` of shape `(batch_size, vocab_size)`): those of the language model.
    """
    ratio = (probs / draft_probs).gather(1, draft[:, None]).squeeze(1)
    residual = (probs - draft_probs).clamp(min=0)
    # Nothing is left where both are the same; then the draft is accepted
    residual = torch.where(residual.sum(dim=1, keepdim=True) > 0, residual, probs)
    return torch.where(torch.rand_like(ratio) < ratio, draft, torch.multinomial(residual, num_samples=1).squeeze(1))


class Transcript:
    """The tokens of one generation, which rows have ended, and what is recorded on the way."""

    def __init__(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        streamer: BaseStreamer | None,
    ):
        self.input_ids = input_ids
        self.logits_processor = logits_processor
        self.stopping_criteria = stopping_criteria
        self.streamer = streamer
        self.do_sample = generation_config.do_sample
        self.pad_token_id = generation_config._pad_token_tensor
        self.has_eos = any(hasattr(criteria, "eos_token_id") for criteria in stopping_criteria)
        self.unfinished_rows = torch.ones(input_ids.shape[0], dtype=torch.long, device=input_ids.device)
        self.is_finished = False
        self.num_surplus = 0  # tokens written only to keep other processes company

        def record(is_wanted: bool | None) -> tuple | None:
            return () if generation_config.return_dict_in_generate and is_wanted else None

        self.scores = record(generation_config.output_scores)
        self.logits = record(generation_config.output_logits)
        self.attentions = record(generation_config.output_attentions)
        self.hidden_states = record(generation_config.output_hidden_states)

    def score(self, input_ids: torch.LongTensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores `(batch_size, vocab_size)` for the token after `input_ids` in float32, raw and processed."""
        # A copy, so as not to keep the prompt's logits alive
        logits = logits.to(copy=True, dtype=torch.float32, device=input_ids.device)
        return logits, self.logits_processor(input_ids, logits)

    def choose(self, scores: torch.Tensor) -> torch.LongTensor:
        if not self.do_sample:
            return scores.argmax(dim=-1)
        return torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)

    def pad_finished_rows(self, tokens: torch.LongTensor) -> torch.LongTensor:
        if not self.has_eos:
            return tokens
        return tokens * self.unfinished_rows + self.pad_token_id.to(tokens.device) * (1 - self.unfinished_rows)

    def write(self, tokens: torch.LongTensor, logits: torch.Tensor, scores: torch.Tensor):
        """Appends one token `(batch_size,)` to each row."""
        self.input_ids = torch.cat([self.input_ids, tokens[:, None]], dim=-1)
        if self.is_finished:
            self.num_surplus += 1
            return
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (logits,)
        if self.streamer is not None:
            self.streamer.put(tokens.cpu())
        self.unfinished_rows = self.unfinished_rows & ~self.stopping_criteria(self.input_ids, self.scores)
        self.is_finished = bool(self.unfinished_rows.max() == 0)

    def record_forward(self, outputs):
        if self.attentions is not None:
            self.attentions += (outputs.attentions,)
        if self.hidden_states is not None:
            self.hidden_states += (outputs.hidden_states,)

    def close(self, generation_config: GenerationConfig, **kwargs) -> VitaAudioGenerateOutput | torch.LongTensor:
        if self.streamer is not None:
            self.streamer.end()
        sequences = self.input_ids[:, : self.input_ids.shape[1] - self.num_surplus]
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


class VitaAudioGenerationMixin(GenerationMixin):
    """
    Adds three arguments to [`~GenerationMixin.generate`]. Their defaults are the attributes of the same names of the
    generation config, with which they are saved, else `"vanilla"` and `False`.

    Args:
        mctp_mode (`str` or `list[int]`):
            A schedule [main, mctp, main, mctp, ...]: the language model writes `main` tokens, the MCTP modules 1, 2,
            ... the next `mctp` ones, and so on; the last pair repeats for ever. The names are `"vanilla"` [1, 0], which
            is the language model alone, `"balance"` [1, 4, 3, 8, 4, 10], `"boost"` [1, 10, 4, 10] and `"turbo"` [1, 10].
        mctp_verify (`bool`):
            Lossless: what the modules write are drafts, which the language model checks in its next forward. Greedy
            search gives exactly what `"vanilla"` gives (but for rounding, where two tokens score alike), sampling has
            its distribution. The schedule says at which positions there are drafts. A batch keeps the drafts on which
            all of its rows agree with the language model, so that its rows remain of one length.
        mctp_speech_only_head (`bool`):
            In the slots of the schedule that only ever carry speech, score only the speech tokens, the delimiters of
            speech and the tokens that end a sequence; all others get -inf. Those slots are the ones that
            `model.generation_config.mctp_mode`, the layout that the model was trained with, leaves to the modules.
            It makes modules faster where the vocabulary is large and the head a plain layer, neither offloaded nor quantised nor
            with an adapter, and is for spoken answers: text is not to be had there.

    The rows of a batch follow the schedule in lockstep. All else is as in transformers, for greedy search and sampling:
    logits processors, stopping criteria and streamers see every token, and `scores` and `logits` hold one element per
    new token. With `return_dict_in_generate` it is a [`VitaAudioGenerateOutput`].
    """

    def _prepare_generation_config(self, generation_config: GenerationConfig | None, **kwargs: Any):
        defaults = {"mctp_mode": "vanilla", "mctp_verify": False, "mctp_speech_only_head": False}
        given = {name: kwargs.pop(name, None) for name in defaults}
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **rename_cache(kwargs))
        for name, default in defaults.items():
            for config in (generation_config, self.generation_config):
                if given[name] is None:
                    given[name] = getattr(config, name, None)
            if given[name] is None:
                given[name] = default
            setattr(generation_config, name, given[name])
        for name in ("mctp_verify", "mctp_speech_only_head"):
            if not isinstance(getattr(generation_config, name), bool):
                raise ValueError(f"`{name}` must be True or False, got {getattr(generation_config, name)!r:.200}.")
        generation_config.mctp_mode = resolve_mctp_mode(given["mctp_mode"], self.config.num_mctp_modules)

        # transformers would first offer to fetch some of the modes that are refused here
        self._validate_generation_mode(generation_config.get_generation_mode(), generation_config, {})
        if any(generation_config.mctp_mode[1::2]) and not generation_config.use_cache:
            raise ValueError(f"`mctp_mode` {given['mctp_mode']} needs `use_cache=True`.")
        if any(generation_config.mctp_mode[1::2]) and generation_config.guidance_scale not in (None, 1):
            raise ValueError(
                "`guidance_scale` compares scores with and without the prompt, and the MCTP modules have those with it alone. Use "
                '`mctp_mode="vanilla"`.'
            )
        layout = getattr(self.generation_config, "mctp_mode", None) or "vanilla"
        has_slots = any(resolve_mctp_mode(layout, self.config.num_mctp_modules)[1::2])
        if generation_config.mctp_speech_only_head and any(generation_config.mctp_mode[1::2]) and not has_slots:
            raise ValueError(
                "`mctp_speech_only_head` has no effect: `model.generation_config.mctp_mode`, the layout that the model was trained "
                "with, says of no slot that it is for speech alone."
            )
        for name in NOT_IN_GENERATION:
            if kwargs.get(name) is not None:
                raise ValueError(f"`{name}` is of the model's forward, and has no effect in `generate`.")
        self._check_numbers(generation_config)
        return generation_config, model_kwargs

    def _check_numbers(self, generation_config: GenerationConfig):
        """What transformers believes of a generation config, until it fails on the way or never ends."""
        for name in ("max_new_tokens", "max_length", "min_new_tokens", "min_length"):
            number = getattr(generation_config, name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, Integral)):
                raise ValueError(f"`{name}` must be a whole number, got {number!r:.200}.")
        vocab_size = self.config.text_config.vocab_size
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            ids = getattr(generation_config, name)
            if ids is None or isinstance(ids, torch.Tensor):
                continue
            numbers = ids if isinstance(ids, (list, tuple)) else [ids]
            # -1 is the customary id of no token
            if not numbers or not all(isinstance(i, Integral) and -1 <= i < vocab_size for i in numbers):
                raise ValueError(
                    f"`{name}` must be an id, or several, of the model's {vocab_size} tokens, got {ids!r:.200}."
                )

    def _validate_generated_length(self, generation_config: GenerationConfig, input_ids_length: int, *args):
        positions = getattr(self.config.text_config, "max_position_embeddings", None)
        if positions is not None and input_ids_length > positions:
            raise ValueError(
                f"The prompt has {input_ids_length} tokens, but the model has positions for {positions} "
                "(`text_config.max_position_embeddings`)."
            )
        super()._validate_generated_length(generation_config, input_ids_length, *args)

    def init_continuous_batching(self, *args, **kwargs):
        """
        [`ContinuousMixin.init_continuous_batching`], which knows of the language model alone.

        Raises:
            ValueError: the model's generation config has another mode than `"vanilla"`.
        """
        mode = getattr(self.generation_config, "mctp_mode", None) or "vanilla"
        if any(resolve_mctp_mode(mode, self.config.num_mctp_modules)[1::2]):
            raise ValueError(
                f"The continuous batching of transformers runs no MCTP modules, but `generation_config.mctp_mode` is {mode!r}. "
                'Set it to "vanilla" for this, or use `generate`.'
            )
        return super().init_continuous_batching(*args, **kwargs)

    def _validate_generation_mode(self, generation_mode: GenerationMode, *args):
        if generation_mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
            name = generation_mode.replace("_", " ")
            raise ValueError(f"{type(self).__name__} generates by greedy search or sampling, not by {name}.")
        super()._validate_generation_mode(generation_mode, *args)

    def _prepare_cache_for_generation(self, generation_config: GenerationConfig, model_kwargs: dict, *args):
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)
        cache = model_kwargs.get(CACHE)
        if any(generation_config.mctp_mode[1::2]) and not isinstance(cache, VitaAudioCache):
            model_kwargs[CACHE] = VitaAudioCache(self.config, cache)

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
            output = super()._sample(
                input_ids,
                logits_processor,
                stopping_criteria,
                generation_config,
                synced_gpus=synced_gpus,
                streamer=streamer,
                **model_kwargs,
            )
            return VitaAudioGenerateOutput(**output) if generation_config.return_dict_in_generate else output
        transcript = Transcript(input_ids, logits_processor, stopping_criteria, generation_config, streamer)
        if not generation_config.mctp_verify:
            return self._sample_unverified(transcript, generation_config, synced_gpus, model_kwargs)
        if synced_gpus:
            raise ValueError(
                "`mctp_verify` cannot run with sharded weights (`synced_gpus`): how many forwards it takes depends on the "
                "tokens, so the processes would wait for one another for ever."
            )
        return self._sample_verified(transcript, generation_config, model_kwargs)

    def _sample_unverified(
        self, transcript: Transcript, generation_config: GenerationConfig, synced_gpus: bool, model_kwargs: dict
    ) -> VitaAudioGenerateOutput | torch.LongTensor:
        forward, mctp_logits = self._decoding_steps(generation_config, model_kwargs)
        outputs = self._prefill(transcript.input_ids, generation_config, model_kwargs)
        num_unread = 0  # tokens that the language model has not read yet
        for position in itertools.count():
            writer = writer_at(generation_config.mctp_mode, position)
            if writer > 0:
                logits = mctp_logits(position, transcript.input_ids[:, -writer:], model_kwargs)
            else:
                if position > 0:
                    model_inputs = self.prepare_inputs_for_generation(
                        transcript.input_ids, next_sequence_length=num_unread, **model_kwargs
                    )
                    outputs = forward(**model_inputs, return_dict=True)
                transcript.record_forward(outputs)
                logits = outputs.logits[:, -1]
                num_unread = 0
            num_unread += 1
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs)
            logits, scores = transcript.score(transcript.input_ids, logits)
            transcript.write(transcript.pad_finished_rows(transcript.choose(scores)), logits, scores)
            if not self._has_unfinished_sequences(
                transcript.is_finished, synced_gpus, device=transcript.input_ids.device
            ):
                break
        return transcript.close(generation_config, **{CACHE: model_kwargs[CACHE]})

    def _sample_verified(
        self, transcript: Transcript, generation_config: GenerationConfig, model_kwargs: dict
    ) -> VitaAudioGenerateOutput | torch.LongTensor:
        forward, mctp_logits = self._decoding_steps(generation_config, model_kwargs)
        cache = model_kwargs[CACHE]
        num_prompt_columns = transcript.input_ids.shape[1]
        max_length = transcript.stopping_criteria.max_length or float("inf")
        num_drafted = torch.zeros_like(transcript.unfinished_rows)
        num_accepted = torch.zeros_like(transcript.unfinished_rows)
        drafts = []  # tokens `(batch_size,)` for the next columns, and the probabilities they were drawn from
        outputs = self._prefill(transcript.input_ids, generation_config, model_kwargs)
        cache.activate_past_recording()
        while True:
            transcript.record_forward(outputs)
            num_surplus = len(drafts) + 1
            for logits, (draft, draft_probs) in zip(
                outputs.logits[:, -num_surplus:].unbind(1), [*drafts, (None, None)]
            ):
                logits, scores = transcript.score(transcript.input_ids, logits)
                if draft_probs is None:
                    tokens = transcript.choose(scores)
                else:
                    tokens = verify_draft(draft, draft_probs, scores.softmax(dim=-1))
                tokens, unfinished_rows = transcript.pad_finished_rows(tokens), transcript.unfinished_rows
                transcript.write(tokens, logits, scores)
                num_surplus -= 1
                if draft is not None:
                    num_accepted += unfinished_rows * (tokens == draft)
                    if transcript.is_finished or bool((unfinished_rows * (tokens != draft)).any()):
                        break

            # The language model has read drafts that were not written
            cache.crop(-num_surplus)
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs)
            for name in ("attention_mask", "position_ids"):
                if num_surplus > 0 and model_kwargs.get(name) is not None:
                    model_kwargs[name] = model_kwargs[name][..., :-num_surplus]
            if transcript.is_finished:
                break

            drafts, draft_ids = [], transcript.input_ids
            while draft_ids.shape[1] + 1 < max_length:
                position = draft_ids.shape[1] - num_prompt_columns
                if writer_at(generation_config.mctp_mode, position) == 0:
                    break
                logits = mctp_logits(position, draft_ids[:, -len(drafts) - 1 :], model_kwargs)
                _, scores = transcript.score(draft_ids, logits)
                tokens = transcript.pad_finished_rows(transcript.choose(scores))
                drafts.append((tokens, scores.softmax(dim=-1) if transcript.do_sample else None))
                draft_ids = torch.cat([draft_ids, tokens[:, None]], dim=-1)
                num_drafted += transcript.unfinished_rows
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs, num_new_tokens=len(drafts))
            model_kwargs["logits_to_keep"] = len(drafts) + 1
            model_inputs = self.prepare_inputs_for_generation(
                draft_ids, next_sequence_length=len(drafts) + 1, **model_kwargs
            )
            outputs = forward(**model_inputs, return_dict=True)
        return transcript.close(
            generation_config,
            num_drafted_tokens=num_drafted,
            num_accepted_tokens=num_accepted,
            **{CACHE: cache},
        )

    def _input_device(self, inputs: torch.Tensor) -> torch.device:
        """Where the model takes its inputs; where they are if its weights are offloaded."""
        return inputs.device if self.device.type == "meta" else self.device

    def _decoding_steps(
        self, generation_config: GenerationConfig, model_kwargs: dict
    ) -> tuple[Callable, Callable[[int, torch.LongTensor, dict], torch.Tensor]]:
        """
        The forward of the language model for all but the prompt, and a function that gives a module's scores
        `(batch_size, vocab_size)` for new token `position` after tokens that the language model has not read yet. Both
        are compiled where transformers compiles decoding.
        """
        compile_config = None
        if self._valid_auto_compile_criteria(model_kwargs, generation_config):
            compile_config = generation_config.compile_config or self._default_compile_config()

        layout, special_token_ids = [1, 0], None
        if generation_config.mctp_speech_only_head:
            layout = resolve_mctp_mode(
                getattr(self.generation_config, "mctp_mode", None) or "vanilla", self.config.num_mctp_modules
            )
            special_token_ids = [self.config.begin_audio_token_id, self.config.end_audio_token_id]
            special_token_ids = torch.tensor(special_token_ids)
            if generation_config._eos_token_tensor is not None:
                special_token_ids = torch.cat([special_token_ids, generation_config._eos_token_tensor.cpu()])
            special_token_ids = special_token_ids.to(self._input_device(special_token_ids))

        def mctp_logits(position: int, unread: torch.LongTensor, model_kwargs: dict) -> torch.Tensor:
            logits = self.forward_mctp(
                unread.to(self._input_device(unread)),
                model_kwargs[CACHE],
                model_kwargs.get("attention_mask"),
                special_token_ids=special_token_ids if writer_at(layout, position) > 0 else None,
                compile_config=compile_config,
            )
            return logits[:, -1]

        return partial(self, compile_config=compile_config), mctp_logits


__all__ = ["MCTP_MODES", "VitaAudioGenerateOutput", "VitaAudioGenerationMixin"]
