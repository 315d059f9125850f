# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""One request in the batch of the engine on transformers."""

import asyncio
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList

from modeling_vita_audio import VitaAudioCache
from modeling_vita_audio.growing_cache_vita_audio import GrowingCache
from modeling_vita_audio.verification_vita_audio import Tolerances, are_sure, verify_drafts

from .engine import GenerationRequest


class Row:
    """
    The tokens of a request, what the model has read of them, and where new ones go. It is made in an event loop, and
    belongs to the engine's thread from then on, but for `is_cancelled`.

    Args:
        request ([`GenerationRequest`]): what to write.
        keys (`list`): of the prompt, from [`prefix_keys`].
        processors (`LogitsProcessorList`): of its scores; none in plain greedy search.
        turns (`Iterator`): for each new token which module gives it, and whether it can only be speech.
        max_length (`int`): the most tokens, the prompt's included.
        config (`GenerationConfig`): its options, complete and checked.
        is_prefill (`bool`): whether the prompt is read and nothing written.
        tolerances ([`Tolerances`]): those of what modules write.
    """

    def __init__(
        self,
        request: GenerationRequest,
        keys: list,
        processors: LogitsProcessorList,
        turns: Iterator[tuple[int, bool]],
        max_length: int,
        config: GenerationConfig,
        is_prefill: bool,
        tolerances: Tolerances,
    ):
        self.request, self.keys, self.processors, self.turns = request, keys, processors, turns
        self.max_length, self.config, self.is_prefill = max_length, config, is_prefill
        self.ids = list(request.input_ids)
        self._turns_so_far: list[tuple[int, bool]] = []
        self.tolerances = tolerances
        # Drafts that the language model has to check stand at the end of `ids`. In sampling there are the
        # probabilities `(1, vocab_size)` that each draft was drawn from
        self.num_drafts, self.draft_probs, self.is_sure = 0, [], True
        self.has_mctp = any(config.mctp_mode[1::2])
        self.eos_token_ids = set(np.atleast_1d(config.eos_token_id).tolist()) - {None}
        self.cache: GrowingCache | VitaAudioCache | None = None
        # Embeddings `(1, num_tokens, hidden_size)` of the prompt from a place on, where it has audio as features
        self.prompt_embeds: torch.Tensor | None = None
        self.embeds_start = 0
        self.generator: torch.Generator | None = None
        self.is_over, self.error = False, None
        # Whether the cache is worth keeping: nobody has said that the conversation is forgotten
        self.is_kept = True
        self.is_cancelled = False
        self.loop, self.queue = asyncio.get_running_loop(), asyncio.Queue()

    @property
    def place(self) -> int:
        """How many new tokens there are, drafts among them."""
        return len(self.ids) - len(self.request.input_ids)

    @property
    def next_turn(self) -> tuple[int, bool]:
        """Which module writes the next token, and whether it can only be speech."""
        if self.place >= len(self._turns_so_far):
            self._turns_so_far += itertools.islice(self.turns, self.place + 1 - len(self._turns_so_far))
        module_idx, is_speech = self._turns_so_far[self.place]
        if self.tolerances.is_verified and module_idx > 0:
            # After a draft that was rejected, the first module is next again, wherever the schedule is: the language
            # model has read all but its own last token and what modules wrote after it. It writes one token after the
            # drafts, for which there must be room
            has_room = self.is_sure and len(self.ids) + 1 < self.max_length
            module_idx = self.num_unread if has_room else 0
        return module_idx, is_speech

    @property
    def num_read(self) -> int:
        return int(self.cache.get_seq_length())

    @property
    def num_unread(self) -> int:
        return len(self.ids) - self.num_read

    @property
    def is_speech_alone(self) -> bool:
        """Whether a module is next, at a place where the model was trained to have nothing but speech."""
        module_idx, is_speech = self.next_turn
        return module_idx > 0 and is_speech

    def heard(self, start: int, embeds: torch.Tensor) -> torch.Tensor:
        """The embeddings of the tokens from `start` on, with what is heard in the place of audios."""
        if self.prompt_embeds is None or start >= self.embeds_start + self.prompt_embeds.shape[1]:
            return embeds
        # a prompt is read to its end before anything is written, so these are all of the prompt
        return self.prompt_embeds[:, start - self.embeds_start :][:, : embeds.shape[1]]

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """The processed scores of the next token, of logits `(1, vocab_size)`."""
        return self.processors(torch.tensor([self.ids], device=logits.device), logits)

    def choose(self, scores: torch.Tensor) -> int:
        """The next token by processed scores `(1, vocab_size)`."""
        if not self.config.do_sample:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(dim=-1), num_samples=1, generator=self.random(scores.device)))

    def random(self, device: torch.device) -> torch.Generator:
        """The generator of the request, on a device."""
        if self.generator is None:
            self.generator = torch.Generator(device)
            if self.request.seed is None:
                self.generator.seed()
            else:
                self.generator.manual_seed(self.request.seed)
        return self.generator

    def draft(self, scores: torch.Tensor) -> list[int]:
        """
        Has a draft by a module's processed scores `(1, vocab_size)`. Returns what was written: the draft, if it needs
        no check and none before it does.
        """
        token = self.choose(scores)
        can_be_free = self.tolerances.can_be_free and self.num_drafts == 0
        if can_be_free and self.tolerances(torch.tensor([token]), self.place) == 0:
            self.write(token)
            return [token]
        self.ids.append(token)
        self.num_drafts += 1
        if self.config.do_sample:
            self.draft_probs.append(scores.softmax(dim=-1))
        if self.tolerances.is_lossless:
            self.is_sure = bool(are_sure(torch.tensor([token], device=scores.device), scores))
        return []

    def verify(self, all_logits: torch.Tensor) -> list[int]:
        """
        Writes the drafts that the language model keeps and one token of its own, and takes the others back. Its logits
        `(num_drafts + 1, vocab_size)` are for the drafts and for the token after them. Returns what was written.
        """
        start = len(self.ids) - self.num_drafts
        drafts, self.ids = self.ids[start:], self.ids[:start]
        self.num_drafts, self.is_sure = 0, True
        written, is_kept = [], True
        for draft, draft_probs, logits in itertools.zip_longest(drafts, self.draft_probs, all_logits[:, None]):
            scores = self.score(logits)
            if draft is None:
                token = self.choose(scores)
            else:
                token = torch.tensor([draft], device=scores.device)
                generator = self.random(scores.device) if self.config.do_sample else None
                tolerances = self.tolerances(token, self.place)
                is_kept, own_token = verify_drafts(token, draft_probs, scores, tolerances, generator)
                token = draft if is_kept else int(own_token)
            self.write(token)
            written.append(token)
            if self.is_over or not is_kept:
                break
        self.draft_probs = []
        # The last token is never read before the next forward
        self.cache.crop(min(len(self.ids) - 1 - self.num_read, 0))
        return written

    def write(self, token: int) -> None:
        self.ids.append(token)
        self.keys.append(token)
        self.is_over = token in self.eos_token_ids or len(self.ids) >= self.max_length

    def finish(self, error: BaseException | None = None) -> None:
        """Tells the reader that nothing more comes, or why."""
        try:
            self.loop.call_soon_threadsafe(self.queue.put_nowait, error)
        except RuntimeError:  # the loop is closed, so nobody reads
            pass


class Audio:
    """An audio as the key of the tokens that stand for it: another one is equal if it has the same features."""

    def __init__(self, features: np.ndarray):
        self.content = features.tobytes()

    def __eq__(self, other):
        return isinstance(other, Audio) and self.content == other.content

    __hash__ = None


def prefix_keys(request: GenerationRequest, context_token_id: int | None) -> list:
    """
    The prompt's ids, with an [`Audio`] in the place of each token that stands for one that is heard by features. What
    two prompts have in common is what their keys have.

    Raises:
        ValueError: there are more or fewer audios than runs of such tokens.
    """
    runs = [(i, len(list(run))) for i, run in itertools.groupby(request.input_ids)]
    num_audios = sum(i == context_token_id for i, _ in runs)
    if num_audios != len(request.input_features):
        raise ValueError(
            f"The prompt has {num_audios} runs of `<|context_of_audio|>`, but features of "
            f"{len(request.input_features)} audios came with it."
        )
    audios = map(Audio, request.input_features)
    keys = []
    for token_id, length in runs:
        keys += [next(audios) if token_id == context_token_id else token_id] * length
    return keys


def common_prefix(first: list, second: list) -> int:
    """How many keys two sequences have in common at their beginning."""
    num_common = 0
    for one, other in zip(first, second):
        if one != other:
            break
        num_common += 1
    return num_common


__all__ = ["Row", "common_prefix", "prefix_keys"]
