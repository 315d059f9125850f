# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The engine on transformers: one thread that runs the model for all requests at once.

Requests join and leave a running batch, and each is at its own place of its own schedule. A step has two parts. First
the language model reads, in one forward, what all rows have not read yet: a new prompt, the tokens that modules wrote,
or one token; and it writes a token for each row. Then the rows whose schedule has the MCTP modules next get their
tokens from module 1, module 2 and so on, again all rows in one forward for each module. With `mctp_verify` these are
drafts, of which the next forward of the language model keeps as many as it agrees with.
"""

import asyncio
import copy
import logging
import math
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import Cache

from modeling_vita_audio import VitaAudioCache
from modeling_vita_audio.compatibility_vita_audio import CACHE
from modeling_vita_audio.growing_cache_vita_audio import GrowingCache
from modeling_vita_audio.verification_vita_audio import Tolerances

from .engine import EngineOverloaded, GenerationRequest, check_lengths
from .engine_row import Row, common_prefix, prefix_keys
from .row_attention import ROW_ATTENTION, RowCaches


logger = logging.getLogger("vita_audio.serving")

# Prompts are read in parts of at most so many tokens, between which all other rows get theirs. The shipped model reads
# so many in 40 ms on one core.
MAX_TOKENS_PER_FORWARD = 256

# To hand a token over wakes another thread, which costs a tenth of a module's forward. The first three codes,
# with which the codec can begin, come from the modules 2 to 4 in the layout of the released models.
MODULES_PER_SENDING = 4

# Up to so many requests, the engine waits where another thread has something more urgent to do.
MAX_ROWS_THAT_WAIT = 2

# A cache is copied for what two prompts have in common only if it is more than this: a copy takes as long as reading a
# few tokens, and 10 are read again for the modules.
MIN_TOKENS_IN_COMMON = 24


class TokenStream(AsyncIterator[list[int]]):
    """The tokens of one request, as [`Engine.generate`] returns them."""

    def __init__(self, row: Row):
        self._row = row

    async def __anext__(self) -> list[int]:
        try:
            items = [await self._row.queue.get()]
        except asyncio.CancelledError:
            await self.aclose()
            raise
        # all that has come meanwhile
        while not self._row.queue.empty():
            items.append(self._row.queue.get_nowait())
        if tokens := [item for item in items if isinstance(item, int)]:
            if len(tokens) < len(items):
                # the mark of the end is for the next call
                self._row.queue.put_nowait(items[-1])
            return tokens
        # whoever asks again shall not wait for ever
        self._row.queue.put_nowait(items[0])
        if isinstance(items[0], BaseException):
            raise items[0]
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stops the generation: the engine writes at most the token that it is at."""
        self._row.is_cancelled = True

    def __del__(self):
        self._row.is_cancelled = True


class TransformersEngine:
    """
    An [`Engine`] that runs a model in this process. The model belongs to the engine from now on: its attention is
    switched to one that only the engine can call.

    Args:
        model ([`VitaAudioForConditionalGeneration`]):
            A loaded model, on any device.
        give_way (`Callable`, *optional*):
            Called before every forward; returns when nothing more urgent is done in this process.
        max_batch_size (`int`, *optional*, defaults to 16):
            Requests that tokens are written for at once; further ones wait. With the shipped model on two cores 16
            get four times the tokens that one gets.
        max_queue_length (`int`, *optional*, defaults to 64):
            Requests that may wait.
        max_kept_conversations (`int`, *optional*, defaults to 64):
            Conversations whose keys and values are kept between requests, the latest ones.

    Raises:
        ValueError: the model has sliding attention, for which this engine has no masks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        give_way: Callable[[], object] = lambda: None,
        max_batch_size: int = 16,
        max_queue_length: int = 64,
        max_kept_conversations: int = 64,
    ):
        layer_types = set(getattr(model.config.text_config, "layer_types", None) or ["full_attention"])
        if layer_types != {"full_attention"}:
            raise ValueError(
                f"This engine runs models with full attention; this one has {', '.join(sorted(layer_types))}."
            )
        self.model = model.eval()
        self.max_length = getattr(model.config.text_config, "max_position_embeddings", None) or math.inf
        model.model.language_model.config._attn_implementation = ROW_ATTENTION
        self._give_way = give_way
        self.max_batch_size = max_batch_size
        self.max_queue_length = max_queue_length
        self.max_kept_conversations = max_kept_conversations
        # Of each conversation, latest last, the keys of its tokens (see `prefix_keys`) and its cache
        self._kept: OrderedDict[str | None, tuple[list, GrowingCache | VitaAudioCache]] = OrderedDict()
        self._rows: list[Row] = []
        self._unsent: list[tuple[Row, int]] = []
        # What event loops have handed over, under the lock of `_has_work`
        self._waiting: deque[Row] = deque()
        self._forgotten: set[str] = set()
        self._is_closing = False
        self._has_work = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="vita-audio engine", daemon=True)
        self._thread.start()

    # What event loops call

    @property
    def num_running(self) -> int:
        return len(self._rows)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def check(self, request: GenerationRequest) -> None:
        """See [`Engine.check`]."""
        self._options_of(request)

    def generate(self, request: GenerationRequest) -> TokenStream:
        """See [`Engine.generate`]."""
        return TokenStream(self._submit(request, is_prefill=False))

    async def prefill(self, request: GenerationRequest) -> None:
        """See [`Engine.prefill`]."""
        stream = TokenStream(self._submit(request, is_prefill=True))
        async for _ in stream:
            pass

    async def forget(self, conversation_id: str) -> None:
        """See [`Engine.forget`]."""
        with self._has_work:
            self._forgotten.add(conversation_id)
            self._has_work.notify()

    async def close(self) -> None:
        """See [`Engine.close`]."""
        with self._has_work:
            self._is_closing = True
            self._has_work.notify()
        await asyncio.to_thread(self._thread.join)

    def _submit(self, request: GenerationRequest, is_prefill: bool) -> Row:
        config, processors = self._options_of(request)
        row = Row(
            request,
            prefix_keys(request, self.model.config.context_audio_token_id),
            processors,
            self.model._turns(config),
            min(len(request.input_ids) + request.max_new_tokens, self.max_length),
            config,
            is_prefill,
            Tolerances(config.mctp_verify, config.mctp_mode, self.model.config),
        )
        with self._has_work:
            if self._is_closing:
                raise EngineOverloaded("The server is about to end and takes no more requests.")
            if len(self._waiting) >= self.max_queue_length:
                raise EngineOverloaded(
                    f"{len(self._waiting)} requests are waiting already, and no more may wait. Try again later."
                )
            self._waiting.append(row)
            self._has_work.notify()
        return row

    def _options_of(self, request: GenerationRequest) -> tuple[GenerationConfig, LogitsProcessorList]:
        """
        The complete options of a request, and what they make of scores.

        Raises:
            ValueError, PromptTooLong: as [`Engine.check`].
        """
        check_lengths(request, self.max_length)
        names = ("mctp_mode", "mctp_verify", "do_sample", "temperature", "top_p")
        options = {name: getattr(request, name) for name in names if getattr(request, name) is not None}
        # As `generate` does it
        config, _ = self.model._prepare_generation_config(None, **options)
        config.max_new_tokens = request.max_new_tokens
        self.model._prepare_special_tokens(config, kwargs_has_attention_mask=True, device=self.model.device)
        processors = self.model._get_logits_processor(
            config, input_ids_seq_length=len(request.input_ids), logits_processor=LogitsProcessorList()
        )
        return config, processors

    # What the engine's thread does

    @torch.inference_mode()
    def _run(self) -> None:
        while self._take_in():
            try:
                if self._rows:
                    self._step()
            except Exception as error:  # the thread serves others after these
                logger.exception("A step of the engine failed.")
                for row in self._rows:
                    row.finish(error)
                self._rows, self._unsent = [], []
                # Where the memory was full, the next step would fail like this one
                self._kept.clear()
        for row in (*self._rows, *self._waiting):
            row.finish(EngineOverloaded("The server has ended."))
        self._rows = []

    def _take_in(self) -> bool:
        """Waits until there is something to do, and lets new rows into the batch. False at the engine's end."""
        with self._has_work:
            while not (self._rows or self._waiting or self._forgotten or self._is_closing):
                self._has_work.wait()
            if self._is_closing:
                return False
            forgotten, self._forgotten = self._forgotten, set()
            waiting, self._waiting = self._waiting, deque()
        self._leave()
        stay = deque()
        for row in waiting:
            if row.is_cancelled:
                row.finish()
            elif len(self._rows) < self.max_batch_size and self._is_conversation_free(row):
                try:
                    self._begin(row)
                    self._rows.append(row)
                except Exception as error:
                    logger.exception("A request could not be begun.")
                    row.finish(error)
                    # As where a step fails
                    self._kept.clear()
            else:
                stay.append(row)
        with self._has_work:
            self._waiting.extendleft(reversed(stay))
        for row in self._rows:
            row.is_kept = row.is_kept and row.request.conversation_id not in forgotten
        for conversation_id in forgotten:
            self._kept.pop(conversation_id, None)
        return True

    def _is_conversation_free(self, new: Row) -> bool:
        """Whether no other row has the conversation of a new one. One that only reads ahead makes room at once."""
        if new.request.conversation_id is None:
            return True
        for row in self._rows:
            if row.request.conversation_id == new.request.conversation_id:
                if not row.is_prefill:
                    return False
                row.is_over = True
                self._leave()
                return True
        return True

    def _begin(self, row: Row) -> None:
        """Gives a row its cache, with what is kept of its conversation, and the embeddings of audios that are new."""
        cache, num_read = None, 0
        if row.request.conversation_id is not None:
            keys, cache = self._kept.pop(row.request.conversation_id, ([], None))
            # modules need a cache of their own kind
            if cache is not None and row.has_mctp == isinstance(cache, VitaAudioCache):
                # one token at least is left to be read, because it gives the first scores
                num_read = rewind(cache, min(common_prefix(keys, row.keys), len(row.ids) - 1), row.keys)
        if num_read == 0:
            cache = self._most_in_common(row)
            if cache is not None:
                num_read = int(cache.get_seq_length())
            else:
                config = self.model.config
                cache = VitaAudioCache(config) if row.has_mctp else GrowingCache(config.text_config)
        row.cache = cache
        if row.request.input_features:
            self._embed_audios(row, num_read)

    def _most_in_common(self, row: Row) -> GrowingCache | VitaAudioCache | None:
        """A copy of another conversation's cache as far as it begins like a row; instructions are often the same."""
        others = [*self._kept.values(), *((other.keys, other.cache) for other in self._rows)]
        num_common, cache = 0, None
        for keys, other in others:
            if row.has_mctp == isinstance(other, VitaAudioCache):
                num_read = min(common_prefix(keys, row.keys), len(row.ids) - 1, int(other.get_seq_length()))
                if num_read > max(num_common, MIN_TOKENS_IN_COMMON):
                    num_common, cache = num_read, other
        if cache is None:
            return None
        # Only what is in common is copied: the other conversation may be long
        cache = with_own_lengths(cache)
        rewind(cache, num_common, row.keys)
        return copy.deepcopy(cache)

    def _embed_audios(self, row: Row, start: int) -> None:
        new_ids = self._tensor(row.ids[start:])[None]
        num_heard = len({id(key) for key in row.keys[:start] if not isinstance(key, int)})
        features = row.request.input_features[num_heard:]
        if features:
            rows = [torch.from_numpy(values).to(self.model.device, self.model.dtype) for values in features]
            padded = pad_sequence(rows, batch_first=True)
            mask = pad_sequence([torch.ones(len(values), dtype=torch.long) for values in features], batch_first=True)
            embeds = self.model.model.language_model.embed_tokens(new_ids)
            row.prompt_embeds = self.model.model._with_audio(new_ids, embeds, padded, mask.to(self.model.device))
            row.embeds_start = start

    def _tensor(self, ids: Sequence[int]) -> torch.LongTensor:
        return torch.tensor(ids, dtype=torch.long, device=self.model.device)

    def _leave(self) -> None:
        """Lets rows out of the batch that are over or cancelled, and keeps what was read for their conversations."""
        stay = []
        for row in self._rows:
            if not (row.is_over or row.is_cancelled):
                stay.append(row)
                continue
            if row.is_kept:
                # that of the latest request without a conversation as well, for what others have in common with it
                self._kept[row.request.conversation_id] = (row.keys, row.cache)
                self._kept.move_to_end(row.request.conversation_id)
                while len(self._kept) > self.max_kept_conversations:
                    self._kept.popitem(last=False)
            row.finish(row.error)
        self._rows = stay

    def _step(self) -> None:
        """One forward of the language model for all rows, then the modules for those whose turn it is."""
        reading, budget = [], MAX_TOKENS_PER_FORWARD
        # Who is answered comes before who only reads ahead
        for row in sorted(self._rows, key=lambda row: row.is_prefill):
            # Drafts are verified in one forward
            num_tokens = row.num_unread if row.num_drafts > 0 else min(row.num_unread, max(budget, 0))
            if num_tokens > 0:
                reading.append((row, num_tokens))
                budget -= num_tokens
        states = self._read(reading)
        has_drafts = [row.num_drafts > 0 for row, _ in reading]
        writing = [index for index, (row, _) in enumerate(reading) if row.num_unread == 0 and not row.is_prefill]
        if plain := [index for index in writing if not has_drafts[index]]:
            last_states = torch.stack([states[index][-1] for index in plain])
            self._write([reading[index][0] for index in plain], self.model.lm_head(last_states))
        if drafted := [index for index in writing if has_drafts[index]]:
            # The drafts of all rows go through the head together
            kept = [states[index][-reading[index][0].num_drafts - 1 :] for index in drafted]
            logits = self.model.lm_head(torch.cat(kept)).float().split(list(map(len, kept)))
            for index, of_row in zip(drafted, logits):
                self._verify(reading[index][0], of_row)
        self._send()
        for row, _ in reading:
            if row.is_prefill and row.num_unread == 0:
                self._read_ahead(row)
                row.is_over = True
        # A row that has read all and has a module's turn has as many unread tokens as the number of the module
        while rows := [row for row in self._rows if row.next_turn[0] > 0 and not (row.is_over or row.is_cancelled)]:
            # A burst begins with module 1 for all of its rows, so they stay at the same module
            module_idx = rows[0].next_turn[0]
            self._write(rows, self.model.lm_head(self._run_module(module_idx, rows, module_idx)))
            if module_idx % MODULES_PER_SENDING == 0:
                self._send()
        self._send()

    def _make_way(self) -> None:
        # With many rows somebody always has something urgent, and all wait for the engine
        if len(self._rows) <= MAX_ROWS_THAT_WAIT:
            self._give_way()

    def _read(self, reading: list[tuple[Row, int]]) -> tuple[torch.Tensor, ...]:
        """
        Lets the language model read the next tokens of rows; returns the states `(num_tokens, hidden_size)` of each.
        """
        self._make_way()
        language_model, lengths = self.model.model.language_model, [num_tokens for _, num_tokens in reading]
        starts = [row.num_read for row, _ in reading]
        ids = [i for (row, n), start in zip(reading, starts) for i in row.ids[start : start + n]]
        plain_embeds = embeds = language_model.embed_tokens(self._tensor(ids)[None])
        if any(row.prompt_embeds is not None for row, _ in reading):
            # Modules read `<|context_of_audio|>` as any token, so only the language model gets what stands there
            parts = zip(reading, starts, plain_embeds.split(lengths, dim=1))
            embeds = torch.cat([row.heard(start, part) for (row, _), start, part in parts], dim=1)
        positions = self._tensor([i for start, n in zip(starts, lengths) for i in range(start, start + n)])[None]
        rows = RowCaches([row.cache for row, _ in reading], lengths, self.model.device)
        states = language_model(
            inputs_embeds=embeds, position_ids=positions, use_cache=True, rows=rows, **{CACHE: rows}
        ).last_hidden_state
        parts = (tensor.split(lengths, dim=1) for tensor in (plain_embeds, positions, states))
        for (row, _), *columns in zip(reading, *parts):
            if row.has_mctp:
                row.cache.append_language_model(*columns)
        return states[0].split(lengths)

    def _verify(self, row: Row, logits: torch.Tensor) -> None:
        """Keeps or rejects the drafts of a row by the language model's logits `(num_drafts + 1, vocab_size)`."""
        try:
            self._unsent += [(row, token) for token in row.verify(logits)]
        # as where a token is chosen
        except Exception as error:
            logger.exception("Drafts could not be verified.")
            row.is_over, row.error = True, error

    def _run_module(self, module_idx: int, rows: list[Row], num_new_tokens: int) -> torch.Tensor:
        """
        Lets a module read all that it can of rows that have so many tokens which the language model has not read;
        returns the states `(num_rows, hidden_size)` of the last column of each.
        """
        self._make_way()
        unread = [row.cache.unread(module_idx, num_new_tokens) for row in rows]
        embeds = [columns for _, _, columns in unread]
        if num_new_tokens > 0:
            new_ids = self._tensor([row.ids[-num_new_tokens:] for row in rows])
            new_embeds = self.model.model.language_model.embed_tokens(new_ids)
            # A module with fewer unread columns than new tokens has combined the first of these before
            embeds = [
                torch.cat([columns, new[None]], dim=1)[:, -states.shape[1] :]
                for columns, new, (states, _, _) in zip(embeds, new_embeds, unread)
            ]
        lengths = [states.shape[1] for states, _, _ in unread]
        caches = RowCaches([row.cache.mctp_caches[module_idx - 1] for row in rows], lengths, self.model.device)
        states = self.model.model._run_module(
            self.model.model.mctp_modules[module_idx - 1],
            torch.cat(embeds, dim=1),
            torch.cat([states for states, _, _ in unread], dim=1),
            torch.cat([positions for _, positions, _ in unread], dim=1) + module_idx,
            cache=caches,
            attention_mask=None,
            rows=caches,
        )
        for row, columns in zip(rows, states.split(lengths, dim=1)):
            row.cache.append_module(module_idx, columns)
        return states[0, torch.tensor(lengths, device=states.device).cumsum(0) - 1]

    def _read_ahead(self, row: Row) -> None:
        """Lets the modules read a prompt whose end has not come, as far as they can."""
        if row.has_mctp:
            for module_idx in range(1, len(row.cache.mctp_caches) + 1):
                if row.cache.num_columns_read(module_idx) < row.num_read - module_idx:
                    self._run_module(module_idx, [row], 0)

    def _write(self, rows: list[Row], logits: torch.Tensor) -> None:
        """Chooses a token for each row by its logits `(num_rows, vocab_size)`."""
        logits = logits.float()
        if any(row.is_speech_alone for row in rows):
            logits = self._of_speech_alone(rows, logits)
        tokens = logits.argmax(dim=-1).tolist()
        for index, (row, token) in enumerate(zip(rows, tokens)):
            is_draft = row.tolerances.is_verified and row.next_turn[0] > 0
            if len(row.processors) > 0 or row.config.do_sample or is_draft:
                try:
                    scores = row.score(logits[index : index + 1])
                    if is_draft:
                        self._unsent += [(row, token) for token in row.draft(scores)]
                        continue
                    token = row.choose(scores)
                # what one request asks of its scores is no trouble of the others in its batch
                except Exception as error:
                    logger.exception("A token could not be chosen.")
                    row.is_over, row.error = True, error
                    continue
            row.write(token)
            self._unsent.append((row, token))

    def _send(self) -> None:
        """Hands the tokens that were written over to those who read them, in one call of each event loop."""
        unsent, self._unsent = self._unsent, []
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Row, int]]] = {}
        for row, token in unsent:
            by_loop.setdefault(row.loop, []).append((row, token))
        for loop, items in by_loop.items():
            try:
                loop.call_soon_threadsafe(deliver, items)
            except RuntimeError:  # the loop is closed, so nobody reads any more
                for row, _ in items:
                    row.is_cancelled = True

    def _of_speech_alone(self, rows: list[Row], logits: torch.Tensor) -> torch.Tensor:
        """-inf for all that is no speech, in the rows whose next token can be nothing else."""
        config = self.model.config
        is_allowed = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        is_allowed[config.speech_token_offset : config.speech_token_offset + config.num_speech_tokens] = True
        is_allowed[[config.begin_audio_token_id, config.end_audio_token_id]] = True
        is_allowed[list(rows[0].eos_token_ids)] = True
        is_speech = torch.tensor([row.is_speech_alone for row in rows], device=logits.device)
        return logits.masked_fill(is_speech[:, None] & ~is_allowed, -torch.inf)


def deliver(items: list[tuple[Row, int]]) -> None:
    """Runs in an event loop: gives tokens to those who read them."""
    for row, token in items:
        row.queue.put_nowait(token)


def with_own_lengths(cache: Cache) -> Cache:
    """A copy that holds the same tensors, and can be taken back without the original."""
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    if isinstance(cache, VitaAudioCache):
        other.mctp_caches = list(map(with_own_lengths, cache.mctp_caches))
    return other


def rewind(cache: GrowingCache | VitaAudioCache, num_columns: int, keys: list) -> int:
    """
    Takes a cache back to a prompt with which its sequence has `num_columns` tokens in common; `keys` are the prompt's.

    Returns:
        `int`: how many columns of the cache are left, none in the middle of an audio.
    """
    # How many columns the language model and each module have read; a module has combined its last one with the token
    # that stands k places behind it
    has_mctp = isinstance(cache, VitaAudioCache)
    num_read = (
        [cache.num_columns_read(k) for k in range(len(cache.mctp_caches) + 1)]
        if has_mctp
        else [int(cache.get_seq_length())]
    )
    if max(number + k for k, number in enumerate(num_read)) <= num_columns and not is_inside_audio(num_read[0], keys):
        return num_read[0]
    num_columns = max(0, min(num_columns - len(num_read) + 1, *num_read, num_read[0]))
    while is_inside_audio(num_columns, keys):
        num_columns -= 1
    if has_mctp:
        return cache.rewind(num_columns)
    cache.crop(num_columns - num_read[0])
    return num_columns


def is_inside_audio(num_columns: int, keys: list) -> bool:
    """Whether so many columns of a prompt end in the middle of an audio, which is heard as a whole."""
    is_first = num_columns == 0 or isinstance(keys[num_columns], int)
    return not is_first and keys[num_columns - 1] is keys[num_columns]


__all__ = ["TransformersEngine"]
