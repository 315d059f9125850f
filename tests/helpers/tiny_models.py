# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Random tokenizer, codec, processor and model small enough to build in a test."""

import json
from pathlib import Path

import torch
from transformers import DacConfig, DacModel, EncodecFeatureExtractor, GenerationConfig, Qwen2Config

from processing import VitaAudioCodec, VitaAudioCodecConfig, VitaAudioFeatureExtractor, VitaAudioProcessor
from training.codec.tokenizer_model import quantization_grid
from training.tokenizer import train_tokenizer


TEXTS = [
    "What is two plus two?",
    "Two plus two is four.",
    "Convert the speech to text.",
    "Respond in a friendly manner.",
]


# A codec's encoder
TINY_ENCODER = {
    "num_mel_bins": 80,
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
}

# Arguments of a codec that is small but learns
TRAINABLE_CODEC = {
    "decoder_hidden_sizes": [24, 16],
    "decoder_depths": [1, 1],
    "codebook_size": 32,
    "codebook_dim": 8,
    "tokenizer_config": TINY_ENCODER | {"codebook_size": 32, "latent_dim": 5},
}


def spread_codes(codec: VitaAudioCodec, levels: list[int]) -> None:
    """
    Gives a random codec a grid of `levels` for a codebook, and many codes for 2 s of a gliding voice, whose latents
    get mean 0 and deviation 1 in front of their bound. Otherwise all audio has the same code.
    """
    time = torch.arange(32000) / 16000
    phase = 2 * torch.pi * (120 * time + 15 * torch.sin(3 * time))
    harmonics = [torch.sin(k * phase) * (1 + torch.sin(7 * time + k)) / k for k in range(1, 30)]
    voice = 0.1 * (1 + torch.sin(13 * time)) * sum(harmonics)
    codec.tokenizer.codebook.weight.data = quantization_grid(levels)
    latents = []
    projection = codec.tokenizer.projection
    hook = projection.register_forward_hook(lambda *args: latents.append(args[2][0]))
    codec.encode(voice[None, None])
    hook.remove()
    mean, deviation = latents[0].mean(0), latents[0].std(0)
    projection.weight.data /= deviation[:, None]
    projection.bias.data = (projection.bias.data - mean) / deviation


def tiny_codec(seed: int = 0) -> VitaAudioCodec:
    torch.manual_seed(seed)
    config = VitaAudioCodecConfig(
        codebook_size=16,
        codebook_dim=4,
        decoder_hidden_sizes=[8, 8],
        decoder_depths=[1, 1],
        tokenizer_config=TINY_ENCODER | {"codebook_size": 16, "latent_dim": 1},
    )
    codec = VitaAudioCodec(config).eval()
    spread_codes(codec, [16])
    return codec


def tiny_dac() -> DacModel:
    """A codec of transformers, which encodes and decodes whole utterances alone."""
    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=4,
        downsampling_ratios=[4, 4, 4, 4],
        upsampling_ratios=[4, 4, 4, 4],
        decoder_hidden_size=32,
        n_codebooks=1,
        codebook_size=16,
        codebook_dim=4,
    )
    return DacModel(config).eval()


def tiny_tokenizer(num_speech_tokens: int = 16, **kwargs):
    return train_tokenizer(2 * TEXTS, 400, num_speech_tokens, **kwargs)


# SenseVoice's encoder, small
TINY_AUDIO_CONFIG = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_timestamp_prediction_layers": 1,
    "fsmn_kernel_size": 5,
}


def tiny_plus_processor(**kwargs) -> VitaAudioProcessor:
    """One whose users are heard by features."""
    tokenizer = tiny_tokenizer(hears_features=True)
    return VitaAudioProcessor(VitaAudioFeatureExtractor(), tokenizer, tiny_codec(), **kwargs)


def tiny_processor(**kwargs) -> VitaAudioProcessor:
    return VitaAudioProcessor(EncodecFeatureExtractor(sampling_rate=16000), tiny_tokenizer(), tiny_codec(), **kwargs)


def tiny_model(processor: VitaAudioProcessor, seed: int = 1):
    from modeling_vita_audio import VitaAudioConfig, VitaAudioForConditionalGeneration

    tokenizer, vocabulary = processor.tokenizer, processor.speech_vocabulary
    config = VitaAudioConfig(
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            initializer_range=1.0,
        ),
        num_mctp_modules=10,
        audio_config=TINY_AUDIO_CONFIG if processor.hears_features else None,
        **vocabulary.to_config(),
    )
    torch.manual_seed(seed)
    model = VitaAudioForConditionalGeneration(config).eval()
    # A random model rarely speaks where it has all of the text vocabulary to choose from.
    model.generation_config = GenerationConfig(
        mctp_mode="boost",
        max_new_tokens=40,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[i for i in range(64, vocabulary.begin_audio_token_id) if i != tokenizer.eos_token_id],
    )
    return model


def write_tiny_recognizer(folder: Path) -> Path:
    """Writes a random speech recogniser of transformers into a folder."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    Wav2Vec2CTCTokenizer(folder / "vocab.json").save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    config = Wav2Vec2Config(
        vocab_size=len(tokens),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(10, 8),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder
