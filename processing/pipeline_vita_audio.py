# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The `audio-to-audio` pipeline: a spoken or written question or a conversation in, the answer's text and speech out.
"""

import copy
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from inspect import signature
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import AutoProcessor, GenerationConfig, Pipeline, PreTrainedModel, ProcessorMixin
from transformers.generation.streamers import BaseStreamer
from transformers.pipelines.pt_utils import KeyDataset, PipelineDataset, PipelineIterator
from transformers.utils.chat_template_utils import Chat

from .audio_vita_audio import is_one_audio
from .compatibility_vita_audio import attach_to_package
from .conversation_vita_audio import (
    TTS_PROMPT,
    SpeechCodes,
    is_conversation,
    read_conversation,
    recognition_conversation,
    synthesis_conversation,
    task_of,
    with_system_prompt,
    with_voice,
)
from .saving_vita_audio import saved_whole
from .streaming_vita_audio import DEFAULT_CODES_PER_CHUNK, StreamClosed, VitaAudioSpeechStream, VitaAudioStreamer
from .voice_vita_audio import VoicePrompt, read_voice


# About a minute of speech with its text, where neither the caller nor the model says how much
DEFAULT_MAX_NEW_TOKENS = 1024

# Keywords of the pipeline that are not for `generate`
PREPROCESS_KEYWORDS = ("system_prompt", "sampling_rate", "return_transcript", "voice")

# Keywords of `generate` that ask for what the pipeline would throw away, with the value that does not
ONE_ANSWER = {
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
}

# How far the language model may be ahead of the codec: about 10 s of speech with its text.
MAX_QUEUED_TOKENS = 256

# Nobody speaks faster, so shorter speech cannot be all of a text. The shipped model's voice speaks 20 characters a
# second.
MAX_CHARACTERS_PER_SECOND = 30

# Speech has pauses between its sounds, noise and hum have none. So the loudest 20 ms of speech are louder by more than
# this than the quietest, when a twentieth at either end is left out.
MIN_LOUDNESS_RATIO = 1.5


class AnswerWarning(UserWarning):
    """Says why an answer is not what was asked for, and what helps."""


class PartStreamer(BaseStreamer):
    """
    A streamer for one of the generations of an answer, which passes tokens on to the answer's `streamer`, but neither
    the prompt nor the end.

    Args:
        streamer ([`VitaAudioStreamer`]): the answer's, whose prompt has come and whose end is still to come.
        is_wanted (`Callable`, *optional*): whether a token is part of the answer; by default no token is.
    """

    def __init__(self, streamer: VitaAudioStreamer, is_wanted: Callable[[int], bool] = lambda token_id: False):
        self.streamer = streamer
        self.is_wanted = is_wanted
        self.has_prompt = False

    def put(self, value: torch.LongTensor):
        token_ids = [i for i in value.flatten().tolist() if self.is_wanted(i)] if self.has_prompt else []
        self.has_prompt = True
        if token_ids:
            self.streamer.put(torch.tensor(token_ids))
        # A generation whose tokens are all left out learns only here that nobody reads any more
        elif self.streamer.is_closed:
            raise StreamClosed()

    def end(self):
        pass


class AnswerStreamer(VitaAudioStreamer):
    """
    A [`VitaAudioStreamer`] that ends with the chunks of `finish`, which gets the answer's text and its seconds of
    speech.
    """

    def __init__(self, *args, finish: Callable[[str, float], Iterator[dict]], **kwargs):
        super().__init__(*args, **kwargs)
        self.finish = finish
        self.put(torch.zeros(1, 0))  # stands for the prompt, which `PartStreamer` does not pass on

    def __iter__(self) -> Iterator[dict]:
        seconds = 0.0
        for chunk in super().__iter__():
            seconds += len(chunk.get("audio", ())) / self.processor.output_sampling_rate
            yield chunk
        if not self.is_closed:
            yield from self.finish(self.text, seconds)


class VitaAudioPipeline(Pipeline):
    r"""
    Pipeline for [`VitaAudioForConditionalGeneration`] and [`VitaAudioProcessor`].

    Example:

        pipe = pipeline("audio-to-audio", model=folder, trust_remote_code=True)
        answer = pipe("question.wav")  # {"audio": ..., "sampling_rate": 16000, "text": "..."}
        for chunk in pipe.stream("question.wav"):  # {"text": "..."} or {"audio": ..., "sampling_rate": 16000}
            ...

    Args:
        codec_device (`str` or `torch.device`, *optional*):
            The codec's device; the model's by default, but the CPU beside an Apple GPU, which has no float64.
    """

    # nothing to add in a saved folder: the model's configuration already names this code
    remote_code = {}

    # None makes it optional: `__init__` loads the processor of a model that was passed without one
    _load_processor = None
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    # The base class would change the keywords of `generate`, in another way in each release; `_forward` passes them
    # itself.
    _pipeline_calls_generate = False

    def __init__(self, *args, codec_device: str | torch.device | None = None, **kwargs):
        for name in ("tokenizer", "feature_extractor", "image_processor", "video_processor"):
            if kwargs.get(name) is not None:
                raise ValueError(f"`{name}` is refused: it is that of the `processor`.")
        if kwargs.get("binary_output"):
            raise ValueError("`binary_output` is refused: answers are dictionaries.")
        model = kwargs.get("model", args[0] if args else None)
        if not isinstance(kwargs.get("processor"), ProcessorMixin):
            kwargs["processor"] = _load_processor(kwargs.get("processor") or model.name_or_path, model)
        super().__init__(*args, **kwargs)
        # generation goes on from the right end of each row
        self.tokenizer.padding_side = "left"
        # there are no features for the base class: the processor turns audio into ids
        self.feature_extractor = None
        if self.processor.audio_tokenizer is None:
            raise ValueError("The pipeline needs a processor with a speech codec, and this one has none.")
        for name, token_id in self.processor.speech_vocabulary.to_config().items():
            if getattr(self.model.config, name) != token_id:
                raise ValueError(
                    f"The processor is of another model: its tokenizer has {name} = {token_id}, but the model's "
                    f"configuration {getattr(self.model.config, name)}."
                )
        if codec_device is None:
            # codecs add up phases in float64
            codec_device = "cpu" if self.device.type == "mps" else self.device
        self.processor.audio_tokenizer.to(codec_device)

    def __call__(self, inputs: Any, **kwargs):
        r"""
        Answers one or several inputs.

        Args:
            inputs:
                One of, or a list, dataset, column or generator of:

                - a spoken question: a path or address of an audio file, its bytes, or an array of samples, see
                  [`load_audio`];
                - a written question, a string that neither is a file or an address nor is named like one;
                - a conversation as [`VitaAudioProcessor.apply_chat_template`] takes it, whose last turn is the user's.
                  An earlier answer of this pipeline may be the content of a turn, and stands for its text and, where
                  the user speaks in any turn, its speech. A last turn that begins with `ASR_PROMPT` asks for the text
                  of its audio, one with `TTS_PROMPT` for the speech of its text;
                - a row of a dataset with `"messages"` (and `"audios"`) or with an `"audio"`.

                A written question is first answered in text, as the models learn it, and the text is then spoken.
            system_prompt (`str`, *optional*):
                The system's turn before all others, where the conversation has none. By default it is
                `SPOKEN_CHAT_SYSTEM_PROMPT` where the user speaks in any turn and asks something in the last, and left
                out otherwise; None leaves it out.
            voice (*optional*):
                A recording of the voice to speak in, of any kind that an audio may be; a [`VoicePrompt`] of
                [`read_voice`] spares encoding it with each call. It goes before the system's turn, as
                `Your Voice: <|audio|>`, and to a codec that speaks in any voice. Only models that were trained with
                such prompts heed it, as the released ones were and the small one that comes with this package was
                not.
            return_transcript (`bool`, *optional*, defaults to `False`):
                Whether to add the question in words, which takes one more generation if it was spoken.
            batch_size (`int`, *optional*, defaults to 1):
                Inputs that go through the model at once.
            sampling_rate (`int`, *optional*):
                Rate in Hz of audios that are arrays; the codec's by default.
            generate_kwargs (`dict`, *optional*), kwargs:
                For `generate`, such as `max_new_tokens`, `do_sample` and `mctp_mode`.

        Returns:
            `dict`, or a list (of a list) or an iterator of them: `"audio"`, a float32 `np.ndarray` of shape
            `(num_samples,)` in [-1, 1], empty where the answer has no speech; `"sampling_rate"` (`int`) of it in Hz;
            `"text"` (`str`); `"audio_codes"` (`list[int]`), the speech as the model wrote it, which a part `{"type":
            "audio", "codes": ...}` of a later turn takes without encoding it again; on request `"transcript"` (`str`,
            or None where nothing was asked). A bad input among several gets an answer without text and speech, with
            the reason in `"error"` (`str`), and the others are answered.

            An answer that was cut off, lacks speech or cannot be all that was asked for comes with an
            [`AnswerWarning`].

        Raises:
            ValueError: a single input is empty or bad (see [`load_audio`] and
                [`VitaAudioProcessor.apply_chat_template`]), or a keyword is none of these.
        """
        # A column of `datasets`, taken out of transformers' wrapper so that its audio can stay encoded
        if isinstance(inputs, KeyDataset) and type(inputs.dataset).__module__.startswith("datasets."):
            inputs = inputs.dataset[inputs.key]
        if isinstance(inputs, (list, tuple)):
            # The base class takes a plain list for several inputs, and a `Chat` for one
            inputs = Chat(spoken) if (spoken := as_conversation(inputs)) else list(inputs)
        elif isinstance(inputs, Mapping):
            inputs = dict(inputs)
        elif type(inputs).__module__.startswith("datasets.") and hasattr(inputs, "__iter__"):
            inputs = _undecoded(inputs)
        # The base class knows no iterators but generators. A file object is an iterator, too, and one audio
        elif isinstance(inputs, Iterator) and not hasattr(inputs, "read"):
            inputs = (item for item in inputs)
        if isinstance(inputs, list) and not inputs:
            raise ValueError("There is no input: the list is empty.")
        return super().__call__(inputs, **kwargs)

    def stream(
        self, inputs: Any, codes_per_chunk: int = DEFAULT_CODES_PER_CHUNK, max_queued_chunks: int = 16, **kwargs
    ) -> VitaAudioSpeechStream:
        r"""
        Answers one input piece by piece.

        Args:
            inputs: one input as of `__call__`; it is checked and encoded before this method returns.
            codes_per_chunk (`int`, *optional*, defaults to 8): see [`VitaAudioStreamer`].
            max_queued_chunks (`int`, *optional*, defaults to 16): see [`VitaAudioSpeechStream`].
            kwargs: as of `__call__`, but for `batch_size`.

        Returns:
            [`VitaAudioSpeechStream`]: iterator of `{"text": str}` and `{"audio": np.ndarray, "sampling_rate": int,
            "audio_codes": list[int]}`, and on request `{"transcript": str}` at the end, so that the answer does not
            wait for it. The pieces of each kind put together are what `__call__` returns, the audio as exactly as the
            codec streams (see [`VitaAudioStreamer`]). The model writes and the codec speaks in two threads, which
            start with this call. `cancel()` stops both from any thread, and so does dropping the iterator. An error in
            a thread is raised where the iterator is read.
        """
        preprocess_params, generate_kwargs, _ = self._sanitize_parameters(**kwargs)
        if isinstance(inputs, (list, tuple)):
            inputs = as_conversation(inputs)
            if inputs is None:
                raise ValueError("`stream` takes one input: an audio, a text or the messages of one conversation.")
        question = self.preprocess(inputs, **{**self._preprocess_params, **preprocess_params})
        voice = question["voice"]
        options = {**self._forward_params, **generate_kwargs}
        # A list, because `finish` reads it in another thread than the one where `generate` fills it
        vocabulary, is_cut_off = self.processor.speech_vocabulary, []

        def generate(streamer: VitaAudioStreamer):
            # First the answer as the model writes it, then the speech of a text that has none
            (written,) = self._write([question], streamer=PartStreamer(streamer, lambda token_id: True), **options)
            is_cut_off.append(written["is_cut_off"])
            if (prompt := self._speech_prompt(question, written)) is not None:
                is_speech = PartStreamer(streamer, lambda i: vocabulary.is_code(i) or vocabulary.is_delimiter(i))
                (spoken,) = self._write([prompt], streamer=is_speech, **options)
                is_cut_off.append(spoken["is_cut_off"])
            streamer.end()

        def finish(text: str, seconds: float):
            _warn(question, text, seconds, any(is_cut_off))
            if question["return_transcript"]:
                yield {"transcript": self._transcribe(question, options, streamer=PartStreamer(streamer))}

        streamer = AnswerStreamer(
            self.processor,
            codes_per_chunk,
            max_queued_tokens=MAX_QUEUED_TOKENS,
            decoder_options=voice and voice.decoder_options,
            finish=finish,
        )
        return VitaAudioSpeechStream(generate, streamer, max_queued_chunks)

    @saved_whole
    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """
        The model and the processor with its codec, a whole Hub folder. `kwargs` as of
        [`PreTrainedModel.save_pretrained`].
        """
        self.model.save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True):
            self.processor.save_pretrained(save_directory)

    def _sanitize_parameters(self, **kwargs):
        preprocess_params = {name: kwargs.pop(name) for name in PREPROCESS_KEYWORDS if name in kwargs}
        if not isinstance(preprocess_params.get("system_prompt"), (str, type(None))):
            raise ValueError(
                f"`system_prompt` must be a text or None, got {preprocess_params['system_prompt']!r:.200}."
            )
        if preprocess_params.get("voice") is not None:
            # Once for all inputs of a call. While the pipeline is made, it has no parameters of its own yet
            rate = {**getattr(self, "_preprocess_params", {}), **preprocess_params}.get("sampling_rate")
            preprocess_params["voice"] = read_voice(self.processor, preprocess_params["voice"], rate)
        for name, value in (kwargs.pop("generate_kwargs", None) or {}).items():
            if name in kwargs:
                raise ValueError(f"`{name}` is given twice, by itself and in `generate_kwargs`.")
            kwargs[name] = value
        if unknown := kwargs.keys() - self._generate_keywords():
            raise ValueError(
                f"{', '.join(f'`{name}`' for name in sorted(unknown))} is no keyword of this pipeline, nor of "
                "`generate`."
            )
        if kwargs.get("streamer") is not None:
            # A written question takes two generations, and a transcript one more, each with a prompt of its own
            raise ValueError("`streamer` is refused: `stream` gives an answer piece by piece.")
        config = kwargs.get("generation_config")
        for name, value in ONE_ANSWER.items():
            if kwargs.get(name, getattr(config, name, None)) not in (None, value):
                raise ValueError(
                    f"The pipeline gives one answer for each input, and nothing else: `{name}` must be {value}."
                )
        return preprocess_params, kwargs, {}

    def _generate_keywords(self) -> set[str]:
        names = {"mctp_mode", "mctp_verify", "mctp_speech_only_head", "tokenizer", "max_new_tokens"}
        # All options of `generate` are attributes of an empty configuration
        names |= {name for name in vars(GenerationConfig()) if not name.startswith("_")}
        return (names | set(signature(self.model.generate).parameters)) - {"kwargs", "inputs"}

    def preprocess(
        self,
        inputs: Any,
        sampling_rate: int | None = None,
        return_transcript: bool = False,
        voice: VoicePrompt | None = None,
        **system_prompt,
    ) -> dict:
        messages = read_conversation(inputs.messages if isinstance(inputs, Chat) else inputs)
        for part in (part for message in messages for part in message["content"] if part["type"] == "audio"):
            # once, because an address or a file in memory may be readable only once
            if not isinstance(part["audio"], SpeechCodes):
                part["audio"] = self.processor.load_audio(part["audio"], sampling_rate)
        task, content = task_of(messages), messages[-1]["content"]
        text = "".join(part["text"] for part in content if part["type"] == "text")
        if task == "tts":
            text = text.removeprefix(TTS_PROMPT.strip()).lstrip()
        if voice is not None and task == "asr":
            raise ValueError("`voice` has no effect where speech is written down.")
        messages = with_system_prompt(messages, **system_prompt)
        # A written question is answered in text first, and the text is spoken in the voice
        is_spoken_at_once = voice is not None and task != "written"
        messages = with_voice(messages, voice.audio) if is_spoken_at_once else messages
        question = dict(self.processor.build_prompt(messages))
        audios = [part["audio"] for part in content if part["type"] == "audio"]
        self._check_question(text, audios, question["input_ids"].shape[1])
        question |= {"task": task, "text": text, "return_transcript": return_transcript, "voice": voice}
        if return_transcript and task == "spoken":
            question["audios"] = audios
        return question

    def _check_question(self, text: str, audios: list[np.ndarray], num_tokens: int) -> None:
        """
        Warns of a question that is unlike the training data, and raises ValueError for one longer than the model can
        read.
        """
        # Not all language models have such a limit
        positions = getattr(self.model.config.text_config, "max_position_embeddings", None)
        if positions is not None and num_tokens > positions:
            # here, because in a batch the other questions would fail with it
            raise ValueError(f"The conversation has {num_tokens} tokens, but the model has positions for {positions}.")
        reasons = []
        letters = {character for character in text if character.isalpha()}
        # a tokenizer writes letters that it was not trained on as several bytes
        unknown = [i for i in letters if len(self.tokenizer(i, add_special_tokens=False)["input_ids"]) > 1]
        if 2 * len(unknown) > len(letters):
            reasons.append(f"The letters of {text!r:.60} are of a language that this model's tokenizer does not know")
        for audio in (audio for audio in audios if isinstance(audio, np.ndarray)):
            # 20 ms
            size = self.processor.feature_extractor.sampling_rate // 50
            loudness = np.sqrt(np.square(audio[: len(audio) // size * size].reshape(-1, size)).mean(axis=1))
            quietest, loudest = np.percentile(loudness, (5, 95))
            if loudest < MIN_LOUDNESS_RATIO * quietest:
                reasons.append("The audio is equally loud throughout, as noise is and speech is not")
        if num_tokens > self.tokenizer.model_max_length:
            reasons.append(
                f"The conversation has {num_tokens} tokens, more than the {self.tokenizer.model_max_length} that this "
                "model was trained with; ask in less, or leave earlier turns out"
            )
        for reason in reasons:
            warnings.warn(f"{reason}: the answer may be wrong.", AnswerWarning, stacklevel=2)

    def run_single(self, inputs: Any, preprocess_params: dict, forward_params: dict, postprocess_params: dict) -> dict:
        (answer,) = self._answer([self.preprocess(inputs, **preprocess_params)], forward_params)
        return answer

    def get_iterator(
        self,
        inputs: Iterable,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict,
        forward_params: dict,
        postprocess_params: dict,
    ) -> Iterator[dict]:
        """
        As the base class's, but a bad input does not end the iteration: it is left out of its batch, and its answer
        says why.
        """
        numbers = count()

        def answer_batch(questions: list[dict]) -> dict:
            answers = iter(
                self._answer([question for question in questions if "error" not in question], forward_params)
            )
            batch = []
            for question, number in zip(questions, numbers):
                if "error" in question:
                    warnings.warn(f"Input {number} was not answered: {question['error']}", AnswerWarning, stacklevel=2)
                batch.append(self._no_answer(question["error"]) if "error" in question else next(answers))
            return {"answers": batch}

        make = PipelineDataset if isinstance(inputs, Sized) else PipelineIterator
        if self.processor.audio_tokenizer.device.type != "cpu":
            # Workers encode the audio, and a forked process cannot use a GPU
            num_workers = 0
        loader = DataLoader(
            make(inputs, self._preprocess_or_error, preprocess_params),
            # Each of several workers would go through all of an iterator
            num_workers=num_workers if make is PipelineDataset else min(num_workers, 1),
            batch_size=batch_size,
            collate_fn=list,
        )
        # at least 2, because with 1 PipelineIterator does not take batches apart; the last batch may be smaller
        batches = PipelineIterator(loader, answer_batch, {}, loader_batch_size=max(batch_size, 2))
        return PipelineIterator(batches, lambda batch: batch["answers"], {})

    def _preprocess_or_error(self, inputs: Any, **preprocess_params) -> dict:
        try:
            return self.preprocess(inputs, **preprocess_params)
        except (ValueError, TypeError, OSError) as error:
            return {"error": str(error)}

    def _answer(self, questions: list[dict], options: dict) -> list[dict]:
        if not questions:
            return []
        # All answers are written in one batch, and the texts without speech are spoken in a second one
        written = self._write(questions, **options)
        answers = list(map(self.postprocess, written))
        prompts = [self._speech_prompt(question, row) for question, row in zip(questions, written)]
        unspoken = [prompt for prompt in prompts if prompt is not None]
        spoken = iter(self._write(unspoken, **options) if unspoken else ())
        for question, answer, prompt, row in zip(questions, answers, prompts, written):
            is_cut_off = row["is_cut_off"]
            if prompt is not None:
                speech_row = next(spoken)
                speech = self.postprocess(speech_row)
                answer |= {name: speech[name] for name in ("audio", "audio_codes")}
                is_cut_off = is_cut_off or speech_row["is_cut_off"]
            _warn(question, answer["text"], len(answer["audio"]) / answer["sampling_rate"], is_cut_off)
            if question["return_transcript"]:
                answer["transcript"] = self._transcribe(question, options)
        return answers

    def _write(self, questions: list[dict], **options) -> list[dict]:
        """
        The `"generated_ids"` of each question, of shape `(1, sequence_length)`, whether it `"is_cut_off"`, and its
        `"voice"`.
        """
        rows = {
            name: [question[name][0].tolist() for question in questions] for name in self.tokenizer.model_input_names
        }
        batch = dict(self.tokenizer.pad(rows, return_tensors="pt"))
        features = [
            # Without the padding of the question's own batch
            audio[mask.bool()].numpy()
            for question in questions
            if "input_features" in question
            for audio, mask in zip(question["input_features"], question["feature_attention_mask"])
        ]
        batch |= {name: torch.from_numpy(values) for name, values in self.processor.pad_features(features).items()}
        output = self.forward(batch, **options)
        return [
            {"generated_ids": ids[None], "is_cut_off": is_cut_off, "voice": question.get("voice")}
            for question, ids, is_cut_off in zip(questions, output["generated_ids"], output["is_cut_off"])
        ]

    def _speech_prompt(self, question: dict, written: dict) -> dict | None:
        """What asks for the speech of the answer to a written question, where that has none yet."""
        (result,) = self.processor.post_process_generation(written["generated_ids"])
        text, voice = result["text"].strip(), question["voice"]
        if question["task"] != "written" or not text or result["audio_codes"]:
            return None
        messages = synthesis_conversation(text)
        if voice is not None:
            messages = with_voice(messages, voice.audio)
        try:
            return {**self.processor.build_prompt(messages), "voice": voice}
        except ValueError:
            # The model has spelled a control mark letter by letter, which no prompt may have in it: text alone
            return None

    def _transcribe(self, question: dict, options: dict, **streamer) -> str | None:
        """The question in words: what the model hears in its audios, or its text."""
        options = {
            # Options of the answer are not for its transcript, in which the likeliest words are asked for
            "do_sample": False,
            **{name: options[name] for name in ("mctp_mode",) if name in options},
            **streamer,
        }
        texts = [question["text"]] if question["task"] in ("spoken", "written") else []
        for audio in question.get("audios", ()):
            texts.append(
                self.postprocess(
                    *self._write([self.processor.build_prompt(recognition_conversation(audio))], **options)
                )["text"]
            )
        return " ".join(filter(None, map(str.strip, texts))) or None

    def _no_answer(self, error: str) -> dict:
        audio, sampling_rate = np.zeros(0, dtype=np.float32), self.processor.output_sampling_rate
        return {"audio": audio, "sampling_rate": sampling_rate, "text": "", "audio_codes": [], "error": error}

    def _forward(self, model_inputs: dict, **generate_kwargs) -> dict:
        for name in ("max_new_tokens", "max_length"):
            # None is no limit of its own, and must not take the place of the default
            if name in generate_kwargs and generate_kwargs[name] is None:
                del generate_kwargs[name]
        given_config = generate_kwargs.get("generation_config")
        # As `generate` fills what a caller's configuration leaves open
        configs = [config for config in (given_config, self.model.generation_config) if config is not None]

        def configured(name: str) -> Any:
            return next((getattr(config, name) for config in configs if getattr(config, name) is not None), None)

        defaults = {"return_dict_in_generate": False}
        # Only what neither the caller nor the model's configuration says
        if configured("pad_token_id") is None:
            defaults["pad_token_id"] = self.tokenizer.pad_token_id
        if configured("max_new_tokens") is None and configured("max_length") is None:
            defaults["max_new_tokens"] = DEFAULT_MAX_NEW_TOKENS
        if given_config is None:
            if "max_length" in generate_kwargs:
                defaults.pop("max_new_tokens", None)
            generate_kwargs = {**defaults, **generate_kwargs, "return_dict_in_generate": False}
        else:
            # transformers takes no keywords beside a configuration, so the defaults go into a copy of it
            generate_kwargs = {**generate_kwargs, "generation_config": copy.deepcopy(given_config)}
            generate_kwargs["generation_config"].update(**defaults)
        names = self.processor.model_input_names
        model_inputs = {name: model_inputs[name] for name in names if name in model_inputs}
        sequences = self.model.generate(**model_inputs, **generate_kwargs)
        prompt_length = model_inputs["input_ids"].shape[1]
        limits = {**defaults, **generate_kwargs}
        max_new_tokens = limits.get("max_new_tokens", configured("max_new_tokens"))
        if max_new_tokens is None:
            max_new_tokens = limits.get("max_length", configured("max_length")) - prompt_length
        # A row with one of these has ended by itself, also where another row has reached the limit
        ends = [self.tokenizer.eos_token_id]
        for own_ends in (configured("eos_token_id"), generate_kwargs.get("eos_token_id")):
            ends += torch.as_tensor([] if own_ends is None else own_ends).flatten().tolist()
        generated_ids = sequences[:, prompt_length:]
        # Any other row has reached the limit of its length or time, unless the caller has named more reasons to end
        stops = generate_kwargs.get("stopping_criteria") or limits.get("stop_strings", configured("stop_strings"))
        may_be_whole = stops and generated_ids.shape[1] < max_new_tokens
        return {
            "generated_ids": generated_ids,
            "is_cut_off": [not may_be_whole and not any(i in ends for i in row) for row in generated_ids.tolist()],
        }

    def postprocess(self, model_outputs: dict) -> dict:
        (result,) = self.processor.post_process_generation(model_outputs["generated_ids"])
        codes, voice, state = result["audio_codes"], model_outputs.get("voice"), None
        if codes and voice is not None and voice.decoder_options:
            state = self.processor.audio_tokenizer.init_decoder_state(batch_size=1, **voice.decoder_options)
        audio, _ = self.processor.decode_audio_chunk(codes, state)
        return {"audio": audio, "sampling_rate": self.processor.output_sampling_rate, **result}


def as_conversation(inputs: list | tuple) -> list[dict] | None:
    """
    The messages of a list that is a conversation, or the question of one that is an audio; None of a list of inputs.
    """
    if is_conversation(inputs):
        return list(inputs)
    is_audio = len(inputs) > 0 and is_one_audio(inputs)
    return [{"role": "user", "content": [{"type": "audio", "audio": inputs}]}] if is_audio else None


def _warn(question: dict, text: str, seconds: float, is_cut_off: bool) -> None:
    """Warns if an answer of this text and so many seconds of speech cannot be all that was asked for."""
    spoken = question["text"] if question["task"] == "tts" else text
    message = None
    if question["task"] == "tts" and text.strip() not in ("", spoken.strip()):
        message = (
            f"is what the model wrote, and may have spoken, in place of {spoken!r:.60}. It is unlike the texts of its "
            "training."
        )
    elif is_cut_off:
        message = (
            "was cut off at the limit of its length or time; a larger `max_new_tokens`, or `max_time` where there is "
            "one, gives it room."
        )
    elif not seconds and question["task"] != "asr":
        message = "has no speech. Ask in another way, or with another `system_prompt`."
    elif seconds and len(spoken) > MAX_CHARACTERS_PER_SECOND * seconds:
        message = (
            f"is {seconds:.1f} s of speech, which cannot be all of a text of {len(spoken)} characters. The model "
            "speaks what is like the texts that it was trained on: give it one sentence at a time."
        )
    if message is not None:
        warnings.warn(f"The answer {(text.strip() or spoken)!r:.60} {message}", AnswerWarning, stacklevel=2)


def _load_processor(name_or_path: str, model: PreTrainedModel) -> ProcessorMixin:
    """
    Raises:
        ValueError: `name_or_path` is empty, because the model was not loaded from a folder or the Hub.
    """
    if not name_or_path:
        raise ValueError("The pipeline needs `processor=`: the model was not loaded from a folder that has one.")
    # The revision is of the model's repository, and of no other
    is_of_model = name_or_path == model.name_or_path and not os.path.isdir(name_or_path)
    revision = {"revision": model.revision} if is_of_model else {}
    # whoever loaded this code from a folder has already agreed to run the folder's code
    is_remote = __name__.startswith("transformers_modules.")
    return AutoProcessor.from_pretrained(name_or_path, trust_remote_code=is_remote, **revision)


class _Rows(Dataset):
    """A dataset of PyTorch, which the base class knows, of the rows of a dataset or column of `datasets`."""

    def __init__(self, rows: Sequence):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index: int):
        return self.rows[index]


def _undecoded(rows: Iterable) -> Iterable:
    """
    A dataset or a column of `datasets` whose audio stays encoded: [`load_audio`] reads it, and does not need
    torchcodec.
    """
    # Not imported, as a Hub folder's code may import only what all users have. Who has a dataset has imported it.
    datasets = sys.modules["datasets"]
    name = getattr(rows, "column_name", None)
    dataset = rows if name is None else rows.source
    # the source of a column of a column is no dataset, and has no features
    features = (dataset.features or {}) if hasattr(dataset, "cast_column") else {}
    for column, feature in features.items():
        if isinstance(feature, datasets.Audio):
            dataset = dataset.cast_column(column, datasets.Audio(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Audio):
            dataset = dataset.cast_column(column, datasets.List(datasets.Audio(decode=False)))
    rows = dataset if name is None else dataset[name]
    return _Rows(rows) if isinstance(rows, Sized) else (row for row in rows)


attach_to_package(__name__)

__all__ = ["AnswerWarning", "VitaAudioPipeline"]
