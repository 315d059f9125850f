# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""GLM-4-Voice's speech codec (arXiv 2412.02612): one codebook, 12.5 codes per second, 16 kHz in and 22.05 kHz out.

A Whisper encoder and its codebook make the codes; a flow-matching decoder and a vocoder speak them. Speech that comes
in is encoded block by block, because the encoder reads no further than a block of 4 s. Streaming decodes
blocks of codes. A block is decoded together with the codes before it and their mel frames, so that it goes on in the
same voice. The frames at its end were made without the codes that follow; the next block makes them again and fades
from the old ones to the new.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import WhisperFeatureExtractor
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput, can_return_tuple

from .compatibility_vita_audio import attach_to_package
from .configuration_glm4_voice_codec import Glm4VoiceCodecConfig
from .modeling_glm4_voice_flow import Glm4VoiceCodeAttention, Glm4VoiceFlow
from .modeling_glm4_voice_speech_encoder import Glm4VoiceSpeechEncoder, Glm4VoiceSpeechEncoderState
from .modeling_glm4_voice_vocoder import (
    Glm4VoiceSnake,
    Glm4VoiceVocoder,
    Glm4VoiceVocoderState,
    log_mel_spectrogram,
)
from .saving_vita_audio import saved_whole


# The published decoder draws its noise with this seed.
DEFAULT_SEED = 42

# Segments of 30 s that the encoder reads at once; longer audio is read in several calls.
SEGMENTS_PER_FORWARD = 16

# Whisper's range of a segment's log-mel bins, in powers of ten: quieter ones are raised to so far below the loudest.
MEL_RANGE = 8.0

# How much nearer the nearest vector of the codebook has to be than the next, in steps of the distance's floating point
# type, so that rounding cannot have made another code. Distances of 30 s of speech, encoded whole and in pieces by a
# small encoder, differed by 3 steps.
CLEAR_MARGIN = 200


@dataclass
class Glm4VoiceCodecEncoderOutput(ModelOutput):
    r"""
    audio_codes (`torch.LongTensor` of shape `(batch_size, 1, num_codes)`):
        Speech codes in `[0, codebook_size)`, 0 where a shorter row of the batch is padded.
    audio_codes_mask (`torch.BoolTensor` of shape `(batch_size, num_codes)`):
        True where a code stands for audio of the row, False where it pads.
    """

    audio_codes: torch.LongTensor | None = None
    audio_codes_mask: torch.BoolTensor | None = None


@dataclass
class Glm4VoiceCodecEncoderState:
    r"""
    What `encode_chunk` carries from one chunk of samples to the next; made by [`Glm4VoiceCodec.init_encoder_state`].
    All but the codes is of the segment that is not over yet.

    codes (`list[int]`): the codes so far.
    num_final_codes (`int`): how many of them are of segments that are over.
    samples (`list[torch.FloatTensor]`): its chunks `(num_samples,)`.
    num_samples (`int`): how many these are.
    waiting (`torch.FloatTensor` of shape `(num_samples,)`): the last samples, which have no frames yet, and those
        before them that the windows of these frames begin with.
    log_mel (`list[torch.FloatTensor]`): its frames `(num_mel_bins, num_frames)`, in powers of ten.
    num_frames (`int`): how many these are.
    loudest (`float`): the loudest bin of these frames.
    quietest (`float`): the quietest bin of the frames that have codes.
    encoder ([`Glm4VoiceSpeechEncoderState`], *optional*): the encoder's; None before its first block.
    has_unclear_code (`bool`): whether rounding could have made another code of one of the segment's.
    """

    waiting: torch.FloatTensor
    codes: list[int] = field(default_factory=list)
    num_final_codes: int = 0
    samples: list[torch.FloatTensor] = field(default_factory=list)
    num_samples: int = 0
    log_mel: list[torch.FloatTensor] = field(default_factory=list)
    num_frames: int = 0
    loudest: float = -math.inf
    quietest: float = math.inf
    encoder: Glm4VoiceSpeechEncoderState | None = None
    has_unclear_code: bool = False


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


class Glm4VoiceCodec(Glm4VoiceCodecPreTrainedModel):
    r"""
    The speech codec of GLM-4-Voice and of the released VITA-Audio models: `encode` turns 16 kHz mono audio into 12.5
    codes per second of one codebook, `decode` turns codes into 22.05 kHz audio, at once or chunk by chunk.
    """

    # the feature extractor makes log-mel frames in float32, whatever the weights are in
    input_dtype = torch.float32

    def __init__(self, config: Glm4VoiceCodecConfig):
        super().__init__(config)
        # Whisper's layers read it from their own configuration
        config.tokenizer_config._attn_implementation = config._attn_implementation
        # called a tokenizer as by its authors, in the configuration and in the names of the weights of all Hub folders
        self.tokenizer = Glm4VoiceSpeechEncoder(config.tokenizer_config)
        self.flow = Glm4VoiceFlow(config.flow_config)
        self.vocoder = Glm4VoiceVocoder(config.vocoder_config)
        # All else is Whisper's default, which the published tokenizer has as well
        self.feature_extractor = WhisperFeatureExtractor(
            feature_size=config.tokenizer_config.num_mel_bins, sampling_rate=config.sampling_rate
        )
        self.post_init()

    # Audio to codes

    @can_return_tuple
    @torch.no_grad()
    def encode(
        self,
        input_values: torch.FloatTensor,
        padding_mask: torch.Tensor | None = None,
        sampling_rate: int | None = None,
    ) -> Glm4VoiceCodecEncoderOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, 1, num_samples)`):
                Mono audio at `config.sampling_rate` Hz. It is read in segments of 30 s, each on its own.
            padding_mask (`torch.BoolTensor` or `torch.LongTensor` of shape `(batch_size, num_samples)`, *optional*):
                1 on audio, 0 on the padding behind it.
            sampling_rate (`int`, *optional*):
                Rate of `input_values` in Hz, which is then checked.

        Returns:
            [`Glm4VoiceCodecEncoderOutput`]: `ceil(num_samples / hop_length)` codes a row, the same in any batch.

        Raises:
            ValueError: `input_values` is not mono audio at the codec's rate, a row has no sample, or the padding is
                not behind the audio.
        """
        if sampling_rate is not None and sampling_rate != self.config.sampling_rate:
            raise ValueError(
                f"The codec takes audio at {self.config.sampling_rate} Hz, got {sampling_rate} Hz; resample it first."
            )
        if input_values.ndim != 3 or input_values.shape[1] != 1:
            raise ValueError(f"`input_values` must be (batch_size, 1, num_samples), got {tuple(input_values.shape)}.")
        waveforms = input_values[:, 0]
        if padding_mask is None:
            padding_mask = torch.ones_like(waveforms, dtype=torch.bool)
        if padding_mask.shape != waveforms.shape:
            raise ValueError(
                f"`padding_mask` must be (batch_size, num_samples) {tuple(waveforms.shape)}, got "
                f"{tuple(padding_mask.shape)}."
            )
        lengths = padding_mask.long().sum(-1).tolist()
        if waveforms.shape[1] == 0 or 0 in lengths:
            raise ValueError("`input_values` has a row without a single sample; there is nothing to encode.")
        if (padding_mask.long().diff(dim=-1) > 0).any():
            raise ValueError("`padding_mask` must be 1 on the audio and 0 behind it: padding is on the right.")

        # The segments of all rows go through the encoder together
        rows = [waveform[:length].split(self.segment_length) for waveform, length in zip(waveforms, lengths)]
        codes = iter(self._encode_segments([segment for row in rows for segment in row]))
        rows = [torch.cat([next(codes) for _ in row]) for row in rows]
        mask = [torch.ones_like(row, dtype=torch.bool) for row in rows]
        return Glm4VoiceCodecEncoderOutput(
            audio_codes=nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, None],
            audio_codes_mask=nn.utils.rnn.pad_sequence(mask, batch_first=True),
        )

    @property
    def segment_length(self) -> int:
        """Samples in the longest audio that the encoder reads as a whole (30 s)."""
        return self.config.tokenizer_config.segment_length

    def _encode_segments(self, segments: list[torch.FloatTensor]) -> list[torch.LongTensor]:
        """Codes `(num_codes,)` of segments `(num_samples,)`."""
        all_codes = []
        for start in range(0, len(segments), SEGMENTS_PER_FORWARD):
            # one by one: in a batch, the frames at a segment's end would depend on how long the others are
            features = [self._extract_features(segment) for segment in segments[start : start + SEGMENTS_PER_FORWARD]]
            frames, mask = (nn.utils.rnn.pad_sequence(part, batch_first=True) for part in zip(*features))
            codes, codes_mask, _ = self.tokenizer(frames.transpose(1, 2).to(self.dtype), mask)
            # Without the codes of the padding
            all_codes += [row[row_mask] for row, row_mask in zip(codes, codes_mask)]
        return all_codes

    def _extract_features(self, segment: torch.FloatTensor) -> tuple[torch.FloatTensor, torch.LongTensor]:
        """
        Log-mel frames `(num_frames, num_mel_bins)` of samples `(num_samples,)`, padded to whole codes, and their mask.
        """
        features = self.feature_extractor(
            # transformers' extractor takes NumPy arrays
            segment.float().cpu().numpy(),
            sampling_rate=self.config.sampling_rate,
            padding="longest",
            pad_to_multiple_of=self.config.hop_length,
            return_attention_mask=True,
            return_tensors="pt",
            device=str(self.device),
        ).to(self.device)
        return features["input_features"][0].T, features["attention_mask"][0]

    # Audio to codes while it comes in

    def init_encoder_state(self) -> Glm4VoiceCodecEncoderState:
        """The state of an `encode_chunk` before its first chunk of samples. Each utterance needs its own."""
        return Glm4VoiceCodecEncoderState(waiting=torch.zeros(0, device=self.device))

    @can_return_tuple
    @torch.no_grad()
    def encode_chunk(
        self, input_values: torch.FloatTensor, encoder_state: Glm4VoiceCodecEncoderState, is_final: bool = False
    ) -> Glm4VoiceCodecEncoderOutput:
        r"""
        Encodes an utterance while it comes in: a block of 4 s when its last sample has come. A code also depends on
        the loudest bin of its segment where a bin of its frames is 80 dB quieter. When one gets as loud as that, the
        codes of the segment are taken back, and made anew with the next block.

        Args:
            input_values (`torch.FloatTensor` of shape `(1, 1, num_samples)`):
                The next samples, at `config.sampling_rate` Hz. There may be none.
            encoder_state ([`Glm4VoiceCodecEncoderState`]):
                State after the chunk before; updated in place.
            is_final (`bool`, defaults to `False`):
                Whether these are the last samples.

        Returns:
            [`Glm4VoiceCodecEncoderOutput`]: `audio_codes`, all codes of the utterance that stand so far; after the
            last chunk those that `encode` makes of the whole.

        Raises:
            ValueError: `input_values` has another shape, or the utterance ends without a sample.
        """
        if input_values.ndim != 3 or input_values.shape[:2] != (1, 1):
            raise ValueError(f"`input_values` must be (1, 1, num_samples), got {tuple(input_values.shape)}.")
        state, rest = encoder_state, input_values[0, 0].float()
        # Half as many positions as frames
        block_size = 2 * self.config.tokenizer_config.attention_block_size
        while len(rest):
            samples, rest = rest.tensor_split([self.segment_length - state.num_samples])
            state.samples.append(samples)
            state.num_samples += len(samples)
            num_blocks = state.num_frames // block_size
            self._add_frames(state, samples)
            if state.num_samples == self.segment_length:
                self._end_segment(state)
            elif state.num_frames // block_size > num_blocks:
                self._encode_frames(state, state.num_frames // block_size * block_size)
        if is_final and not state.num_samples and not state.codes:
            raise ValueError("The utterance ends without a single sample; there is nothing to encode.")
        if is_final and state.num_samples:
            self._end_segment(state)
        return Glm4VoiceCodecEncoderOutput(audio_codes=torch.tensor([[state.codes]], device=self.device))

    def _add_frames(self, state: Glm4VoiceCodecEncoderState, samples: torch.FloatTensor, is_end: bool = False) -> None:
        """
        Makes the frames that Whisper's feature extractor would, but for its clamping, of all windows whose samples
        have come. It mirrors the segment at its ends.
        """
        n_fft, hop = self.feature_extractor.n_fft, self.feature_extractor.hop_length
        state.waiting = waiting = torch.cat([state.waiting, samples])
        if is_end:
            # As in `encode`, zeros fill up the last code
            waiting = nn.functional.pad(waiting, (0, -state.num_samples % self.config.hop_length))
        if not state.num_frames:
            if len(waiting) <= n_fft // 2:
                return
            waiting = torch.cat([waiting[1 : n_fft // 2 + 1].flip(0), waiting])
        num_frames = (len(waiting) - n_fft) // hop + 1
        if is_end:
            # The frame that would be in the middle of the end is left out
            num_frames = (len(waiting) - n_fft // 2) // hop
            waiting = torch.cat([waiting, waiting[-n_fft // 2 - 1 : -1].flip(0)])
        if num_frames <= 0:
            return
        state.waiting = waiting[num_frames * hop :]
        spectrum = torch.stft(
            waiting[: (num_frames - 1) * hop + n_fft],
            n_fft,
            hop,
            window=torch.hann_window(n_fft, device=waiting.device),
            center=False,
            return_complex=True,
        )
        filters = torch.from_numpy(self.feature_extractor.mel_filters).to(waiting)
        log_mel = (filters.T @ spectrum.abs().square()).clamp(min=1e-10).log10()
        state.log_mel.append(log_mel)
        state.num_frames += num_frames
        if (loudest := log_mel.max().item()) <= state.loudest:
            return
        state.loudest = loudest
        if state.quietest < state.loudest - MEL_RANGE:
            # The codes were made of bins that are raised now
            del state.codes[state.num_final_codes :]
            state.encoder, state.quietest, state.has_unclear_code = None, math.inf, False

    def _encode_frames(self, state: Glm4VoiceCodecEncoderState, stop: int) -> None:
        """Makes the codes of all frames of the segment up to `stop` that have none."""
        start = 0 if state.encoder is None else 2 * state.encoder.num_positions
        log_mel = torch.cat(state.log_mel, dim=1)[:, start:stop]
        state.quietest = min(state.quietest, log_mel.min().item())
        # As Whisper's feature extractor
        features = ((log_mel.clamp(min=state.loudest - MEL_RANGE) + 4.0) / 4.0)[None].to(self.dtype)
        frames = torch.arange(start, stop, device=features.device)
        mask = (frames * self.feature_extractor.hop_length < state.num_samples)[None]
        if state.encoder is None:
            state.encoder = self.tokenizer.init_state(features)
        _, _, latents = self.tokenizer(features, mask, state.encoder)
        # `(num_codes, 2)`: the two nearest vectors
        distances = self.tokenizer.distances(latents[0])
        nearest, codes = distances.topk(2, largest=False)
        margin = CLEAR_MARGIN * torch.finfo(self.dtype).eps * distances.abs().amax(-1)
        state.has_unclear_code |= bool((nearest[:, 1] - nearest[:, 0] < margin).any())
        state.codes += codes[:, 0].tolist()

    def _end_segment(self, state: Glm4VoiceCodecEncoderState) -> None:
        """Makes the last codes of a segment, and begins another one."""
        self._add_frames(state, state.waiting[:0], is_end=True)
        if state.encoder is not None and state.num_frames > 2 * state.encoder.num_positions:
            self._encode_frames(state, state.num_frames)
        if state.encoder is None or state.has_unclear_code:
            (codes,) = self._encode_segments([torch.cat(state.samples)])
            state.codes[state.num_final_codes :] = codes.tolist()
        following = self.init_encoder_state()
        following.codes, following.num_final_codes = state.codes, len(state.codes)
        state.__dict__.update(vars(following))

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
    "Glm4VoiceCodecEncoderState",
    "Glm4VoiceCodecPreTrainedModel",
]
