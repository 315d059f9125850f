# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""VITA-Audio generation: a schedule says which tokens the language model writes and which the MCTP modules write."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial, wraps
from numbers import Integral
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMode
from transformers.generation.streamers import BaseStreamer

from .cache_vita_audio import VitaAudioCache, check_can_crop
from .compatibility_vita_audio import CACHE, rename_cache
from .decoding_vita_audio import DecodingState, VitaAudioGenerateOutput
from .growing_cache_vita_audio import GrowingCache
from .rows_apart_vita_audio import RowsApart, can_part, move_columns
from .verification_vita_audio import Tolerances, are_sure, resolve_mctp_verify


# The decoding modes of the paper (arXiv 2505.03739) as schedules [main, mctp, main, mctp, ...]
MCTP_MODES = {
    "vanilla": [1, 0],
    "balance": [1, 4, 3, 8, 4, 10],
    "boost": [1, 10, 4, 10],
    "turbo": [1, 10],
}


# Arguments of the model's forward that mean nothing in a generation. `generate` would pass them on without a word
NOT_IN_GENERATION = (
    "labels",
    "num_items_in_batch",
    "skip_logits",
    "output_mctp_logits",
    "lm_loss_weight",
    "mctp_loss_weight",
    "mctp_detach",
)


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
            f"`mctp_mode` {mctp_mode} takes {max(schedule[1::2])} MCTP steps, but the model has {num_mctp_modules} "
            "modules."
        )
    return [int(number) for number in schedule]


def modules_in_turn(schedule: list[int]) -> Iterator[int]:
    """Which module gives the new tokens 0, 1, ...: 0 is the language model, k the MCTP module k. It never ends."""
    *pairs, last_pair = zip(schedule[::2], schedule[1::2])
    for main, mctp in itertools.chain(pairs, itertools.repeat(last_pair)):
        yield from itertools.repeat(0, main)
        yield from range(1, mctp + 1)


class VitaAudioGenerationMixin(GenerationMixin):
    """
    Adds three arguments to [`~GenerationMixin.generate`]. Each defaults to the attribute of its name of the generation
    config, which is saved with the model, and without one to `"vanilla"` or `False`.

    Args:
        mctp_mode (`str` or `list[int]`):
            The schedule of decoding, [main, mctp, main, mctp, ...]: the language model writes `main` tokens, the MCTP
            modules 1, 2, ... write the next `mctp` ones, and so on; the last pair repeats for ever. The names are
            `"vanilla"` [1, 0], which is the language model alone, `"balance"` [1, 4, 3, 8, 4, 10],
            `"boost"` [1, 10, 4, 10] and `"turbo"` [1, 10].
        mctp_verify (`bool`, `float`, or two or three of these):
            How strictly the language model checks, in its next forward, what the modules write. The modules then write
            drafts, at the positions that the schedule has for them. In greedy search a draft is kept if its
            probability by the language model is at least this share of the likeliest token's; for sampling see
            [`verify_drafts`]. Of two numbers one is for text and one for speech: a draft is speech if it is a code or
            a delimiter of speech. A third number is for the speech that modules write after the first forward. With 0
            there, it does not wait for a check.

            `True` or 1.0 is lossless: greedy search gives exactly what `"vanilla"` gives (except where rounding
            decides between two tokens that score alike), and sampling has the distribution of `"vanilla"`. `False` or
            0.0 keeps all, so nothing is checked at all. Each row of a batch keeps its own number of drafts. Rows wait
            for the one that keeps the fewest where something wants all rows at once: a streamer, a cache with static,
            sliding or offloaded layers, logits processors or stopping criteria that are not transformers' own or, as
            `prefix_allowed_tokens_fn`, count rows, and stopping criteria without an `eos_token_id`.
        mctp_speech_only_head (`bool`):
            At the positions where the layout that the model was trained with (`interleave_pattern`) has only speech,
            the modules score only the speech tokens, the delimiters of speech and the tokens that end a sequence; all
            others get -inf. This makes modules faster if the vocabulary is large and the head is a plain layer,
            neither offloaded nor with an adapter, or one that `from_pretrained` has quantised for a CPU. It is for
            spoken answers, because an answer in text has text at these positions, too.

    Without `mctp_verify`, all rows of a batch are at the same position of the schedule. All else is as in
    transformers, for greedy search and sampling: logits processors, stopping criteria and streamers see every token,
    and `scores` and `logits` hold one element for each new token. With `return_dict_in_generate` the output is a
    [`VitaAudioGenerateOutput`].
    """

    @property
    def interleave_pattern(self) -> list[int] | None:
        """
        The layout that the model was trained with, `config.interleave_pattern`. Folders that were written before the
        config said it have it as the default `mctp_mode`; if that is `"vanilla"` too, the layout is not known.
        """
        if self.config.interleave_pattern is not None:
            return self.config.interleave_pattern
        # The generation config of transformers has no such attribute before somebody sets it
        mode = getattr(self.generation_config, "mctp_mode", None) or "vanilla"
        schedule = resolve_mctp_mode(mode, self.config.num_mctp_modules)
        return schedule if any(schedule[1::2]) else None

    def _prepare_generation_config(self, generation_config: GenerationConfig | None, **kwargs: Any):
        defaults = {"mctp_mode": "vanilla", "mctp_verify": False, "mctp_speech_only_head": False}
        # `super()` would refuse these keywords, because transformers does not know them
        given = {name: kwargs.pop(name, None) for name in defaults}
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **rename_cache(kwargs))
        for name, default in defaults.items():
            # A configuration that the caller passed comes before the model's own
            for config in (generation_config, self.generation_config):
                if given[name] is None:
                    given[name] = getattr(config, name, None)
            if given[name] is None:
                given[name] = default
            setattr(generation_config, name, given[name])
        is_limited = generation_config.mctp_speech_only_head
        if not isinstance(is_limited, bool):
            raise ValueError(f"`mctp_speech_only_head` must be True or False, got {is_limited!r:.200}.")
        resolve_mctp_verify(generation_config.mctp_verify)
        generation_config.mctp_mode = resolve_mctp_mode(given["mctp_mode"], self.config.num_mctp_modules)

        # `super().generate` checks this, too, but before it does it offers to download code for some of these modes
        self._validate_generation_mode(generation_config.get_generation_mode(), generation_config, {})
        # Every second number counts tokens of modules
        is_mctp_used = any(generation_config.mctp_mode[1::2])
        if is_mctp_used and not generation_config.use_cache:
            raise ValueError(f"`mctp_mode` {given['mctp_mode']} needs `use_cache=True`.")
        if is_mctp_used and generation_config.guidance_scale not in (None, 1):
            raise ValueError(
                "`guidance_scale` compares scores with the prompt and without it, but MCTP modules run only with "
                'the prompt. Use `mctp_mode="vanilla"`.'
            )
        if generation_config.mctp_speech_only_head and is_mctp_used and self.interleave_pattern is None:
            raise ValueError(
                "`mctp_speech_only_head` has no effect: the model does not say which positions are for speech "
                "alone. Set `model.config.interleave_pattern` to the layout that it was trained with."
            )
        if generation_config.prefill_chunk_size is not None and kwargs.get("input_features") is not None:
            raise ValueError("`prefill_chunk_size` would cut audios in two. Leave it out with `input_features`.")
        for name in NOT_IN_GENERATION:
            if kwargs.get(name) is not None:
                raise ValueError(f"`{name}` is an argument of the model's forward and has no effect in `generate`.")
        self._check_numbers(generation_config)
        return generation_config, model_kwargs

    def _check_numbers(self, generation_config: GenerationConfig):
        """Checks the numbers that transformers does not check, with which it would fail on the way or never end."""
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
            # Many configurations have -1 where there is no such token
            if not numbers or not all(isinstance(i, Integral) and -1 <= i < vocab_size for i in numbers):
                raise ValueError(
                    f"`{name}` must be an id, or several, of the model's {vocab_size} tokens, got {ids!r:.200}."
                )

    def _prepare_generated_length(self, *, inputs_tensor: torch.Tensor, **kwargs: Any):
        # Of ids or of embeddings
        length, positions = inputs_tensor.shape[1], getattr(self.config.text_config, "max_position_embeddings", None)
        if positions is not None and length > positions:
            raise ValueError(
                f"The prompt has {length} tokens, but the model has positions for {positions} "
                "(`text_config.max_position_embeddings`)."
            )
        return super()._prepare_generated_length(inputs_tensor=inputs_tensor, **kwargs)

    def init_continuous_batching(self, generation_config: GenerationConfig | None = None, *args: Any, **kwargs: Any):
        """
        [`ContinuousMixin.init_continuous_batching`], which runs only the language model.

        Raises:
            ValueError: the `mctp_mode` of the generation config, given or the model's, is another than `"vanilla"`.
        """
        modes = [getattr(config, "mctp_mode", None) for config in (generation_config, self.generation_config)]
        mode = modes[0] or modes[1] or "vanilla"
        if any(resolve_mctp_mode(mode, self.config.num_mctp_modules)[1::2]):
            raise ValueError(
                "The continuous batching of transformers runs no MCTP modules, but `generation_config.mctp_mode` is "
                f'{mode!r}. Set it to "vanilla" for this, or use `generate`.'
            )
        return super().init_continuous_batching(generation_config, *args, **kwargs)

    def _validate_generation_mode(self, generation_mode: GenerationMode, *args: Any):
        if generation_mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
            name = generation_mode.replace("_", " ")
            raise ValueError(f"{type(self).__name__} generates by greedy search or sampling, not by {name}.")
        super()._validate_generation_mode(generation_mode, *args)

    # `generate` reads the signature, in which the cache has another name before transformers 5.24
    @wraps(GenerationMixin.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        *args,
        next_sequence_length: int | None = None,
        is_first_iteration: bool = False,
        input_features: torch.FloatTensor | None = None,
        feature_attention_mask: torch.LongTensor | None = None,
        **kwargs,
    ) -> dict:
        """
        [`GenerationMixin.prepare_inputs_for_generation`], with the features of the audios that the cache has not heard
        yet.
        """
        model_inputs = super().prepare_inputs_for_generation(
            input_ids,
            *args,
            next_sequence_length=next_sequence_length,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        # The columns that the cache has not read yet; None where the prompt came as embeddings
        new_ids = model_inputs["input_ids"]
        # Audio is heard with the prompt alone: afterwards the cache, if there is one, holds what was heard
        is_heard = not is_first_iteration and kwargs.get("use_cache") is not False
        if input_features is None and feature_attention_mask is not None:
            raise ValueError("`feature_attention_mask` came without the `input_features` that it is of.")
        if input_features is None or is_heard:
            if is_first_iteration and self.config.audio_config is not None and new_ids is not None:
                if len(self._rows_of_audios(new_ids)) > 0:
                    raise ValueError(
                        "The prompts have `<|context_of_audio|>` tokens, but no `input_features` came with them."
                    )
            return model_inputs
        if new_ids is None:
            raise ValueError(
                "`input_features` need `input_ids`, whose `<|context_of_audio|>` tokens say where they stand."
            )
        num_audios = len(input_features)
        is_new = torch.ones(num_audios, dtype=torch.bool, device=input_features.device)
        if new_ids.shape[1] < input_ids.shape[1]:
            # of each row the last audios, as many as are new
            owners = self._rows_of_audios(input_ids, num_audios)
            num_new = torch.bincount(self._rows_of_audios(new_ids), minlength=len(input_ids)).to(owners.device)
            # For each audio, how many audios its row has from this one on
            later = torch.bincount(owners, minlength=len(input_ids)).cumsum(0)[owners] - torch.arange(
                num_audios, device=owners.device
            )
            is_new = (later <= num_new[owners]).to(is_new.device)
        # The model refuses features of no audio
        if num_audios == 0 or is_new.any():
            # As transformers moves all other inputs
            device = self._input_device(input_features)
            model_inputs["input_features"] = input_features[is_new].to(device)
            if feature_attention_mask is not None:
                model_inputs["feature_attention_mask"] = feature_attention_mask.to(is_new.device)[is_new].to(device)
        return model_inputs

    def _rows_of_audios(self, input_ids: torch.LongTensor, num_audios: int | None = None) -> torch.LongTensor:
        """
        The row `(num_audios,)` of each run of `<|context_of_audio|>`.

        Raises:
            ValueError: there are fewer or more runs than `num_audios`.
        """
        is_context = input_ids == self.config.context_audio_token_id
        # A run starts where the column before holds another token
        is_start = is_context & ~torch.nn.functional.pad(is_context[:, :-1], (1, 0))
        # `nonzero` goes through the rows in order, and so do the audios of `input_features`
        rows = is_start.nonzero()[:, 0]
        if num_audios is not None and len(rows) != num_audios:
            raise ValueError(
                f"The prompts have {len(rows)} runs of `<|context_of_audio|>`, but `input_features` has {num_audios} "
                "audios."
            )
        return rows

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids=None, **model_kwargs
    ) -> tuple[torch.LongTensor, dict]:
        """As [`GenerationMixin._expand_inputs_for_generation`]; audios are repeated with the rows that they are in."""
        names = ("input_features", "feature_attention_mask")
        # transformers would repeat the audios as if there were one in each row
        of_audios = {name: model_kwargs.pop(name) for name in names if model_kwargs.get(name) is not None}
        # What hears no features refuses them later
        if of_audios and expand_size > 1 and self.config.audio_config is not None:
            rows = self._rows_of_audios(input_ids, len(of_audios["input_features"]))
            # row r becomes r * expand_size, r * expand_size + 1, ..., each with all audios of the row
            order = torch.cat([(rows == row).nonzero()[:, 0].repeat(expand_size) for row in range(len(input_ids))])
            of_audios = {name: values[order.to(values.device)] for name, values in of_audios.items()}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **of_audios}

    def _prepare_cache_for_generation(self, generation_config: GenerationConfig, model_kwargs: dict, *args: Any):
        is_given = model_kwargs.get(CACHE) is not None
        # Whoever has given it goes on with it, so it must have all rows in the end
        generation_config.is_cache_given = is_given
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)
        cache = model_kwargs.get(CACHE)
        # Layers that are moved to the CPU and back are copied anyway
        if not is_given and type(cache) is DynamicCache and not cache.offloading:
            model_kwargs[CACHE] = GrowingCache(self.config.text_config)
        # The language model alone takes any cache; modules need the states that ours keeps
        if any(generation_config.mctp_mode[1::2]) and not isinstance(cache, VitaAudioCache):
            model_kwargs[CACHE] = VitaAudioCache(self.config, model_kwargs.get(CACHE))

    def _sample(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: BaseStreamer | None = None,
        **model_kwargs: Any,
    ) -> GenerateDecoderOnlyOutput | torch.LongTensor:
        """[`GenerationMixin._sample`], except that the schedule says which module gives the logits of a token."""
        # No module writes anything, so transformers' own loop does all
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
        state = DecodingState(input_ids, logits_processor, stopping_criteria, generation_config, streamer)
        tolerances = Tolerances(generation_config.mctp_verify, generation_config.mctp_mode, self.config)
        if not tolerances.is_verified:
            return self._sample_unverified(state, generation_config, synced_gpus, model_kwargs)
        if synced_gpus:
            raise ValueError(
                "`mctp_verify` cannot run with sharded weights (`synced_gpus`): how many forwards it takes depends "
                "on the tokens, so the processes would wait for one another for ever."
            )
        check_can_crop(model_kwargs[CACHE].layers)
        if can_part(state, model_kwargs[CACHE]):
            rows = RowsApart(
                input_ids,
                logits_processor,
                stopping_criteria,
                generation_config,
                self._turns(generation_config),
                tolerances,
            )
            return self._sample_rows_apart(rows, generation_config, model_kwargs)
        return self._sample_verified(state, generation_config, tolerances, model_kwargs)

    def _sample_unverified(
        self, state: DecodingState, generation_config: GenerationConfig, synced_gpus: bool, model_kwargs: dict
    ) -> VitaAudioGenerateOutput | torch.LongTensor:
        forward, mctp_logits = self._decoding_steps(generation_config, model_kwargs)
        outputs = self._prefill(state.input_ids, generation_config, model_kwargs)
        num_unread = 0  # tokens that the language model has not read yet
        for module_idx, is_speech in self._turns(generation_config):
            if module_idx > 0:
                logits = mctp_logits(state.input_ids[:, -module_idx:], is_speech, model_kwargs)
            else:
                # The first turn takes the logits of the prompt, which `_prefill` has computed
                if num_unread > 0:
                    # The language model reads all that was written since its last turn
                    model_inputs = self.prepare_inputs_for_generation(
                        state.input_ids, next_sequence_length=num_unread, **model_kwargs
                    )
                    outputs = forward(**model_inputs, return_dict=True)
                state.record_forward(outputs)
                logits = outputs.logits[:, -1]
                num_unread = 0
            num_unread += 1
            # After every token, also a module's, because the attention mask must grow with each of them
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs)
            logits, scores = state.score(state.input_ids, logits)
            state.write(state.choose(scores), logits, scores)
            if not self._has_unfinished_sequences(state.is_finished, synced_gpus, device=state.input_ids.device):
                break
        return state.close(generation_config, **{CACHE: model_kwargs[CACHE]})

    def _sample_verified(
        self,
        state: DecodingState,
        generation_config: GenerationConfig,
        tolerances: Tolerances,
        model_kwargs: dict,
    ) -> VitaAudioGenerateOutput | torch.LongTensor:
        forward, mctp_logits = self._decoding_steps(generation_config, model_kwargs)
        cache, drafts = model_kwargs[CACHE], []
        outputs = self._prefill(state.input_ids, generation_config, model_kwargs)
        # Not before the prompt was read, because a sliding layer would then keep all states of the prompt
        cache.activate_past_recording()
        while True:
            state.record_forward(outputs)
            # Write what the language model keeps, and one token of its own
            num_rejected = state.verify(outputs.logits, drafts, tolerances)
            # Roll back: the language model has read the rejected drafts
            cache.crop(-num_rejected)
            for name in ("attention_mask", "position_ids"):
                if num_rejected > 0 and model_kwargs.get(name) is not None:
                    model_kwargs[name] = model_kwargs[name][..., :-num_rejected]
            if state.is_finished:
                break
            # Draft the next tokens with the modules. The last token that was written is still unread, and so are they
            num_before = state.input_ids.shape[1] - 1
            drafts = self._draft(state, generation_config, mctp_logits, tolerances, model_kwargs)
            if state.is_finished:
                break
            num_unread = state.input_ids.shape[1] - num_before + len(drafts)
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs, num_new_tokens=num_unread)
            # Read them in one forward, with logits for the drafts and for the token after them
            model_kwargs["logits_to_keep"] = len(drafts) + 1
            model_inputs = self.prepare_inputs_for_generation(
                torch.cat([state.input_ids, *(tokens[:, None] for tokens, _ in drafts)], dim=-1),
                next_sequence_length=num_unread,
                **model_kwargs,
            )
            outputs = forward(**model_inputs, return_dict=True)
        return state.close(
            generation_config,
            num_drafted_tokens=state.num_drafted,
            num_accepted_tokens=state.num_accepted,
            **{CACHE: cache},
        )

    def _draft(
        self,
        state: DecodingState,
        generation_config: GenerationConfig,
        mctp_logits: Callable,
        tolerances: Tolerances,
        model_kwargs: dict,
    ) -> list[tuple[torch.LongTensor, torch.Tensor | None]]:
        """
        The drafts for the next positions, as [`DecodingState.verify`] takes them. There may be none. Tokens that need
        no check, with none before them that do, are written at once: the first chunk of speech does not wait.
        """
        drafts, draft_ids, num_before = [], state.input_ids, state.input_ids.shape[1] - 1
        # The language model writes one token after the drafts, for which there must be room
        max_length = state.stopping_criteria.max_length or float("inf")
        # The schedule counts positions, so a rejected draft does not shift what comes later
        turns = itertools.islice(self._turns(generation_config), draft_ids.shape[1] - state.prompt_length, None)
        for module_idx, is_speech in turns:
            if module_idx == 0 or draft_ids.shape[1] + 1 >= max_length:
                return drafts
            logits = mctp_logits(draft_ids[:, num_before:], is_speech, model_kwargs)
            logits, scores = state.score(draft_ids, logits)
            tokens = state.choose(scores)
            # Asked only where there can be such: a GPU would have to be waited for
            can_be_free = tolerances.can_be_free and not drafts
            place = draft_ids.shape[1] - state.prompt_length
            if can_be_free and bool(((tolerances(tokens, place) == 0) | ~state.unfinished_rows.bool()).all()):
                state.num_drafted += state.unfinished_rows
                state.num_accepted += state.unfinished_rows
                state.write(tokens, logits, scores)
                draft_ids = state.input_ids
                if state.is_finished:
                    return drafts
                continue
            # Only sampling needs the probabilities: greedy search compares tokens
            drafts.append((tokens, scores.softmax(dim=-1) if state.do_sample else None))
            draft_ids = torch.cat([draft_ids, tokens[:, None]], dim=-1)
            # Drafts in rows that have ended count for nothing
            state.num_drafted += state.unfinished_rows
            # Then it makes no difference to what is written which of the next tokens are drafted
            if tolerances.is_lossless and not (are_sure(tokens, scores) & state.unfinished_rows.bool()).any():
                return drafts

    def _sample_rows_apart(
        self, rows: RowsApart, generation_config: GenerationConfig, model_kwargs: dict
    ) -> VitaAudioGenerateOutput | torch.LongTensor:
        """[`_sample_verified`] for rows that each keep their own number of drafts."""
        forward, mctp_logits = self._decoding_steps(generation_config, model_kwargs)
        cache, num_modules = model_kwargs[CACHE], self.config.num_mctp_modules
        outputs = self._prefill(rows.ids[:, : rows.prompt_length], generation_config, model_kwargs)
        if model_kwargs.get("attention_mask") is None:
            # `generate` leaves out a mask that hides nothing, but rows that fall back will have columns to hide
            shape = rows.batch_size, cache.num_columns_read(0)
            model_kwargs["attention_mask"] = rows.ids.new_ones(shape)
        for name in ("attention_mask", "position_ids"):
            if model_kwargs.get(name) is not None:
                # One row of positions may serve the whole batch, but now each gets its own
                model_kwargs[name] = model_kwargs[name].expand(rows.batch_size, -1)
        # The columns of a prompt that came as embeddings have no ids
        num_extra = cache.num_columns_read(0) - rows.prompt_length
        while True:
            rows.record_forward(outputs)
            num_rejected = [rows.num_drafts + 1 - num_kept for num_kept in rows.verify(outputs.logits)]
            staying = rows.let_out()
            if len(staying) < len(num_rejected):
                num_rejected = [num_rejected[row] for row in staying]
                indices = torch.tensor(staying)
                cache.batch_select_indices(indices)
                for name in ("attention_mask", "position_ids"):
                    if model_kwargs.get(name) is not None:
                        model_kwargs[name] = model_kwargs[name][indices]
            # All rows end at the column at which the longest row ends
            num_columns = num_extra + max(rows.places) - 1
            shifts = [num_columns - cache.num_columns_read(0) + number for number in num_rejected]
            cache.move_rows(shifts, num_columns)
            for name in ("attention_mask", "position_ids"):
                if model_kwargs.get(name) is not None:
                    model_kwargs[name] = move_columns(model_kwargs[name], torch.tensor(shifts), num_columns)
            if rows.is_finished:
                break
            rows.begin_drafts(num_modules)
            # Modules that are far behind keep rows from parting, so before it comes to that, all of them read on
            must_read_on = not cache.can_move_rows()
            for module_idx in range(1, num_modules + 1):
                here = [row for row in rows.unfinished_rows if rows.counts[row] >= module_idx]
                if not (here or must_read_on):
                    break
                are_speech = [rows.turn(row, module_idx - 1)[1] for row in here]
                is_all_speech = len(here) > 0 and all(are_speech)
                logits = mctp_logits(rows.unread(module_idx), is_all_speech, model_kwargs)
                if here:
                    if any(are_speech) and not is_all_speech:
                        speech_rows = [row for row, is_speech in zip(here, are_speech) if is_speech]
                        logits = self._keep_speech_alone(logits, speech_rows, generation_config)
                    rows.draft(module_idx - 1, here, logits)
            rows.end_drafts()
            num_unread = rows.num_drafts + 1  # the last token of each row, and the drafts
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs, num_new_tokens=num_unread)
            model_kwargs["logits_to_keep"] = num_unread
            model_inputs = self.prepare_inputs_for_generation(
                rows.unread(num_unread), next_sequence_length=num_unread, **model_kwargs
            )
            outputs = forward(**model_inputs, return_dict=True)
        return rows.close(generation_config, **{CACHE: cache})

    def _turns(self, generation_config: GenerationConfig) -> Iterator[tuple[int, bool]]:
        """For each new token the module that gives it, see [`modules_in_turn`], and whether it can only be speech."""
        # A layout reads as a schedule does: text where that has the language model, speech where it has modules
        layout = self.interleave_pattern if generation_config.mctp_speech_only_head else [1, 0]
        are_speech = (turn > 0 for turn in modules_in_turn(layout))
        return zip(modules_in_turn(generation_config.mctp_mode), are_speech)

    def _input_device(self, inputs: torch.Tensor) -> torch.device:
        """Where the model takes its inputs. A model whose weights are offloaded takes them anywhere."""
        return inputs.device if self.device.type == "meta" else self.device

    def _special_token_ids(self, generation_config: GenerationConfig) -> torch.LongTensor:
        """What a place for speech may have besides codes: its delimiters and the tokens that end an answer."""
        special_token_ids = torch.tensor([self.config.begin_audio_token_id, self.config.end_audio_token_id])
        if generation_config._eos_token_tensor is None:
            return special_token_ids
        return torch.cat([special_token_ids, generation_config._eos_token_tensor.cpu()])

    def _keep_speech_alone(
        self, logits: torch.Tensor, rows: list[int], generation_config: GenerationConfig
    ) -> torch.Tensor:
        """Logits `(batch_size, vocab_size)` with -inf, in some rows, for all that a place for speech cannot have."""
        start = self.config.speech_token_offset
        is_speech = torch.zeros(logits.shape[1], dtype=torch.bool)
        is_speech[start : start + self.config.num_speech_tokens] = True
        is_speech[self._special_token_ids(generation_config)] = True
        is_limited = torch.zeros(len(logits), 1, dtype=torch.bool)
        is_limited[rows] = True
        return logits.masked_fill((is_limited & ~is_speech).to(logits.device), -torch.inf)

    def _decoding_steps(
        self, generation_config: GenerationConfig, model_kwargs: dict
    ) -> tuple[Callable, Callable[[torch.LongTensor, bool, dict], torch.Tensor]]:
        """
        The two steps of decoding, compiled where transformers compiles decoding: the forward of the language model for
        all but the prompt, and a function that gives a module's logits `(batch_size, vocab_size)` for the token after
        those that the language model has not read yet.
        """
        compile_config = None
        if self._valid_auto_compile_criteria(model_kwargs, generation_config):
            compile_config = generation_config.compile_config or self._default_compile_config()

        special_token_ids = self._special_token_ids(generation_config)
        special_token_ids = special_token_ids.to(self._input_device(special_token_ids))

        def mctp_logits(unread: torch.LongTensor, is_speech: bool, model_kwargs: dict) -> torch.Tensor:
            logits = self.forward_mctp(
                unread.to(self._input_device(unread)),
                model_kwargs[CACHE],
                model_kwargs.get("attention_mask"),
                special_token_ids=special_token_ids if is_speech else None,
                compile_config=compile_config,
            )
            return logits[:, -1]

        return partial(self, compile_config=compile_config), mctp_logits


__all__ = ["MCTP_MODES", "VitaAudioGenerateOutput", "VitaAudioGenerationMixin"]
