# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Continuous speech input of VITA-Audio-Plus: features to rows that stand among a language model's embeddings.

The encoder is SenseVoice's, which transformers has as that of Fun-ASR-Nano.
"""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.fun_asr_nano.configuration_fun_asr_nano import FunAsrNanoEncoderConfig
from transformers.models.fun_asr_nano.modeling_fun_asr_nano import FunAsrNanoEncoder
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .compatibility_vita_audio import attach_to_package
from .interleaving_vita_audio import QUERIES, num_audio_tokens


# SenseVoice's table of queries: languages, events, emotions, text normalisation
NUM_QUERIES = 16


class VitaAudioPositionEncoding(nn.Module):
    """
    Sines, then cosines, of the positions 1, 2, ... All is computed in the type of the input: the released weights were
    trained in bfloat16, where positions above 256 are rounded. transformers has them in float32 and no more than 2048.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Of `(batch_size, num_frames, num_channels)`, positions `(num_frames, num_channels)`."""
        num_frames, num_channels = hidden_states.shape[1:]
        # One operation after the other as in FunASR, because each of them rounds in bfloat16
        step = hidden_states.new_tensor([10000.0]).log() / (num_channels // 2 - 1)
        # integers first: counted in bfloat16 itself, `arange` is wrong above 256
        indices, positions = (
            torch.arange(start, end, device=hidden_states.device).to(hidden_states.dtype)
            for start, end in ((0, num_channels // 2), (1, num_frames + 1))
        )
        angles = positions[:, None] * torch.exp(indices * -step)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class VitaAudioEncoder(FunAsrNanoEncoder):
    """SenseVoice's encoder, with its queries in front of the features."""

    def __init__(self, config: FunAsrNanoEncoderConfig):
        super().__init__(config)
        self.position_embeddings = VitaAudioPositionEncoding()
        self.query_embeddings = nn.Embedding(NUM_QUERIES, config.input_size)
        self.post_init()

    def forward(self, input_features: torch.Tensor, feature_attention_mask: torch.Tensor, **kwargs):
        """
        Args:
            input_features (`torch.FloatTensor` of shape `(num_audios, num_frames, 560)`): padded on the right.
            feature_attention_mask (`torch.LongTensor` of shape `(num_audios, num_frames)`): 0 at the padding.

        Returns:
            [`~modeling_outputs.BaseModelOutput`], `last_hidden_state` of shape `(num_audios, 4 + num_frames,
            hidden_size)`.
        """
        # The encoder then scales the queries and adds positions to them, as it does to the features
        queries = self.query_embeddings.weight[list(QUERIES)]
        queries = queries.expand(len(input_features), *queries.shape)
        input_features = torch.cat([queries, input_features.to(queries.dtype)], dim=1)
        # All queries count, whatever the length of the audio
        mask = nn.functional.pad(feature_attention_mask, (len(QUERIES), 0), value=1)
        return super().forward(input_features, mask, **kwargs)


class VitaAudioMultiModalProjector(nn.Module):
    """Encoder states `(..., hidden_size)` to embeddings `(..., hidden size of the language model)`."""

    def __init__(self, audio_config: FunAsrNanoEncoderConfig, hidden_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(audio_config.hidden_size, eps=1e-5)
        self.linear_1 = nn.Linear(audio_config.hidden_size, hidden_size, bias=False)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(self.norm(hidden_states))))


class VitaAudioSpeechInput:
    """What a model with `audio_tower` and `multi_modal_projector` makes of features, and where it puts that."""

    @can_return_tuple
    def get_audio_features(
        self,
        input_features: torch.FloatTensor,
        feature_attention_mask: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """
        What stands for audios among the embeddings.

        Args:
            input_features (`torch.FloatTensor` of shape `(num_audios, num_frames, 560)`): of
                `VitaAudioFeatureExtractor`.
            feature_attention_mask (`torch.LongTensor` of shape `(num_audios, num_frames)`, *optional*): 0 at the
                padding, which is on the right. By default there is none.

        Returns:
            [`~modeling_outputs.BaseModelOutputWithPooling`]: `last_hidden_state` `(num_audios, 4 + num_frames,
            encoder's size)`, and `pooler_output` `(num_tokens, hidden_size)`, the rows of all audios one after the
            other, without padding.

        Raises:
            ValueError: the model takes speech as codes, the features have another shape, or their padding is not on
                the right.
        """
        if self.config.audio_config is None:
            raise ValueError(
                "`input_features` are for a model with continuous speech input; this one has no `audio_config` and "
                "takes speech as codes."
            )
        size = self.config.audio_config.input_size
        if input_features.ndim != 3 or input_features.shape[-1] != size or not len(input_features):
            raise ValueError(
                f"`input_features` must have the shape (num_audios, num_frames, {size}), with 1 audio or more, got "
                f"{tuple(input_features.shape)}."
            )
        if feature_attention_mask is None:
            feature_attention_mask = torch.ones(
                input_features.shape[:2], dtype=torch.long, device=input_features.device
            )
        if feature_attention_mask.shape != input_features.shape[:2]:
            raise ValueError(
                f"`feature_attention_mask` must have the shape {tuple(input_features.shape[:2])} of the features, got "
                f"{tuple(feature_attention_mask.shape)}."
            )
        if (feature_attention_mask[:, 1:] > feature_attention_mask[:, :-1]).any():
            raise ValueError("The padding of `feature_attention_mask` must be on the right.")
        outputs = self.audio_tower(input_features, feature_attention_mask, **kwargs)
        states = outputs.last_hidden_state
        num_tokens = num_audio_tokens(feature_attention_mask.sum(-1)).to(states.device)
        # `(num_audios, 4 + num_frames)`, False at the padding
        is_row = torch.arange(states.shape[1], device=states.device) < num_tokens[:, None]
        return BaseModelOutputWithPooling(
            last_hidden_state=states,
            pooler_output=self.multi_modal_projector(states[is_row]),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _with_audio(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.FloatTensor,
        input_features: torch.FloatTensor,
        feature_attention_mask: torch.LongTensor | None,
    ) -> torch.FloatTensor:
        """`inputs_embeds` with the rows of audios in place of those of `<|context_of_audio|>`."""
        if input_ids is None:
            raise ValueError(
                "`input_features` need `input_ids`, whose `<|context_of_audio|>` tokens say where they stand."
            )
        rows = self.get_audio_features(input_features, feature_attention_mask, return_dict=True).pooler_output
        is_context = input_ids == self.config.context_audio_token_id
        if (num_tokens := int(is_context.sum())) != len(rows):
            raise ValueError(
                f"The input has {num_tokens} `<|context_of_audio|>` tokens, but `input_features` of "
                f"{len(input_features)} audios take {len(rows)}: one for each frame and "
                f"{num_audio_tokens(0)} more for each audio."
            )
        # `masked_scatter` takes the rows one after the other, through the batch row by row
        return inputs_embeds.masked_scatter(is_context[..., None], rows.to(inputs_embeds))

    def _trains_projector(self) -> bool:
        return self.config.audio_config is not None and self.multi_modal_projector.linear_1.weight.requires_grad

    def _dummy_audio(self, inputs_embeds: torch.FloatTensor) -> torch.FloatTensor:
        """
        `inputs_embeds` of a batch without audio, through which the projector still gets a gradient, of zero, because
        processes that train together wait for it.
        """
        # One frame of ones, as in the original
        features = inputs_embeds.new_ones((1, 1, self.config.audio_config.input_size))
        return inputs_embeds + 0 * self.get_audio_features(features, return_dict=True).pooler_output.mean()


attach_to_package(__name__)

__all__ = ["VitaAudioEncoder", "VitaAudioMultiModalProjector", "VitaAudioSpeechInput"]
