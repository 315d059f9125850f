# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The `audio-to-audio` pipeline: a spoken question or a conversation in, the answer's text and speech out."""

import copy
from inspect import signature

import torch
from transformers import GenerationConfig, Pipeline
from transformers.utils.chat_template_utils import Chat, is_valid_message

from .compatibility_vita_audio import attach_to_package
from .conversation_vita_audio import spoken_conversation
from .saving_vita_audio import saved_whole
from .streaming_vita_audio import DEFAULT_CODES_PER_CHUNK, VitaAudioSpeechStream, VitaAudioStreamer


# About a minute of speech with its text
DEFAULT_MAX_NEW_TOKENS = 1024

# Of `generate`: what would be thrown away
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
            Where the codec encodes and decodes, if not on the model's device.
    """

    # Its code is what the model's configuration names
    remote_code = {}

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    # `_forward` has the keywords of `generate`: what the base class does with them changes from release to release
    _pipeline_calls_generate = False

    def __init__(self, *args, codec_device: str | torch.device | None = None, **kwargs):
        for name in ("tokenizer", "feature_extractor", "image_processor"):
            if kwargs.get(name) is not None:
                raise ValueError(f"`{name}` is refused: it is that of the `processor`.")
        super().__init__(*args, **kwargs)
        # Batches are collated by these two; generation wants them padded on the left, and audio is ids by then.
        self.tokenizer.padding_side = "left"
        self.feature_extractor = None
        if self.processor.audio_tokenizer is None:
            raise ValueError("The pipeline needs a processor with an audio tokenizer, and this one has none.")
        for name, token_id in vars(self.processor.speech_vocabulary).items():
            if getattr(self.model.config, name) != token_id:
                raise ValueError(
                    f"The processor is of another model: its tokenizer has {name} = {token_id}, but the model's configuration "
                    f"{getattr(self.model.config, name)}."
                )
        self.processor.audio_tokenizer.to(self.device if codec_device is None else codec_device)

    def __call__(self, inputs, **kwargs):
        r"""
        Answers one or several inputs.

        Args:
            inputs:
                One of, or a list, dataset or generator of: a path or `http(s)://` URL, or the bytes, of a wav, flac, ogg or
                mp3 file; an array of samples at the processor's rate; `{"array" or "raw", "sampling_rate"}`; a conversation
                as of [`VitaAudioProcessor.apply_chat_template`].
            system_prompt (`str`, *optional*):
                Before an audio that is not in a conversation; the prompt of spoken chat by default, None for no system turn.
            batch_size (`int`, *optional*, defaults to 1):
                Inputs that go through the model at once.
            sampling_rate (`int`, *optional*):
                Of audios that are arrays, in Hz; the codec's by default.
            generate_kwargs (`dict`, *optional*), kwargs:
                For `generate`, such as `max_new_tokens`, `do_sample` and `mctp_mode`.

        Returns:
            `dict`, or a list or iterator of them: `"audio"`, a float32 `np.ndarray` of shape `(num_samples,)` in [-1, 1], empty
            where the answer has no speech; `"sampling_rate"` (`int`) of it in Hz; `"text"` (`str`).

        Raises:
            ValueError: an input is empty, an audio or text is bad (see [`load_audio`] and
                [`VitaAudioProcessor.apply_chat_template`]), or a keyword is none of these.
        """
        if isinstance(inputs, (list, tuple)) and not len(inputs):
            raise ValueError("There is no input: the list is empty.")
        return super().__call__(inputs, **kwargs)

    def stream(
        self, inputs, codes_per_chunk: int = DEFAULT_CODES_PER_CHUNK, max_queued_chunks: int = 16, **kwargs
    ) -> VitaAudioSpeechStream:
        r"""
        Answers one input piece by piece.

        Args:
            inputs: one input as of `__call__`; it is checked and encoded before this method returns.
            codes_per_chunk (`int`, *optional*, defaults to 8): see [`VitaAudioStreamer`].
            max_queued_chunks (`int`, *optional*, defaults to 16): see [`VitaAudioSpeechStream`].
            kwargs: as of `__call__`.

        Returns:
            [`VitaAudioSpeechStream`]: iterator of `{"text": str}` and `{"audio": np.ndarray, "sampling_rate": int}`. The pieces of
            each kind put together are what `__call__` returns, the audio as exactly as the codec streams (see
            [`VitaAudioStreamer`]). The model writes and the codec speaks in two threads, from this call on. `cancel()` stops
            both from any thread, as does dropping the iterator; an error in them is raised where it is read.
        """
        preprocess_params, generate_kwargs, _ = self._sanitize_parameters(**kwargs)
        if isinstance(inputs, (list, tuple)):
            if not (inputs and is_valid_message(inputs[0])):
                raise ValueError("`stream` takes one input: an audio or the messages of one conversation.")
            inputs = Chat(inputs)
        model_inputs = self.preprocess(inputs, **{**self._preprocess_params, **preprocess_params})
        options = {**self._forward_params, **generate_kwargs}
        return VitaAudioSpeechStream(
            lambda streamer: self.forward(model_inputs, streamer=streamer, **options),
            VitaAudioStreamer(self.processor, codes_per_chunk, max_queued_tokens=MAX_QUEUED_TOKENS),
            max_queued_chunks,
        )

    @saved_whole
    def save_pretrained(self, save_directory, **kwargs):
        """The model and the processor with its codec, a whole Hub folder. `kwargs` as of [`PreTrainedModel.save_pretrained`]."""
        self.model.save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True):
            self.processor.save_pretrained(save_directory)

    def _sanitize_parameters(self, **kwargs):
        preprocess_params = {name: kwargs.pop(name) for name in ("system_prompt", "sampling_rate") if name in kwargs}
        for name, value in (kwargs.pop("generate_kwargs", None) or {}).items():
            if name in kwargs:
                raise ValueError(f"`{name}` is given twice, by itself and in `generate_kwargs`.")
            kwargs[name] = value
        if unknown := kwargs.keys() - self._generate_keywords():
            raise ValueError(
                f"{', '.join(f'`{name}`' for name in sorted(unknown))} is no keyword of this pipeline, nor of `generate`."
            )
        config = kwargs.get("generation_config")
        for name, value in ONE_ANSWER.items():
            if kwargs.get(name, getattr(config, name, None)) not in (None, value):
                raise ValueError(
                    f"The pipeline gives one answer for each input, and nothing else: `{name}` must be {value}."
                )
        return preprocess_params, kwargs, {}

    def _generate_keywords(self) -> set[str]:
        names = {"mctp_mode", "mctp_verify", "mctp_speech_only_head", "tokenizer", "max_new_tokens"}
        names |= {name for name in vars(GenerationConfig()) if not name.startswith("_")}
        return (names | set(signature(self.model.generate).parameters)) - {"kwargs", "inputs"}

    def preprocess(self, inputs, sampling_rate: int | None = None, **system_prompt):
        if not isinstance(inputs, Chat):
            conversation = spoken_conversation(inputs, **system_prompt)
        elif not system_prompt:
            conversation = inputs.messages
        else:
            raise ValueError(
                "`system_prompt` is for an audio alone; a conversation has its own, as a turn of the system."
            )
        return self.processor.apply_chat_template(
            conversation, tokenize=True, return_dict=True, add_generation_prompt=True, sampling_rate=sampling_rate
        )

    def _forward(self, model_inputs, **generate_kwargs):
        given_config = generate_kwargs.get("generation_config")
        config = self.model.generation_config if given_config is None else given_config
        defaults = {"return_dict_in_generate": False}
        if config.pad_token_id is None:
            defaults["pad_token_id"] = self.tokenizer.pad_token_id
        if config.max_new_tokens is None and config.max_length is None:
            defaults["max_new_tokens"] = DEFAULT_MAX_NEW_TOKENS
        if given_config is None:
            if "max_length" in generate_kwargs:
                defaults.pop("max_new_tokens", None)
            generate_kwargs = {**defaults, **generate_kwargs, "return_dict_in_generate": False}
        else:
            # transformers takes no keywords beside a configuration
            generate_kwargs = {**generate_kwargs, "generation_config": copy.deepcopy(given_config)}
            generate_kwargs["generation_config"].update(**defaults)
        sequences = self.model.generate(**model_inputs, **generate_kwargs)
        return {"generated_ids": sequences[:, model_inputs["input_ids"].shape[1] :]}

    def postprocess(self, model_outputs):
        (result,) = self.processor.post_process_generation(model_outputs["generated_ids"])
        (audio,) = self.processor.decode_audio([result["audio_codes"]])
        return {"audio": audio, "sampling_rate": self.processor.output_sampling_rate, "text": result["text"]}


attach_to_package(__name__)

__all__ = ["VitaAudioPipeline"]
