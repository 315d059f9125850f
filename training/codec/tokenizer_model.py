# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The model that trains a speech tokenizer as GLM-4-Voice's was trained (arXiv 2412.02612): Whisper's encoder, made to
read from left to right in blocks, learns to recognise speech through a quantiser. Here it is finite scalar
quantisation (arXiv 2309.15505), whose codebook is a grid and cannot collapse.

Two heads read the codes: one writes phonemes, one repeats what Whisper's own encoder makes of the undisturbed speech.
Phonemes say what the codes are for. Whisper knows people, whom no clip of the corpus is of, and its frames say when a
sound begins and ends, which a list of phonemes does not.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from processing.configuration_glm4_voice_tokenizer import Glm4VoiceTokenizerConfig
from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_glm4_voice_speech_encoder import Glm4VoiceSpeechEncoder
from processing.modeling_vita_audio_codec import VitaAudioCodecBlock


# A phoneme is written at most every 20 ms: the 80 ms of a code can have several.
STEPS_PER_CODE = 4
# Whisper's states differ by less than this in a dimension only where they say nothing, as in a clip of one frame
MIN_DEVIATION = 1e-3


@dataclass
class TokenizerForPreTrainingOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor`, *optional*), phoneme_loss (`torch.FloatTensor`), distillation_loss
        (`torch.FloatTensor`): scalars, the sum and its parts.
    used_codes (`torch.FloatTensor`): how many different codes the batch has.
    phoneme_ids (`torch.LongTensor` of shape `(batch_size, STEPS_PER_CODE * num_codes)`): likeliest phoneme of each
        step, 0 for none and on padding.
    """

    loss: torch.FloatTensor | None = None
    phoneme_loss: torch.FloatTensor | None = None
    distillation_loss: torch.FloatTensor | None = None
    used_codes: torch.FloatTensor | None = None
    phoneme_ids: torch.LongTensor | None = None


def quantization_grid(levels: list[int]) -> torch.FloatTensor:
    """
    Codebook `(prod(levels), len(levels))` of finite scalar quantisation: all points of a grid in `[-1, 1]` with that
    many evenly spaced levels in each dimension.
    """
    return torch.cartesian_prod(*[torch.linspace(-1, 1, number) for number in levels]).reshape(-1, len(levels))


class CodeReader(nn.Module):
    """
    What follows the codes in training alone. A single block sees three codes either way: one that saw more would learn
    the sentences by heart and forgive unclear codes.
    """

    def __init__(self, latent_dim: int, num_phonemes: int, teacher_size: int, hidden_size: int = 384):
        super().__init__()
        self.in_proj = nn.Linear(latent_dim, hidden_size)
        self.block = VitaAudioCodecBlock(VitaAudioCodecConfig(), hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.phoneme_proj = nn.Linear(hidden_size, STEPS_PER_CODE * (num_phonemes + 1))
        self.teacher_proj = nn.Linear(hidden_size, STEPS_PER_CODE * teacher_size)

    def forward(self, latents: torch.FloatTensor, mask: torch.Tensor) -> tuple[torch.FloatTensor, torch.FloatTensor]:
        """
        Latents `(batch_size, num_codes, latent_dim)` to the logits of phonemes, none first, and states of the teacher:
        `(batch_size, STEPS_PER_CODE * num_codes, num_phonemes + 1)` and `(..., teacher_size)`.
        """
        hidden_states = self.norm(self.block(self.in_proj(latents), mask[..., None].to(latents.dtype)))
        phonemes, states = self.phoneme_proj(hidden_states), self.teacher_proj(hidden_states)
        return (projected.unflatten(-1, (STEPS_PER_CODE, -1)).flatten(1, 2) for projected in (phonemes, states))


def normalize_over_time(states: torch.FloatTensor, mask: torch.Tensor) -> torch.FloatTensor:
    """
    States `(batch_size, num_frames, size)` with mean 0 and deviation 1 over the frames of each row where `mask`
    `(batch_size, num_frames)` is 1: so they say less of who speaks in which room, which is the same in all frames.
    """
    weights = (mask / mask.sum(1, keepdim=True))[..., None]
    centred = states - (states * weights).sum(1, keepdim=True)
    return centred / (centred.square() * weights).sum(1, keepdim=True).sqrt().clamp(min=MIN_DEVIATION)


class Glm4VoiceTokenizerForPreTraining(PreTrainedModel):
    r"""
    The tokenizer with what trains it. Only `tokenizer` is kept after training.

    Args:
        config ([`Glm4VoiceTokenizerConfig`]): of the tokenizer; its `latent_dim` is the number of `levels`.
        levels (`list[int]`): of each latent dimension.
        num_phonemes (`int`): how many there are.
        teacher_size (`int`): of the states that are repeated.
        distillation_weight (`float`): of that loss beside the phonemes'.
    """

    config: Glm4VoiceTokenizerConfig
    main_input_name = "input_features"
    _supports_sdpa = True

    def __init__(
        self,
        config: Glm4VoiceTokenizerConfig,
        levels: list[int],
        num_phonemes: int,
        teacher_size: int,
        distillation_weight: float,
    ):
        super().__init__(config)
        self.tokenizer = Glm4VoiceSpeechEncoder(config)
        self.reader = CodeReader(config.latent_dim, num_phonemes, teacher_size)
        self.distillation_weight = distillation_weight
        # While it is False the reader sees the latents as they are
        self.is_quantizing = True
        self.post_init()
        # A grid is not trained, nor are the sinusoids that say which frame it is
        self.tokenizer.codebook.weight.data = quantization_grid(levels)
        for fixed in (self.tokenizer.codebook, self.tokenizer.embed_positions):
            fixed.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            # What PyTorch itself initialises these layers with: a few latents need larger weights than many states do
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif isinstance(module, VitaAudioCodecBlock):
            init.constant_(module.scale, 0.1)

    def forward(
        self,
        input_features: torch.FloatTensor,
        attention_mask: torch.Tensor,
        teacher_states: torch.FloatTensor,
        labels: torch.LongTensor,
    ) -> TokenizerForPreTrainingOutput:
        r"""
        Args:
            input_features (`torch.FloatTensor` of shape `(batch_size, num_mel_bins, num_frames)`):
                Whisper's log-mel frames of disturbed speech, a multiple of the 8 of a code.
            attention_mask (`torch.LongTensor` of shape `(batch_size, num_frames)`):
                1 on audio, 0 on the padding behind it.
            teacher_states (`torch.FloatTensor` of shape `(batch_size, num_frames // 2, teacher_size)`):
                What Whisper's encoder makes of the same speech undisturbed.
            labels (`torch.LongTensor` of shape `(batch_size, num_phonemes)`):
                Phonemes from 1 on, padded with 0. Noise has none.
        """
        codes, mask, latents = self.tokenizer(input_features, attention_mask)
        if self.is_quantizing:
            # gradients pass straight through
            latents = latents + (self.tokenizer.codebook(codes) - latents).detach()
        logits, states = self.reader(latents, mask)
        log_probs = logits.float().log_softmax(-1)
        phoneme_loss = nn.functional.ctc_loss(
            log_probs.transpose(0, 1),
            labels,
            STEPS_PER_CODE * mask.sum(-1),
            (labels > 0).sum(-1),
            # A clip with more phonemes than steps would have an infinite loss; it counts as 0.
            zero_infinity=True,
        )
        frame_mask = mask.repeat_interleave(STEPS_PER_CODE, dim=1).float()
        targets = normalize_over_time(teacher_states.float(), frame_mask)
        errors = (states.float() - targets).square().mean(-1)
        distillation_loss = (errors * frame_mask).sum() / frame_mask.sum()
        return TokenizerForPreTrainingOutput(
            loss=phoneme_loss + self.distillation_weight * distillation_loss,
            phoneme_loss=phoneme_loss.detach(),
            distillation_loss=distillation_loss.detach(),
            used_codes=torch.tensor(float(codes[mask].unique().numel())),
            phoneme_ids=log_probs.argmax(-1) * frame_mask.long(),
        )
