# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What stage 1 starts from: a language model that learns to speak, or nothing at all."""

from collections.abc import Iterable

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_vita_audio import VitaAudioConfig, VitaAudioForConditionalGeneration
from modeling_vita_audio.interleaving_vita_audio import SpeechVocabulary
from processing import VitaAudioProcessor

from .tokenizer import add_audio_tokens, train_tokenizer


# Matrices of such sizes are fast on GPUs; the released checkpoints' vocabulary is a multiple of it, too.
VOCAB_MULTIPLE = 8


def build_from_nothing(
    text_config: dict, texts: Iterable[str], text_vocab_size: int, codec, attn_implementation: str | None = None
) -> tuple[VitaAudioForConditionalGeneration, VitaAudioProcessor]:
    """
    A model with random weights and a tokenizer trained for it.

    Args:
        text_config: of the language model, as in [`VitaAudioConfig`]; its vocabulary is set here.
        texts: what the tokenizer is trained on.
        text_vocab_size: its size without speech tokens, see [`~training.tokenizer.train_tokenizer`].
        codec ([`SpeechCodec`]): the speech codec.
        attn_implementation: such as `"sdpa"`.
    """
    text_config = dict(text_config)
    max_length = text_config.get("max_position_embeddings", 2048)
    tokenizer = train_tokenizer(texts, text_vocab_size, codec.config.codebook_size, model_max_length=max_length)
    text_config["vocab_size"] = -(-len(tokenizer) // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    vocabulary = SpeechVocabulary.from_tokenizer(tokenizer)
    config = VitaAudioConfig(text_config=text_config, num_mctp_modules=0, **vocabulary.to_config())
    if attn_implementation is not None:
        config._attn_implementation = attn_implementation
    return VitaAudioForConditionalGeneration(config), VitaAudioProcessor.from_codec(tokenizer, codec)


def build_from_language_model(
    name_or_path: str, codec, **kwargs
) -> tuple[VitaAudioForConditionalGeneration, VitaAudioProcessor]:
    """
    A language model of transformers, its embeddings and head enlarged by the speech vocabulary. New rows are drawn around
    the mean of the old ones.

    Args:
        name_or_path: such as `"Qwen/Qwen2.5-7B-Instruct"`.
        codec ([`SpeechCodec`]): the speech codec.
        kwargs: of `from_pretrained`, such as `dtype`, `attn_implementation` and `revision`.

    Raises:
        ValueError: it is a model of another kind.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        name_or_path, revision=kwargs.get("revision"), trust_remote_code=kwargs.get("trust_remote_code")
    )
    language_model = AutoModelForCausalLM.from_pretrained(name_or_path, **kwargs)
    if not (hasattr(language_model, "model") and hasattr(language_model, "lm_head")):
        raise ValueError(
            f"{name_or_path} has a model of the type {language_model.config.model_type!r}; stage 1 starts from a decoder-only "
            "language model such as Qwen2."
        )
    add_audio_tokens(tokenizer, codec.config.codebook_size)
    language_model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=VOCAB_MULTIPLE)
    vocabulary = SpeechVocabulary.from_tokenizer(tokenizer)
    config = VitaAudioConfig(text_config=language_model.config, num_mctp_modules=0, **vocabulary.to_config())
    with torch.device("meta"):
        model = VitaAudioForConditionalGeneration(config)
    model.model.language_model, model.lm_head = language_model.model, language_model.lm_head
    model.generation_config = language_model.generation_config
    return model, VitaAudioProcessor.from_codec(tokenizer, codec)
