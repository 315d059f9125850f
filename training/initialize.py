# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The models that stage 1 can start from: a language model that has to learn to speak, or random weights."""

from collections.abc import Iterable

import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_vita_audio import VitaAudioConfig, VitaAudioForConditionalGeneration
from modeling_vita_audio.interleaving_vita_audio import SpeechVocabulary
from processing import VitaAudioFeatureExtractor, VitaAudioProcessor
from processing.codec_vita_audio import SpeechCodec

from .code_noise import vectors_of_codes
from .speech_input import SenseVoice
from .tokenizer import CHAT_MARKS, add_audio_tokens, train_tokenizer


# GPUs are fast on matrices whose sizes are multiples of this. The vocabulary of the released checkpoints is one, too.
VOCAB_MULTIPLE = 8
# How much larger embeddings that come from a codebook are than random ones. In stage 1 of the mini recipe on 14,000
# general sentences, held-out ASR had after 500 steps a loss of 4.89 from random embeddings, and of 4.81, 4.70 and 4.71
# from those of the codebook at the scales 1, 4 and 10; TTS after 200 steps 5.05 from random ones and 4.63 at 4.
CODEBOOK_SCALE = 4.0


@torch.no_grad()
def start_from_codebook(model: VitaAudioForConditionalGeneration, codec: SpeechCodec) -> None:
    """
    Gives the speech tokens embeddings that are a random projection of the vectors in the codec's codebook. Codes that
    sound alike then begin alike, so that rare ones need not be learnt one by one. Nothing changes where the codec has
    no such vectors.
    """
    vectors = vectors_of_codes(codec)
    if vectors is None:
        return
    vectors = (vectors - vectors.mean(0)) / vectors.std()
    embeddings, start = model.get_input_embeddings().weight, model.config.speech_token_offset
    projection = torch.randn(vectors.shape[1], embeddings.shape[1]) / vectors.shape[1] ** 0.5
    scale = CODEBOOK_SCALE * model.config.text_config.initializer_range
    embeddings[start : start + len(vectors)] = scale * vectors @ projection


def build_from_nothing(
    text_config: dict,
    texts: Iterable[str],
    text_vocab_size: int,
    codec: SpeechCodec,
    attn_implementation: str | None = None,
    audio_config: dict | None = None,
    sensevoice: SenseVoice | None = None,
) -> tuple[VitaAudioForConditionalGeneration, VitaAudioProcessor]:
    """
    Builds a model with random weights, and trains a tokenizer for it.

    Args:
        text_config: configuration of the language model, as in [`VitaAudioConfig`]; its `vocab_size` is set here.
        texts: the texts that the tokenizer is trained on.
        text_vocab_size: size of the vocabulary without speech tokens, see [`~training.tokenizer.train_tokenizer`].
        codec ([`SpeechCodec`]): the speech codec.
        attn_implementation: such as `"sdpa"`.
        audio_config: configuration of a new encoder, for a model that hears by features, as in [`VitaAudioConfig`].
        sensevoice: the encoder of such a model, instead of a new one.
    """
    text_config = dict(text_config)
    max_length = text_config.get("max_position_embeddings", 2048)
    hears_features = audio_config is not None or sensevoice is not None
    tokenizer = train_tokenizer(
        texts, text_vocab_size, codec.config.codebook_size, max_length, hears_features=hears_features
    )
    text_config["vocab_size"] = -(-len(tokenizer) // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    vocabulary = SpeechVocabulary.from_tokenizer(tokenizer)
    extractor = VitaAudioFeatureExtractor() if hears_features else None
    if sensevoice is not None:
        audio_config, extractor = sensevoice.audio_config, sensevoice.feature_extractor
    config = VitaAudioConfig(
        text_config=text_config, audio_config=audio_config, num_mctp_modules=0, **vocabulary.to_config()
    )
    if attn_implementation is not None:
        config._attn_implementation = attn_implementation
    model = VitaAudioForConditionalGeneration(config)
    start_from_codebook(model, codec)
    if sensevoice is not None:
        sensevoice.load_into(model)
    return model, VitaAudioProcessor.from_codec(tokenizer, codec, extractor)


def build_from_language_model(
    name_or_path: str, codec: SpeechCodec, sensevoice: SenseVoice | None = None, **kwargs
) -> tuple[VitaAudioForConditionalGeneration, VitaAudioProcessor]:
    """
    Loads a language model of transformers, and enlarges its embeddings and its head by the speech vocabulary. The new
    rows are random, with the mean and covariance of the old ones. `<|im_start|>` and `<|im_end|>` are among them where
    its tokenizer has no such marks; answers end with the second, and with what ended them before.

    Args:
        name_or_path: such as `"Qwen/Qwen2.5-7B-Instruct"`.
        codec ([`SpeechCodec`]): the speech codec.
        sensevoice: the encoder of a model that hears by features.
        kwargs: of `from_pretrained`, such as `dtype`, `attn_implementation` and `revision`.

    Raises:
        ValueError: the model is of another kind.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        name_or_path, revision=kwargs.get("revision"), trust_remote_code=kwargs.get("trust_remote_code")
    )
    language_model = AutoModelForCausalLM.from_pretrained(name_or_path, **kwargs)
    if not (hasattr(language_model, "model") and hasattr(language_model, "lm_head")):
        raise ValueError(
            f"{name_or_path} has a model of the type {language_model.config.model_type!r}; stage 1 starts from a "
            "decoder-only language model such as Qwen2."
        )
    # The chat template writes them, and an answer ends with the second
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in CHAT_MARKS])
    tokenizer.eos_token = CHAT_MARKS[-1]
    add_audio_tokens(tokenizer, codec.config.codebook_size, hears_features=sensevoice is not None)
    language_model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=VOCAB_MULTIPLE)
    vocabulary = SpeechVocabulary.from_tokenizer(tokenizer)
    audio_config = None if sensevoice is None else sensevoice.audio_config
    # Stage 1 has no MCTP modules; stage 2 adds the first.
    config = VitaAudioConfig(
        text_config=language_model.config, audio_config=audio_config, num_mctp_modules=0, **vocabulary.to_config()
    )
    # No weights are made here, because those that are loaded take their place.
    with torch.device("meta"):
        model = VitaAudioForConditionalGeneration(config)
    model.model.language_model, model.lm_head = language_model.model, language_model.lm_head
    model.generation_config = language_model.generation_config
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    model.generation_config.eos_token_id = list(dict.fromkeys([tokenizer.eos_token_id, *ends]))
    if sensevoice is None:
        return model, VitaAudioProcessor.from_codec(tokenizer, codec)
    for name in ("audio_tower", "multi_modal_projector"):
        part = getattr(model.model, name).to_empty(device="cpu")
        part.apply(model.model._init_weights)
        part.to(language_model.dtype)
    sensevoice.load_into(model)
    return model, VitaAudioProcessor.from_codec(tokenizer, codec, sensevoice.feature_extractor)
