# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""GLM-4-Voice's speech codec (arXiv 2412.02612): one codebook, 12.5 codes per second, 16 kHz in and 22.05 kHz out.

A Whisper encoder and its codebook make the codes; a flow-matching decoder and a vocoder speak them. Speech that comes
in is encoded block by block, because the encoder reads no further than a block of 4 s. Streaming decodes
blocks of codes. A block is decoded together with the codes before it and their mel frames, so that it goes on in the
same voice. The frames at its end were made without the codes that follow; the next block makes them again and fades
from the old ones to the new.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput, can_return_tuple

from .compatibility_vita_audio import attach_to_package
from .configuration_glm4_voice_codec import Glm4VoiceCodecConfig
from .modeling_glm4_voice_flow import Glm4VoiceCodeAttention, Glm4VoiceFlow
from .modeling_glm4_voice_tokenizer import Glm4VoiceEncodingMixin, without_autocast
from .modeling_glm4_voice_vocoder import (
    Glm4VoiceSnake,
    Glm4VoiceVocoder,
    Glm4VoiceVocoderState,
    log_mel_spectrogram,
)
from .saving_vita_audio import saved_whole


# The published decoder draws its noise with this seed.
DEFAULT_SEED = 42


@dataclass
class Glm4VoiceCodecDecoderState:
    r"""
    What a streaming `decode` carries from one chunk of codes to the next; made by
    [`Glm4VoiceCodec.init_decoder_state`]. Its size does not depend on the length of the utterance. It is a timeline of
    codes and of the mel frames made of them:

        codes   prompt | (dropped) | decoded            | waiting
        frames  prompt | (dropped) | finished | overlap |

    generator (`torch.Generator`): of the flow's noise.
    vocoder ([`Glm4VoiceVocoderState`]): of what follows the flow.
    codes (`torch.LongTensor` of shape `(batch_size, num_codes)`): the voice prompt's codes, where there is a prompt,
        then the utterance's, without the dropped ones.
    mel (`torch.FloatTensor` of shape `(batch_size, num_mel_bins, num_frames)`): the frames of all codes but the
        waiting ones.
    noise (`torch.FloatTensor` of shape `(1, num_mel_bins, num_frames)`): what these frames were made from.
    num_prompt_codes (`int`): how many of `codes` are the prompt's.
    num_dropped (`int`): codes of the utterance that are left out behind the prompt, as they are too long ago to be
        heard.
    num_waiting (`int`): how many of `codes` have no frames yet, as they wait for a block to be full.
    num_finished (`int`): how many frames of `mel` stay as they are. Those behind them overlap the next block, which
        makes them again.
    speaker_embedding (`torch.FloatTensor` of shape `(batch_size, speaker_embedding_size)`, *optional*): the voice's.
    """

    generator: torch.Generator
    vocoder: Glm4VoiceVocoderState
    codes: torch.LongTensor
    mel: torch.FloatTensor
    noise: torch.FloatTensor
    num_prompt_codes: int = 0
    num_dropped: int = 0
    num_waiting: int = 0
    num_finished: int = 0
    speaker_embedding: torch.FloatTensor | None = None


@dataclass
class Glm4VoiceCodecDecoderOutput(ModelOutput):
    r"""
    audio_values (`torch.FloatTensor` of shape `(batch_size, 1, num_samples)`):
        Audio in `[-1, 1]` at `config.output_sampling_rate` Hz.
    decoder_state ([`Glm4VoiceCodecDecoderState`], *optional*):
        State to pass with the next chunk of codes; None after the last one.
    """

    audio_values: torch.FloatTensor | None = None
    decoder_state: Glm4VoiceCodecDecoderState | None = None


def cut_out(values: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """`values` `(..., length)` without those from `start` to `stop`."""
    return torch.cat([values[..., :start], values[..., stop:]], dim=-1)


class Glm4VoiceCodecPreTrainedModel(PreTrainedAudioTokenizerBase):
    save_pretrained = saved_whole(PreTrainedAudioTokenizerBase.save_pretrained)
    remote_code = {
        "config.json": {
            "auto_map": {
                "AutoConfig": "configuration_glm4_voice_codec.Glm4VoiceCodecConfig",
                "AutoModel": "modeling_glm4_voice_codec.Glm4VoiceCodec",
            }
        }
    }

    config: Glm4VoiceCodecConfig
    base_model_prefix = "codec"
    main_input_name = "input_values"
    input_modalities = "audio"
    _supports_sdpa = True
    _no_split_modules = ["WhisperEncoderLayer", "Glm4VoiceCodeEncoderLayer", "Glm4VoiceUNetLevel", "Glm4VoiceVocoder"]
    # the 8 bits of bfloat16 are too few for pitch and phase
    _keep_in_fp32_modules_strict = ["vocoder"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, Glm4VoiceSnake):
            init.ones_(module.alpha)
        elif isinstance(module, Glm4VoiceCodeAttention):
            init.zeros_(module.content_bias)
            init.zeros_(module.position_bias)


class Glm4VoiceCodec(Glm4VoiceEncodingMixin, Glm4VoiceCodecPreTrainedModel):
    r"""
    The speech codec of GLM-4-Voice and of the released VITA-Audio models: `encode` turns 16 kHz mono audio into 12.5
    codes per second of one codebook, `decode` turns codes into 22.05 kHz audio, at once or chunk by chunk.
    """

    def __init__(self, config: Glm4VoiceCodecConfig):
        super().__init__(config)
        self.init_tokenizer(config.tokenizer_config, config._attn_implementation)
        self.flow = Glm4VoiceFlow(config.flow_config)
        self.vocoder = Glm4VoiceVocoder(config.vocoder_config)
        self.post_init()

    # Codes to audio

    def init_decoder_state(
        self,
        batch_size: int = 1,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        prompt_codes: torch.LongTensor | None = None,
        prompt_mel: torch.FloatTensor | None = None,
        speaker_embedding: torch.FloatTensor | None = None,
    ) -> Glm4VoiceCodecDecoderState:
        r"""
        The state of a `decode` before its first chunk of codes. Each utterance needs its own. Nothing is computed for
        it, and it can be dropped at any time.

        Args:
            batch_size (`int`, defaults to 1):
                Utterances that are decoded side by side.
            seed, generator, prompt_codes, prompt_mel, speaker_embedding:
                See `decode`.

        Raises:
            ValueError: an argument does not fit the codec or another argument.
        """
        if generator is not None:
            if seed is not None:
                raise ValueError("Pass `seed` or `generator`, not both.")
            seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
        seed = DEFAULT_SEED if seed is None else seed
        # on the CPU, because generators of other devices draw other numbers from the same seed
        # One for the flow and one for the vocoder, because how their draws alternate depends on the chunks
        noise_generator, source_generator = (torch.Generator().manual_seed(seed) for _ in range(2))
        if (prompt_codes is None) != (prompt_mel is None):
            raise ValueError("A voice prompt is `prompt_codes` and `prompt_mel`; got only one of them.")
        if prompt_codes is None:
            codes = torch.zeros(batch_size, 0, dtype=torch.long, device=self.device)
            mel = torch.zeros(batch_size, self.config.flow_config.num_mel_bins, 0, device=self.device)
        else:
            codes, mel = self._check_prompt(prompt_codes, prompt_mel, batch_size)
        state = Glm4VoiceCodecDecoderState(
            generator=noise_generator,
            vocoder=self.vocoder.init_state(source_generator),
            codes=codes,
            mel=mel,
            noise=mel[:1, :, :0],
            num_prompt_codes=codes.shape[1],
            num_finished=mel.shape[-1],
        )
        if speaker_embedding is not None:
            size = self.config.flow_config.speaker_embedding_size
            if speaker_embedding.ndim != 2 or speaker_embedding.shape not in ((batch_size, size), (1, size)):
                raise ValueError(
                    f"`speaker_embedding` must be ({batch_size} or 1, {size}), got {tuple(speaker_embedding.shape)}."
                )
            state.speaker_embedding = speaker_embedding.to(self.device)
        return state

    @without_autocast
    def voice_options(self, audio_values: torch.FloatTensor, audio_codes: torch.LongTensor) -> dict[str, torch.Tensor]:
        r"""
        Makes a voice prompt of a recording.

        Args:
            audio_values (`torch.FloatTensor` of shape `(1, 1, num_samples)`):
                The recording at `config.output_sampling_rate` Hz.
            audio_codes (`torch.LongTensor` of shape `(1, 1, num_codes)`):
                What `encode` makes of it.

        Returns:
            `dict`: the `prompt_codes` and `prompt_mel` of `init_decoder_state` and `decode`.
        """
        mel = log_mel_spectrogram(audio_values[:, 0].to(self.device), self.config.vocoder_config)
        return {"prompt_codes": audio_codes.to(self.device), "prompt_mel": mel}

    def _check_prompt(
        self, codes: torch.LongTensor, mel: torch.FloatTensor, batch_size: int
    ) -> tuple[torch.LongTensor, torch.FloatTensor]:
        """
        A voice prompt's codes `(batch_size, num_codes)` and mel `(batch_size, num_mel_bins, num_frames)`, of equal
        length.
        """
        num_mel_bins = self.config.flow_config.num_mel_bins
        self._check_codes("prompt_codes", codes)
        if codes.shape[0] not in (1, batch_size):
            raise ValueError(f"`prompt_codes` must have {batch_size} or 1 rows, got {codes.shape[0]}.")
        if mel.ndim != 3 or mel.shape[0] != codes.shape[0] or mel.shape[2] != num_mel_bins:
            raise ValueError(
                f"`prompt_mel` must be ({codes.shape[0]}, num_frames, {num_mel_bins} mel bins), got "
                f"{tuple(mel.shape)}."
            )
        # The mel may be up to two codes shorter: a recording's last code is padded with silence, its last frame is cut
        # off, and resampling may cost one more frame.
        num_codes = codes.shape[2]
        while num_codes and self.config.num_mel_frames(num_codes) > mel.shape[1]:
            num_codes -= 1
        num_frames = self.config.num_mel_frames(num_codes)
        per_code = self.config.num_mel_frames(1) + 1
        if num_codes < max(1, codes.shape[2] - 2) or mel.shape[1] > num_frames + per_code:
            raise ValueError(
                f"`prompt_codes` and `prompt_mel` must be of the same speech, but {codes.shape[2]} codes stand for "
                f"{self.config.num_mel_frames(codes.shape[2])} mel frames, and there are {mel.shape[1]}."
            )
        codes = codes[:, 0, :num_codes].expand(batch_size, -1).to(self.device)
        mel = mel[:, :num_frames].transpose(1, 2).expand(batch_size, -1, -1).to(self.device, torch.float32)
        return codes, mel

    def _check_codes(self, name: str, codes: torch.LongTensor) -> None:
        if codes.ndim != 3 or codes.shape[1] != 1:
            raise ValueError(f"`{name}` must be (batch_size, 1, num_codes), got {tuple(codes.shape)}.")
        if codes.is_floating_point():
            raise ValueError(f"`{name}` must be integers, got {codes.dtype}.")
        if codes.numel() and not (0 <= codes.min() and codes.max() < self.config.codebook_size):
            raise ValueError(
                f"`{name}` must be in [0, {self.config.codebook_size}), got values from {codes.min().item()} to "
                f"{codes.max().item()}."
            )

    @can_return_tuple
    @torch.no_grad()
    @without_autocast
    def decode(
        self,
        audio_codes: torch.LongTensor,
        decoder_state: Glm4VoiceCodecDecoderState | None = None,
        is_final: bool = True,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        prompt_codes: torch.LongTensor | None = None,
        prompt_mel: torch.FloatTensor | None = None,
        speaker_embedding: torch.FloatTensor | None = None,
    ) -> Glm4VoiceCodecDecoderOutput:
        r"""
        Args:
            audio_codes (`torch.LongTensor` of shape `(batch_size, 1, num_codes)`):
                Codes in `[0, codebook_size)`; all of an utterance, or its next chunk.
            decoder_state ([`Glm4VoiceCodecDecoderState`], *optional*):
                State after the chunk before; used up by this call.
            is_final (`bool`, defaults to `True`):
                Whether these are the last codes. Otherwise codes are held back until `config.streaming_block_size` of
                them have come, and so is the end of the audio, `config.streaming_overlap` codes and what the vocoder
                looks ahead.
            num_inference_steps (`int`, *optional*, defaults to `config.flow_config.num_inference_steps`):
                Euler steps of the flow.
            guidance_scale (`float`, *optional*, defaults to `config.flow_config.guidance_scale`):
                Weight of classifier-free guidance; 0 is without.
            seed (`int`, *optional*, defaults to 42):
                Draws the noise that speech is made from, the same for all rows of a batch and on all devices.
            generator (`torch.Generator`, *optional*):
                Draws the seed.
            prompt_codes (`torch.LongTensor` of shape `(batch_size or 1, 1, num_prompt_codes)`, *optional*):
                Codes of a recording of the voice to speak with.
            prompt_mel (`torch.FloatTensor` of shape `(batch_size or 1, num_prompt_frames, num_mel_bins)`, *optional*):
                Mel frames of the same recording at `config.output_sampling_rate` Hz, see [`log_mel_spectrogram`].
            speaker_embedding (`torch.FloatTensor` of shape `(batch_size or 1, speaker_embedding_size)`, *optional*):
                For decoders that were trained with speaker embeddings; the released one was not.

        Returns:
            [`Glm4VoiceCodecDecoderOutput`]: whole mel frames of 256 samples, 441 of them for 64 codes. The chunks of
            an utterance
            put together are as long as what one call with all codes returns and sound like it, but are not equal to
            it: a block is decoded without knowing what follows.

        Raises:
            ValueError: codes are out of range, a shape is wrong, or the voice or the seed changes within an utterance.
        """
        self._check_codes("audio_codes", audio_codes)
        batch_size = audio_codes.shape[0]
        if num_inference_steps is not None and num_inference_steps < 1:
            raise ValueError(f"`num_inference_steps` must be at least 1, got {num_inference_steps}.")
        options = {
            "seed": seed,
            "generator": generator,
            "prompt_codes": prompt_codes,
            "prompt_mel": prompt_mel,
            "speaker_embedding": speaker_embedding,
        }
        state = decoder_state
        if state is None:
            state = self.init_decoder_state(batch_size, **options)
        elif given := [name for name, value in options.items() if value is not None]:
            raise ValueError(f"`{given[0]}` is for a whole utterance: pass it to `init_decoder_state`.")
        elif state.codes.shape[0] != batch_size:
            raise ValueError(
                f"`decoder_state` is of a batch of {state.codes.shape[0]}, but `audio_codes` has {batch_size} rows."
            )
        state.codes = torch.cat([state.codes, audio_codes[:, 0].to(state.codes.device)], dim=1)
        state.num_waiting += audio_codes.shape[2]
        if state.num_waiting and (is_final or state.num_waiting >= self.config.streaming_block_size):
            mel = self._decode_block(state, is_final, num_inference_steps, guidance_scale)
        else:
            # No code waits: at the end, what would have overlapped another block stays as it is
            mel = state.mel[..., state.num_finished :] if is_final else state.mel[..., :0]
        audio = self.vocoder(mel, state.vocoder, is_final)
        return Glm4VoiceCodecDecoderOutput(audio_values=audio[:, None], decoder_state=None if is_final else state)

    def _decode_block(
        self,
        state: Glm4VoiceCodecDecoderState,
        is_final: bool,
        num_inference_steps: int | None,
        guidance_scale: float | None,
    ) -> torch.FloatTensor:
        """
        Decodes the codes that wait; returns the frames `(batch_size, num_mel_bins, num_frames)` that this finishes.
        """
        num_codes, num_prompt_codes = state.codes.shape[1], state.num_prompt_codes
        # Frames that are made once more start from the noise that they had, and only new frames draw some
        shape = (1, state.mel.shape[1], self._frame_of(num_codes, state) - state.noise.shape[-1])
        noise = torch.randn(shape, generator=state.generator, device=state.generator.device)
        state.noise = torch.cat([state.noise, noise.to(state.noise.device)], dim=-1)
        # The flow goes on from the finished frames, and makes the overlapping ones again
        given, overlap = state.mel.tensor_split([state.num_finished], dim=-1)
        mel = self.flow(
            codes=state.codes,
            noise=state.noise,
            given_mel=given,
            speaker_embedding=state.speaker_embedding,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
        # Fade from the frames of the block before to those that know what follows
        num_faded = overlap.shape[-1]
        weight = torch.arange(1, num_faded + 1, device=mel.device) / (num_faded + 1)
        mel[..., :num_faded] = torch.lerp(overlap, mel[..., :num_faded], weight)
        if is_final:
            return mel

        state.num_waiting = 0
        # The frames of the last codes may still change, so they are not given out yet
        first_overlapping = max(num_prompt_codes, num_codes - self.config.streaming_overlap)
        num_finished = max(state.num_finished, self._frame_of(first_overlapping, state))
        finished = mel[..., : num_finished - state.num_finished]
        # only whole blocks of the encoder's attention are dropped, because the blocks are counted from the first code
        block_size = self.config.flow_config.attention_block_size
        num_surplus = max(0, num_codes - num_prompt_codes - self.config.streaming_context) // block_size * block_size
        start, stop = (self._frame_of(code, state) for code in (num_prompt_codes, num_prompt_codes + num_surplus))
        # Forget what is too long ago
        state.codes = cut_out(state.codes, num_prompt_codes, num_prompt_codes + num_surplus)
        state.mel = cut_out(torch.cat([given, mel], dim=-1), start, stop)
        state.noise = cut_out(state.noise, start, stop)
        state.num_dropped += num_surplus
        state.num_finished = num_finished - (stop - start)
        return finished

    def _frame_of(self, code: int, state: Glm4VoiceCodecDecoderState) -> int:
        """The index in `state.mel` of the first frame of `state.codes[:, code]`, a code behind the prompt."""
        # A code has 6.9 frames, so the frame is counted from the first code of all and not from the first that is left
        num_frames, num_prompt_codes = self.config.num_mel_frames, state.num_prompt_codes
        num_dropped_frames = num_frames(num_prompt_codes + state.num_dropped) - num_frames(num_prompt_codes)
        return num_frames(code + state.num_dropped) - num_dropped_frames

    def forward(
        self, input_values: torch.FloatTensor, padding_mask: torch.Tensor | None = None
    ) -> Glm4VoiceCodecDecoderOutput:
        """Round trip: `decode(encode(input_values, padding_mask).audio_codes)`."""
        return self.decode(self.encode(input_values, padding_mask).audio_codes)


attach_to_package(__name__)

__all__ = [
    "Glm4VoiceCodec",
    "Glm4VoiceCodecDecoderState",
    "Glm4VoiceCodecPreTrainedModel",
]
