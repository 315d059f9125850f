# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Mistakes in the codes that a model hears in training, such as a tokenizer makes of voices that it does not know."""

import torch

from processing import VitaAudioProcessor
from processing.codec_vita_audio import SpeechCodec
from processing.modeling_glm4_voice_speech_encoder import Glm4VoiceSpeechEncoder


# A code becomes one of so many, the nearest to it
NUM_NEAR = 8
# Distances are computed for so many codes at once: 64 MB for a codebook of 16,384.
CODES_AT_ONCE = 1024


def vectors_of_codes(codec: SpeechCodec) -> torch.Tensor | None:
    """The vectors in a codec's codebook, float32 `(codebook_size, latent_dim)`; None where it has no such vectors."""
    encoder = getattr(codec, "tokenizer", None)
    if not isinstance(encoder, Glm4VoiceSpeechEncoder):
        return None
    return encoder.codebook.weight.detach().float().cpu()


def codebook_of(processor: VitaAudioProcessor) -> torch.Tensor:
    """
    The vectors of the codes that a model hears, as of [`vectors_of_codes`].

    Raises:
        ValueError: the model hears by features, or its codec does not say which codes are near each other.
    """
    vectors = None if processor.hears_features else vectors_of_codes(processor.audio_tokenizer)
    if vectors is None:
        raise ValueError(
            "`heard_code_noise` is for models that hear by codes, of a codec whose codebook has a vector for each."
        )
    return vectors


class CodeNoise:
    """
    Puts near codes in the place of some that are heard.

    Args:
        codebook (`torch.Tensor` of shape `(codebook_size, latent_dim)`): the vectors of the codes.
        first_id: id of code 0; the others follow.
        share: of the codes that are heard, how many become others, on average.
    """

    def __init__(self, codebook: torch.Tensor, first_id: int, share: float):
        self.first_id, self.share = first_id, share
        nearest = [
            # the first one is the code itself
            torch.cdist(rows, codebook).topk(min(NUM_NEAR, len(codebook) - 1) + 1, largest=False).indices[:, 1:]
            for rows in codebook.split(CODES_AT_ONCE)
        ]
        self.near = torch.cat(nearest)

    def __call__(self, input_ids: torch.LongTensor, labels: torch.LongTensor) -> torch.LongTensor:
        """
        `input_ids` with other codes where `labels` of the same shape have -100: what the model is trained to say
        stays as it is.
        """
        codes, near = input_ids - self.first_id, self.near.to(input_ids.device)
        is_heard = (codes >= 0) & (codes < len(near)) & (labels == -100)
        is_changed = is_heard & (torch.rand(input_ids.shape, device=input_ids.device) < self.share)
        changed = near[codes[is_changed]]
        drawn = torch.randint(changed.shape[1], (len(changed), 1), device=input_ids.device)
        return input_ids.masked_scatter(is_changed, changed.gather(1, drawn).squeeze(1) + self.first_id)
