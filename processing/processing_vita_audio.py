# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Processor: conversations with audio to ids, and ids back to text and audio."""

import copy
import os
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    AutoModel,
    BatchFeature,
    EncodecFeatureExtractor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils import CONFIG_NAME, cached_file

from .audio_vita_audio import MAX_AUDIO_SECONDS, is_one_audio, load_audio
from .codec_vita_audio import (
    SpeechCodec,
    StreamingSpeechEncoder,
    check_codec,
    decode_chunks,
    encode,
    output_sampling_rate,
)
from .compatibility_vita_audio import attach_to_package
from .configuration_vita_audio_codec import VitaAudioCodecConfig
from .conversation_vita_audio import (
    AUDIO_MARK,
    CHAT_TEMPLATE,
    SpeechCodes,
    audio_parts,
    joined_contents,
    roles_of_audios,
    split_at_marks,
)
from .encoding_vita_audio import CodeEncoder, FeatureEncoder, VitaAudioEncodingStream, WholeEncoder
from .feature_extraction_vita_audio import VitaAudioFeatureExtractor
from .interleaving_vita_audio import (
    DEFAULT_INTERLEAVE_PATTERN,
    SpeechVocabulary,
    check_interleave_pattern,
    interleave,
    num_audio_tokens,
)
from .modeling_vita_audio_codec import VitaAudioCodec
from .prompt_options_vita_audio import MODEL_KEYWORDS, OPTIONS, read_options, render, template_variables
from .saving_vita_audio import HUB_KWARGS, check_weights, describe_misfit, keep_code, saved_whole


# the codec's place in a Hub folder; `audio_tokenizer` is what transformers' ProcessorMixin calls a codec
AUDIO_TOKENIZER_SUBFOLDER = "audio_tokenizer"

# Codecs that come with this code, by model type; any other is one of transformers' own or brings its code with it.
CODEC_CLASSES = {VitaAudioCodecConfig.model_type: VitaAudioCodec}

IGNORED_LABEL = -100


class VitaAudioProcessor(ProcessorMixin):
    r"""
    A feature extractor, a tokenizer and a speech codec (audio tokenizer) in one.

    It turns conversations with text and audio into ids (`apply_chat_template`), generated ids into text and waveforms
    (`post_process_generation`, `decode_audio`) and training conversations into ids and labels
    (`build_training_example`). It is saved and loaded whole; the codec lies in the subfolder `audio_tokenizer`, and
    its own configuration says which codec it is.

    Args:
        feature_extractor ([`EncodecFeatureExtractor`] or [`VitaAudioFeatureExtractor`]):
            For mono audio at the codec's input rate. With the second one, what users say enters the model as features
            (VITA-Audio-Plus), and what the assistant has said as codes; with the first one all speech enters as codes.
        tokenizer ([`PreTrainedTokenizerBase`]):
            With the tokens `<|audio|>`, `<|begin_of_audio|>`, `<|end_of_audio|>` and contiguous `<|audio_0|>`,
            `<|audio_1|>`, ...
        audio_tokenizer ([`SpeechCodec`], *optional*):
            The speech codec. A [`StreamingSpeechCodec`] is heard while the answer is written. Without a codec the
            processor handles text and codes made before. The name of the argument is that of transformers' processors.
        chat_template (`str`, *optional*):
            By default ChatML without a default system turn. What the model writes is in `{% generation %}` blocks.
        interleave_pattern (`list[int]`, *optional*, defaults to `[1, 10, 4, 10]`):
            Text and speech tokens of each chunk of an assistant's turn, see [`interleave`]. It has to be the layout
            that the model was trained with, so [`~VitaAudioProcessor.from_pretrained`] reads it from the model's
            `config.json`.
        max_audio_seconds (`float`, *optional*, defaults to 60.0):
            The longest audio accepted. 60 s are 750 codes.

    Raises:
        ValueError: the parts do not fit each other: sampling rates, or more codes in the codec than speech tokens.
    """

    remote_code = {
        "processor_config.json": {"auto_map": {"AutoProcessor": "processing_vita_audio.VitaAudioProcessor"}}
    }

    def __init__(
        self,
        feature_extractor: EncodecFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        audio_tokenizer: SpeechCodec | None = None,
        chat_template: str | dict[str, str] | None = None,
        interleave_pattern: Sequence[int] = DEFAULT_INTERLEAVE_PATTERN,
        max_audio_seconds: float = 60.0,
    ):
        super().__init__(
            feature_extractor, tokenizer, chat_template=CHAT_TEMPLATE if chat_template is None else chat_template
        )
        check_interleave_pattern(interleave_pattern)
        is_number = isinstance(max_audio_seconds, (int, float)) and not isinstance(max_audio_seconds, bool)
        if not is_number or not 0 < max_audio_seconds <= MAX_AUDIO_SECONDS:
            raise ValueError(
                f"`max_audio_seconds` must be a number of seconds up to {MAX_AUDIO_SECONDS:g}, got "
                f"{max_audio_seconds!r:.200}."
            )
        self.interleave_pattern = list(interleave_pattern)
        self.max_audio_seconds = max_audio_seconds
        self.audio_token = AUDIO_MARK
        self.audio_token_id = tokenizer.convert_tokens_to_ids(AUDIO_MARK)
        self.speech_vocabulary = SpeechVocabulary.from_tokenizer(tokenizer)
        self._control_token_ids = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        # Not given to the base class, which takes only the codecs of three models
        if audio_tokenizer is not None:
            self._check_audio_tokenizer(audio_tokenizer)
        self.audio_tokenizer = audio_tokenizer
        if self.hears_features:
            # Raises an error where the tokenizer has no token for features
            self.speech_vocabulary.wrap_context(0)

    @classmethod
    def from_codec(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        codec: SpeechCodec,
        feature_extractor: VitaAudioFeatureExtractor | None = None,
        **kwargs: Any,
    ) -> "VitaAudioProcessor":
        """
        A processor for audio at the codec's rate, of a tokenizer with speech tokens; with a
        [`VitaAudioFeatureExtractor`] for models that hear by features. `kwargs` are those of `__init__`.
        """
        check_codec(codec, "`codec`")
        if feature_extractor is None:
            # The codec takes samples as they are, so this extractor only says their rate
            feature_extractor = EncodecFeatureExtractor(feature_size=1, sampling_rate=codec.config.sampling_rate)
        return cls(feature_extractor, tokenizer, codec, **kwargs)

    def _check_audio_tokenizer(self, codec: SpeechCodec) -> None:
        check_codec(codec, "`audio_tokenizer`")
        if codec.config.sampling_rate != self.feature_extractor.sampling_rate:
            raise ValueError(
                f"The codec takes audio at {codec.config.sampling_rate} Hz, but the feature extractor makes it at "
                f"{self.feature_extractor.sampling_rate} Hz."
            )
        if codec.config.codebook_size > self.speech_vocabulary.num_speech_tokens:
            raise ValueError(
                f"The codec has {codec.config.codebook_size} codes, but the tokenizer only "
                f"{self.speech_vocabulary.num_speech_tokens} speech tokens for them."
            )

    @property
    def hears_features(self) -> bool:
        """Whether what users say enters the model as features, instead of as codes."""
        # not by its class, which is another one where it comes from a Hub folder
        return hasattr(self.feature_extractor, "num_rows")

    @property
    def model_input_names(self) -> list[str]:
        names = list(self.tokenizer.model_input_names)
        return names + self.feature_extractor.model_input_names if self.hears_features else names

    @property
    def output_sampling_rate(self) -> int:
        """Rate of decoded audio in Hz."""
        return output_sampling_rate(self._codec)

    @property
    def _codec(self) -> SpeechCodec:
        if self.audio_tokenizer is None:
            raise ValueError("This processor has no speech codec: it can neither read nor make audio.")
        return self.audio_tokenizer

    # Conversations to ids

    def __call__(
        self, text: str | list[str], audio: Any = None, return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        r"""
        Turns rendered prompts into ids. Conversations go through [`~VitaAudioProcessor.apply_chat_template`].

        Args:
            text (`str` or `list[str]`):
                Prompts in the model's chat format, with a mark `<|audio|>` for every audio.
            audio (*optional*):
                An audio or a flat list of the audios of all prompts, each of a kind that [`load_audio`] takes; a list
                of numbers is one audio.
            return_tensors (`str`, *optional*, defaults to `"pt"`):
                `"pt"`, `"np"`, or None for lists.
            kwargs:
                Keywords as in transformers, also in the groups `text_kwargs`, `audio_kwargs` and `common_kwargs`:
                `sampling_rate` of audios that are arrays, in Hz, by default the codec's; `padding` (True,
                `"max_length"` or False), `padding_side` (`"left"`), `max_length` to pad to, `pad_to_multiple_of`,
                `return_attention_mask` (True).

        Returns:
            [`BatchFeature`]: `input_ids` and `attention_mask`, int64 of shape `(batch_size, sequence_length)`; where
            users are heard by features and there are audios, also `input_features` and `feature_attention_mask` as of
            [`VitaAudioFeatureExtractor`]. There is no telling who says what in a rendered prompt: all audios are then
            the users'.

        Raises:
            ValueError: there are more or fewer marks than audios, the text has speech tokens in it, an audio is bad,
                or a keyword is none of these.
        """
        options = read_options({"return_tensors": return_tensors, **kwargs})
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ValueError("There is no prompt: `text` is an empty list.")
        audios = [] if audio is None else [audio] if is_one_audio(audio) else list(audio)
        num_marks = sum(text.count(AUDIO_MARK) for text in texts)
        if num_marks != len(audios):
            raise ValueError(f"The text has {num_marks} marks {AUDIO_MARK}, but {len(audios)} audios came with it.")
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        for row in rows:
            # Such ids in a text would pass for speech
            self._refuse(
                [i for i in row if self.speech_vocabulary.is_code(i) or self.speech_vocabulary.is_delimiter(i)]
            )
        sampling_rate = options.pop("sampling_rate")
        encoded = [
            self._encode(audio, "user") for audio in [self.load_audio(audio, sampling_rate) for audio in audios]
        ]
        spans = iter(list(map(self._span, encoded)))
        return self._pad([self._expand(row, spans) for row in rows], encoded, **options)

    def apply_chat_template(
        self,
        conversation: list[dict] | list[list[dict]],
        chat_template: str | None = None,
        *,
        audios: list | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        sanitize_control_tokens: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> str | list[str] | torch.Tensor | list | BatchFeature:
        r"""
        Renders conversations and, with `tokenize=True`, turns them into ids.

        Args:
            conversation (`list[dict]` or `list[list[dict]]`):
                Messages `{"role", "content"}`. A content is a string, or a list of parts `{"type": "text", "text":
                str}` and `{"type": "audio", "array" | "raw" | "audio" | "bytes" | "base64" | "path" | "url" |
                "audio_url": source}`, or with the `"codes"` (`list[int]`) of an audio. An `"array"` or `"raw"`, and an
                `"audio"` that is an array at another rate than the codec's, needs a `"sampling_rate"`. The parts
                `{"type": "audio_url", "audio_url": {"url"}}` and `{"type": "input_audio", "input_audio": {"data"}}`
                are taken as well. A string has a mark `<|audio|>` for each of its `audios`. An earlier turn of the
                assistant with text followed by an audio is interleaved as in training; an answer of the pipeline, a
                dictionary with `"text"`, may stand for such a turn.
            audios (`list` or `list[list]`, *optional*):
                The audios of the marks, for each conversation of a batch.
            tokenize (`bool`, defaults to `False`), return_dict (`bool`, defaults to `False`), return_tensors:
                As in transformers: the rendered text; ids; or a [`BatchFeature`] as of `__call__`.
            add_generation_prompt, continue_final_message (`bool`, defaults to `False`):
                As in transformers. A final message that ends in speech is continued after its last delimiter.
            return_assistant_tokens_mask (`bool`, defaults to `False`):
                With `return_dict=True`, adds `assistant_masks`, like `input_ids`: 1 where the assistant wrote the
                token, 0 elsewhere. The ids are then those of [`~VitaAudioProcessor.build_training_example`].
            sanitize_control_tokens (`bool`, defaults to `False`):
                Whether control tokens in texts shall have no effect. Both values do the same, because such texts are
                refused.
            kwargs:
                Those of `__call__`, also in a group `processor_kwargs`, and variables of the chat template.

        Raises:
            ValueError: a text has control or speech tokens in it, there are more or fewer marks than `audios`, an
                audio is bad (see [`load_audio`]), a keyword is neither one of `__call__` nor a variable of the chat
                template, or the template fails. All but the last are raised before the codec runs.
        """
        chat_template = self._find_chat_template(chat_template)
        names = template_variables(chat_template)
        # A keyword is the template's if the template reads a variable of this name
        variables = {name: value for name, value in kwargs.items() if name in names}
        options = {name: value for name, value in kwargs.items() if name not in names}
        options = read_options({"return_tensors": return_tensors, **options})
        sampling_rate = options.pop("sampling_rate")
        if add_generation_prompt and continue_final_message:
            raise ValueError(
                "`add_generation_prompt` begins another message, but `continue_final_message` leaves the last one "
                "open."
            )
        if return_assistant_tokens_mask and not (tokenize and return_dict):
            raise ValueError("`return_assistant_tokens_mask=True` needs `tokenize=True` and `return_dict=True`.")
        if not conversation or not isinstance(conversation, (list, tuple)):
            raise ValueError(f"A conversation must be a list with a message or more, got {conversation!r:.200}.")
        is_batched = isinstance(conversation[0], (list, tuple))
        conversations = list(conversation) if is_batched else [conversation]
        audios = (audios if is_batched else [audios]) if audios is not None else [None] * len(conversations)
        if len(audios) != len(conversations):
            raise ValueError(f"Got {len(conversations)} conversations, but audios for {len(audios)}.")
        # One audio may come without a list around it
        audios = [[given] if isinstance(given, (list, tuple)) and is_one_audio(given) else given for given in audios]
        conversations = [split_at_marks(messages, audio) for messages, audio in zip(conversations, audios)]
        # Texts are checked first, because audio may take long to read
        for messages in conversations:
            self._check_texts(messages)
        template = {
            "chat_template": chat_template,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "return_assistant_tokens_mask": return_assistant_tokens_mask,
            # A template may write special tokens by their names, such as `eos_token`
            **self.tokenizer.special_tokens_map,
            **variables,
        }
        if not tokenize:
            prompts, _ = render([joined_contents(messages) for messages in conversations], **template)
            return prompts if is_batched else prompts[0]

        # All audios are read and checked before the codec encodes the first one
        waveforms = [
            [
                audio if isinstance(audio, SpeechCodes) else self.load_audio(audio, sampling_rate)
                for audio in [part["audio"] for part in audio_parts(messages)]
            ]
            for messages in conversations
        ]
        rows, masks, all_encoded = [], [], []
        for messages, samples in zip(conversations, waveforms):
            encoded = list(map(self._encode, samples, roles_of_audios(messages)))
            ids, mask = self._render_and_tokenize(messages, encoded, **template)
            rows.append(ids)
            masks.append(mask)
            all_encoded += encoded
        batch = self._pad(rows, all_encoded, masks if return_assistant_tokens_mask else None, **options)
        return batch if return_dict else batch["input_ids"]

    def build_training_example(self, messages: list[dict], audio_codes: Sequence[Sequence[int]] = ()) -> dict:
        r"""
        Turns a conversation with the assistant's turns in it into a training example.

        Args:
            messages (`list[dict]`):
                As in [`~VitaAudioProcessor.apply_chat_template`]. An assistant's turn of text followed by an audio is
                interleaved by `interleave_pattern`; others stay as they are.
            audio_codes (`list[list[int]]`):
                The codes of the audios, in order, from [`~VitaAudioProcessor.encode_audio`]. Of an audio that is heard
                by features an `int`: how many rows of them there are.

        Returns:
            `dict`: `input_ids` and `labels`, `list[int]` of one length. The labels are -100 except for what the
            assistant writes, `<|im_end|>` included.

        Raises:
            ValueError: a text has control or speech tokens in it, there are more or fewer marks than `audio_codes`, or
                there is nothing to learn.
        """
        messages = split_at_marks(messages, audio_codes)
        self._check_texts(messages)
        input_ids, mask = self._render_and_tokenize(
            messages,
            [part["audio"] for part in audio_parts(messages)],
            chat_template=self._find_chat_template(None),
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
        )
        if not any(mask):
            raise ValueError(
                "Nothing to learn: the conversation has no turn of the assistant, or the chat template marks none "
                "with {% generation %} blocks."
            )
        labels = [token_id if is_learned else IGNORED_LABEL for token_id, is_learned in zip(input_ids, mask)]
        return {"input_ids": input_ids, "labels": labels}

    def build_prompt(self, messages: list[dict]) -> BatchFeature:
        r"""
        What [`~VitaAudioProcessor.apply_chat_template`] makes of a conversation that the model is to answer, without
        reading and checking its audio once more.

        Args:
            messages (`list[dict]`): as there; each audio is what [`~VitaAudioProcessor.load_audio`] returned, or is
                encoded already: its codes, `list[int]`, or, where users are heard by features and this one is not the
                assistant's, its features, float32 `(num_rows, 560)`.

        Returns:
            [`BatchFeature`]: as of `__call__`, of one row.

        Raises:
            ValueError: a text has control or speech tokens in it; or codes or features are not those of the model, or
                not what it hears the one by who says them.
        """
        self._check_texts(messages)
        audios, roles = [part["audio"] for part in audio_parts(messages)], roles_of_audios(messages)
        for audio, role in zip(audios, roles):
            if isinstance(audio, (list, tuple)):
                self._check_codes(audio, role)
            elif audio.ndim == 2:
                self._check_features(audio, role)
        encoded = [
            self._encode(audio, role) if isinstance(audio, np.ndarray) and audio.ndim == 1 else audio
            for audio, role in zip(audios, roles)
        ]
        ids, _ = self._render_and_tokenize(
            messages,
            encoded,
            chat_template=self._find_chat_template(None),
            add_generation_prompt=True,
            **self.tokenizer.special_tokens_map,
        )
        return self._pad([ids], encoded, **{name: value for name, value in OPTIONS.items() if name != "sampling_rate"})

    def load_audio(self, source: Any, sampling_rate: int | None = None) -> np.ndarray:
        """Loads and checks audio at the codec's rate. [`load_audio`] says what `source` may be and what is refused."""
        # What hears by features was trained on audio of another resampler
        resampler = self.feature_extractor.resample if self.hears_features else None
        return load_audio(
            source, self.feature_extractor.sampling_rate, sampling_rate, self.max_audio_seconds, resampler
        )

    def encode_audio(self, audios: Sequence, sampling_rate: int | None = None) -> list[list[int]]:
        r"""
        Speech codes of audios.

        Args:
            audios (`list`): audios of any kind that [`load_audio`] takes. All are checked before the first is encoded.
            sampling_rate (`int`, *optional*, defaults to the codec's): of audios that are arrays, in Hz.

        Returns:
            `list[list[int]]`: each audio's codes in `[0, codebook_size)`.
        """
        waveforms = [self.load_audio(audio, sampling_rate) for audio in audios]
        return [encode(self._codec, waveform) for waveform in waveforms]

    def encoding_stream(self) -> VitaAudioEncodingStream:
        """Encodes one audio of a user while it comes in, to what `build_prompt` takes in its place."""
        if self.hears_features:
            encoder = FeatureEncoder(self.feature_extractor)
        elif isinstance(self._codec, StreamingSpeechEncoder):
            encoder = CodeEncoder(self._codec)
        else:
            encoder = WholeEncoder(self._codec)
        return VitaAudioEncodingStream(encoder, self.feature_extractor.sampling_rate, self.max_audio_seconds)

    def _is_heard_by_features(self, role: str) -> bool:
        return self.hears_features and role != "assistant"

    def _check_codes(self, codes: Sequence[int], role: str) -> None:
        if self._is_heard_by_features(role):
            raise ValueError(f"This model hears the {role} by features, but got an audio of the {role} as codes.")
        num_codes = self.speech_vocabulary.num_speech_tokens
        for code in codes:
            if isinstance(code, bool) or not isinstance(code, Integral) or not 0 <= code < num_codes:
                raise ValueError(f"Speech codes must be whole numbers in [0, {num_codes}), got {code!r:.200}.")
        if not codes:
            raise ValueError(f"An audio of the {role} has no codes.")

    def _check_features(self, features: np.ndarray, role: str) -> None:
        if not self._is_heard_by_features(role):
            raise ValueError(f"This model hears the {role} by codes, but got an audio of the {role} as features.")
        size = self.feature_extractor.stacked_size
        if features.dtype != np.float32 or features.shape != (len(features), size) or not len(features):
            raise ValueError(
                f"Features of an audio must be float32 of the shape (num_rows, {size}), got {features.dtype} of "
                f"{features.shape}."
            )
        if not np.isfinite(features).all():
            raise ValueError("The features of an audio have NaN or infinite values.")

    def _encode(self, waveform: np.ndarray | SpeechCodes, role: str) -> list[int] | np.ndarray:
        """Codes of an audio, or its features `(num_rows, 560)` where the model hears the one who says it so."""
        if isinstance(waveform, SpeechCodes):
            self._check_codes(waveform, role)
            return waveform
        if self._is_heard_by_features(role):
            return self.feature_extractor(waveform)["input_features"][0]
        return encode(self._codec, waveform)

    def _span(self, encoded: list[int] | np.ndarray | int) -> list[int]:
        """The ids that an audio stands at, by its codes, its features or their number of rows."""
        if not isinstance(encoded, (np.ndarray, int)):
            return self.speech_vocabulary.wrap(encoded)
        num_rows = encoded if isinstance(encoded, int) else len(encoded)
        return self.speech_vocabulary.wrap_context(num_audio_tokens(num_rows))

    def pad_features(self, features: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """
        `input_features` and `feature_attention_mask` of audios with features `(num_rows, 560)`; nothing of no audio.
        """
        return dict(self.feature_extractor.pad_rows(features)) if features else {}

    def _check_texts(self, messages: list[dict]) -> None:
        for message, joined in zip(messages, joined_contents(messages)):
            # All parts of a content together, because two parts may have a half of a mark each
            for text, num_audios in ((message["role"], 0), (joined["content"], len(audio_parts([message])))):
                if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                    raise ValueError("The text has half a character in it (a lone surrogate), which has no encoding.")
                ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
                marks = [i for i in ids if i in self._control_token_ids or self.speech_vocabulary.is_code(i)]
                # The marks of the audio parts may be there
                for _ in range(num_audios):
                    marks.remove(self.audio_token_id)
                self._refuse(marks)

    def _refuse(self, token_ids: list[int]) -> None:
        if token_ids:
            mark = self.tokenizer.convert_ids_to_tokens(token_ids[0])
            raise ValueError(
                f"The text has the control mark {mark} in it, which only the processor may place. Remove it; audio "
                f"is passed as an audio part of the content, or as one of `audios` with a mark {AUDIO_MARK} for each."
            )

    def _place_codes(self, messages: list[dict], encoded: list) -> tuple[list[dict], list[list[int]]]:
        """Makes messages whose contents are strings with marks, and the ids that each mark stands for."""
        encoded, spans = iter(encoded), []
        placed = []
        for message in messages:
            parts = message["content"]
            text = "".join(part["text"] for part in parts if part["type"] == "text")
            # As in training, where such a turn is cut into chunks of text and speech
            is_spoken_text = text and parts[-1]["type"] == "audio" and len(audio_parts([message])) == 1
            if message["role"] == "assistant" and is_spoken_text:
                text_ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
                spans.append(interleave(text_ids, next(encoded), self.speech_vocabulary, self.interleave_pattern))
                # One mark stands for the whole turn, its text included
                placed.append({**message, "content": AUDIO_MARK})
            else:
                spans += [self._span(next(encoded)) for _ in audio_parts([message])]
                # Elsewhere each audio keeps its place among the text
                placed += joined_contents([message])
        return placed, spans

    def _find_chat_template(self, name_or_template: str | None) -> str:
        """
        A template of the processor by its name, by default its only or default one. Other strings are templates.

        Raises:
            ValueError: several templates have no default one, or a string is neither a name nor a template.
        """
        templates = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        if name_or_template is None:
            (name_or_template,) = templates if len(templates) == 1 else ("default",)
        if name_or_template not in templates and "{" not in name_or_template:
            raise ValueError(
                f"There is no chat template {name_or_template!r:.100}, the processor has {', '.join(templates)}."
            )
        return templates.get(name_or_template, name_or_template)

    def _render_and_tokenize(self, messages: list[dict], encoded: list, **template) -> tuple[list[int], list[int]]:
        """Ids of messages of parts, with their audios as of `_span`, and 1 for each id that the assistant wrote."""
        messages, spans = self._place_codes(messages, encoded)
        (rendered,), written = render([messages], **template)
        return self._tokenize(rendered, written[0] if written else (), spans)

    def _tokenize(
        self, rendered: str, written: Sequence[tuple[int, int]], spans: list[list[int]]
    ) -> tuple[list[int], list[int]]:
        """
        The ids of a rendered conversation and, for each id, 1 if the assistant wrote it and 0 if not. The text is cut
        where the assistant starts and stops: in generation the prompt ends there, too, so no token may span a prompt
        and its answer.

        Args:
            rendered: the conversation, with a mark for each of `spans`.
            written: where in `rendered` each text of the assistant starts and ends. Without any, nothing is cut.
            spans: the ids that the marks stand for.
        """
        if (num_marks := rendered.count(AUDIO_MARK)) != len(spans):
            raise ValueError(
                f"The chat template writes {num_marks} marks {AUDIO_MARK} for {len(spans)} audios; it must write one "
                "for each."
            )
        input_ids, mask, spans, end = [], [], iter(spans), 0
        # The last, empty text brings in what stands behind the assistant's last turn
        for start, stop in [*written, (len(rendered), len(rendered))]:
            for piece, is_written in ((rendered[end:start], 0), (rendered[start:stop], 1)):
                ids = self._expand(self.tokenizer(piece, add_special_tokens=False)["input_ids"], spans)
                input_ids += ids
                mask += [is_written] * len(ids)
            end = stop
        return input_ids, mask

    def _expand(self, token_ids: list[int], spans: Iterator[list[int]]) -> list[int]:
        """Replaces every audio mark by the next of `spans`."""
        expanded = []
        for token_id in token_ids:
            expanded += next(spans) if token_id == self.audio_token_id else [token_id]
        return expanded

    def _pad(
        self,
        rows: list[list[int]],
        encoded: list,
        masks: list[list[int]] | None = None,
        return_tensors: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """A batch of rows of ids, and of masks if there are any. `options` are those of `tokenizer.pad`."""
        longest = max(map(len, rows))
        if options["padding"] == "max_length" and longest > options["max_length"]:
            raise ValueError(f"A conversation has {longest} tokens, more than `max_length` = {options['max_length']}.")
        batch = dict(self.tokenizer.pad({"input_ids": rows}, **options))
        if masks is not None:
            # `tokenizer.pad` pads only what a model reads, so the masks are padded by hand
            padded = zip(masks, batch["input_ids"])
            if options["padding_side"] == "left":
                batch["assistant_masks"] = [[0] * (len(ids) - len(mask)) + mask for mask, ids in padded]
            else:
                batch["assistant_masks"] = [mask + [0] * (len(ids) - len(mask)) for mask, ids in padded]
        batch |= self.pad_features([audio for audio in encoded if isinstance(audio, np.ndarray)])
        return BatchFeature(batch, tensor_type=return_tensors)

    # Ids to text and audio

    def post_process_generation(self, generated_ids: torch.LongTensor | list[list[int]]) -> list[dict]:
        r"""
        Splits generated ids into text and speech codes. The generation may have stopped in the middle of speech.

        Args:
            generated_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)` or `list[list[int]]`):
                The new tokens, without the prompt. A NumPy array or a list of rows that are arrays or tensors will do.

        Returns:
            `list[dict]`: for each row `"text"` (`str`) and `"audio_codes"` (`list[int]`).

        Raises:
            ValueError: `generated_ids` has no rows, but ids.
        """
        results = []
        for row in generated_ids:
            row = row.tolist() if hasattr(row, "tolist") else row
            if not isinstance(row, (list, tuple)):
                raise ValueError(f"`generated_ids` must be rows of ids, [[...], ...], got {row!r:.100} for a row.")
            text_ids, codes = self.speech_vocabulary.split(row)
            results.append({"text": self.decode_text(text_ids), "audio_codes": codes})
        return results

    def decode_text(self, text_ids: list[int]) -> str:
        """Text of ids without control tokens. Unlike in `decode`, spaces stay, so that pieces add up to the whole."""
        return self.tokenizer.decode(text_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def decode_audio(self, audio_codes: Sequence[Sequence[int]]) -> list[np.ndarray]:
        r"""
        Waveforms of speech codes.

        Args:
            audio_codes (`list[list[int]]`): the codes of each utterance, also as an array or a tensor. An utterance
                without codes has an empty waveform.

        Returns:
            `list[np.ndarray]`: float32 of shape `(num_samples,)` in [-1, 1] at `output_sampling_rate` Hz.

        Raises:
            ValueError: a code is not one of the codec's, or an utterance is no list of codes.
        """
        return [self.decode_audio_chunk(codes)[0] for codes in audio_codes]

    def decode_audio_chunk(
        self, codes: Sequence[int], decoder_state: Any = None, is_final: bool = True
    ) -> tuple[np.ndarray, Any]:
        r"""
        The next samples of an utterance whose codes come in chunks.

        Args:
            codes (`list[int]`): the next codes; there may be none.
            decoder_state (*optional*): for the first chunk `audio_tokenizer.init_decoder_state(batch_size=1)`, then
                what the call for the chunk before returned. None if `codes` are the whole utterance.
            is_final (`bool`): whether no more codes follow. The last call returns all samples that were held back.

        Returns:
            `tuple`: samples, float32 `np.ndarray` of shape `(num_samples,)`, and the state for the next chunk.

        Raises:
            ValueError: a code is not one of the codec's.
        """
        return decode_chunks(self._codec, [codes], [decoder_state], is_final)[0]

    def decode_audio_chunks(
        self, chunks: Sequence[Sequence[int]], decoder_states: Sequence[Any], is_final: bool = False
    ) -> list[tuple[np.ndarray, Any]]:
        """[`~VitaAudioProcessor.decode_audio_chunk`] of several utterances in one call, see [`decode_chunks`]."""
        return decode_chunks(self._codec, chunks, decoder_states, is_final)

    # Saving and loading

    def to_dict(self) -> dict:
        # `ProcessorMixin.to_dict` would copy the codec with its weights; it is saved in a subfolder instead
        without_codec = copy.copy(self)
        del without_codec.audio_tokenizer
        output = super(VitaAudioProcessor, without_codec).to_dict()
        if self.audio_tokenizer is not None:
            output["audio_tokenizer_type"] = self.audio_tokenizer.config.model_type
        return output

    @saved_whole
    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any):
        """As [`ProcessorMixin.save_pretrained`], with the codec in the subfolder `audio_tokenizer`."""
        if self.audio_tokenizer is not None:
            folder = Path(save_directory, AUDIO_TOKENIZER_SUBFOLDER)
            self.audio_tokenizer.save_pretrained(folder)
            # transformers looks for code in the root of a repository, also if a configuration in a subfolder names it
            for path in folder.glob("*.py"):
                path.replace(Path(save_directory, path.name))
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "VitaAudioProcessor":
        """
        Does what [`ProcessorMixin.from_pretrained`] does, with two differences. If the folder or repository has the
        model's `config.json`, `interleave_pattern` is the one that this says. And keywords of the model, such as
        `dtype`, which a pipeline gives to all its parts, have no effect and are not kept.
        """
        kwargs = {name: value for name, value in kwargs.items() if name not in MODEL_KEYWORDS}
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        keep_code(cls.remote_code, str(pretrained_model_name_or_path), **kwargs)
        return processor

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        processor_dict, unused_kwargs = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        hub_kwargs = {key: kwargs[key] for key in HUB_KWARGS if key in kwargs}
        subfolder = kwargs.get("subfolder", "")
        # The model's configuration knows the layout best, but a processor may be saved without a model
        config_file = cached_file(
            pretrained_model_name_or_path,
            CONFIG_NAME,
            subfolder=subfolder,
            _raise_exceptions_for_missing_entries=False,
            **hub_kwargs,
        )
        if config_file is not None:
            config_dict, _ = PreTrainedConfig.get_config_dict(config_file)
            if config_dict.get("interleave_pattern") is not None:
                processor_dict["interleave_pattern"] = config_dict["interleave_pattern"]
        # A processor that was saved without a codec has no such entry
        if (model_type := processor_dict.pop("audio_tokenizer_type", None)) is not None:
            processor_dict["audio_tokenizer"] = _load_codec(
                pretrained_model_name_or_path,
                model_type,
                subfolder=os.path.join(subfolder, AUDIO_TOKENIZER_SUBFOLDER),
                trust_remote_code=kwargs.get("trust_remote_code"),
                **hub_kwargs,
            )
        return processor_dict, unused_kwargs


def _load_codec(pretrained_model_name_or_path: str | os.PathLike, model_type: str, **kwargs: Any) -> SpeechCodec:
    """
    Raises:
        ValueError: there is no codec, or its checkpoint lacks tensors or has others.
    """
    hub_kwargs = {key: kwargs[key] for key in (*HUB_KWARGS, "subfolder") if key in kwargs}
    if cached_file(pretrained_model_name_or_path, CONFIG_NAME, **hub_kwargs) is None:
        raise ValueError(
            f"{pretrained_model_name_or_path!s:.200} has no codec: its processor needs one of the type "
            f"{model_type!r:.100}, but there is no {kwargs['subfolder']}/{CONFIG_NAME}."
        )
    place = f"{pretrained_model_name_or_path!s:.200}/{kwargs['subfolder']}"
    if model_type in CODEC_CLASSES:
        loader = CODEC_CLASSES[model_type]
        # The code of these codecs runs already
        kwargs.pop("trust_remote_code")
    else:
        loader = AutoModel
    try:
        # Without `ignore_mismatched_sizes` transformers raises an error that does not name the tensors
        codec, loading = loader.from_pretrained(
            pretrained_model_name_or_path,
            # Never a pickle, which could run code
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **kwargs,
        )
    except SafetensorError as error:
        raise OSError(f"The codec's weights in {place} cannot be read, they may be cut off: {error}") from error
    except OSError as error:
        if not os.path.isdir(pretrained_model_name_or_path):
            raise
        # The error of transformers names the folder above, without the subfolder
        raise OSError(f"There are no weights of the codec in {place}: it needs a model.safetensors.") from error
    misfit = describe_misfit(*(loading[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched")))
    if misfit:
        raise ValueError(f"The codec's weights in {place} do not fit its configuration. {misfit}.")
    check_weights(codec, str(pretrained_model_name_or_path), **kwargs)
    return codec


attach_to_package(__name__)

__all__ = ["VitaAudioProcessor"]
