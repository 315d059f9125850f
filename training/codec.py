# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What trains the compact codec: spectral losses, a phoneme loss on the codes, and the clips they are computed from."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
import soundfile as sf
import soxr
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers.utils import ModelOutput

from hub_cards.command_line import naming
from hub_cards.json_lines import read_json_lines
from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_vita_audio_codec import VitaAudioCodec, VitaAudioCodecBlock, VitaAudioCodecPreTrainedModel


CLIP_FIELDS = {**dict.fromkeys(("path", "text", "voice", "split"), str), "duration": (int, float), "phonemes": list}
TARGET_RMS = 0.07  # about -23 dB of full scale; the codes say nothing of the level, so targets all have one
LATENTS_PER_CODE = 20  # that the codebook is first clustered from
COMMITMENT = 0.25  # weight of the encoder's share in the codebook loss (arXiv 1711.00937)
# Speech played at another rate is that of another voice, which only the phonemes are learnt from.
OTHER_RATES, OTHER_RATE_SHARE = (0.8, 1.25), 0.5
# How often what is reconstructed is encoded from another voice, one with pitch and formants at OTHER_RATES times theirs.
OTHER_VOICE_SHARE = 0.5
OTHER_FORMANTS = (0.85, 1.18)  # and of any clip, whatever its pitch
ENVELOPE_CEPSTRA = 32  # 2 ms at 16 kHz: formants, not the pitch of any voice below 500 Hz
STRETCH_HOP, STRETCH_SEARCH = 256, 128  # samples; 16 ms, and either way half the longest pitch period
RHYTHM_SAMPLES, RHYTHM_DEVIATION = 3200, 0.3  # 0.2 s; deviation of the logarithm of the tempo
# Inputs through other microphones (gains in dB at so many frequencies between) and, some of them, in a room.
NUM_GAINS, GAIN_DEVIATION_DB = 9, 5.0
ROOM_SHARE, ROOM_SECONDS = 0.25, 0.25
F0_RANGE = (60.0, 400.0)  # Hz, all voices of the corpus


@dataclass
class VitaAudioCodecForPreTrainingOutput(ModelOutput):
    """Scalars: the weighted sum and its parts, each averaged over the batch."""

    loss: torch.Tensor | None = None
    spectral_loss: torch.Tensor | None = None
    pitch_loss: torch.Tensor | None = None
    codebook_loss: torch.Tensor | None = None
    phoneme_loss: torch.Tensor | None = None


class PhonemeHead(nn.Module):
    """
    Reads phonemes from latents, 4 CTC steps a code; needed for training only. A single block sees three codes either way:
    one that saw more would learn the sentences by heart and forgive unclear codes.
    """

    def __init__(self, config: VitaAudioCodecConfig, num_phonemes: int, hidden_size: int = 256, depth: int = 1):
        super().__init__()
        self.in_proj = nn.Linear(config.codebook_dim, hidden_size)
        self.blocks = nn.ModuleList([VitaAudioCodecBlock(config, hidden_size) for _ in range(depth)])
        self.out_proj = nn.Linear(hidden_size, 4 * (num_phonemes + 1))

    def forward(self, quantized: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Latents `(batch, codes, codebook_dim)` to log-probabilities `(batch, 4 * codes, num_phonemes + 1)`, blank first."""
        hidden_states = self.in_proj(quantized)
        for block in self.blocks:
            hidden_states = block(hidden_states, mask)
        return self.out_proj(hidden_states).unflatten(-1, (4, -1)).flatten(1, 2).float().log_softmax(-1)


def spectral_loss(audio: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Distance of log magnitudes and spectral convergence of `(batch, samples)`, mean over three resolutions."""
    losses = []
    for n_fft in (256, 512, 1024):
        window = torch.hann_window(n_fft)
        spectra = (torch.stft(x, n_fft, n_fft // 4, window=window, return_complex=True) for x in (audio, target))
        magnitude, target_magnitude = (
            (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt() / math.sqrt(n_fft) for spectrum in spectra
        )
        log_distance = ((magnitude + 1e-3).log() - (target_magnitude + 1e-3).log()).abs().mean()
        convergence = (magnitude - target_magnitude).norm() / target_magnitude.norm()
        losses.append(log_distance + convergence)
    return torch.stack(losses).mean()


def spherical_kmeans(points: torch.Tensor, num_clusters: int, num_iterations: int = 15) -> torch.Tensor:
    """Unit vectors `(num_clusters, dim)` that stand for the unit vectors `(num_points, dim)`."""
    centers = points[torch.randperm(len(points))[:num_clusters]]
    for _ in range(num_iterations):
        nearest = (points @ centers.T).argmax(-1)
        sums = torch.zeros_like(centers).index_add_(0, nearest, points)
        counts = torch.bincount(nearest, minlength=num_clusters)
        # a cluster that lost all its points starts again from one of them
        sums[counts == 0] = points[torch.randint(len(points), (int((counts == 0).sum()),))]
        centers = nn.functional.normalize(sums, dim=-1)
    return centers


def reconstruction_losses(
    codec: VitaAudioCodec,
    speech: torch.Tensor,
    voice_ids: torch.LongTensor,
    target_values: torch.Tensor,
    padding_mask: torch.Tensor,
    log_f0: torch.Tensor,
    voiced_mask: torch.Tensor,
    median_log_f0: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spectral and pitch losses of what is decoded from the latents `speech`; the rest is as in the models' `forward`."""
    state = codec.init_decoder_state(speech.shape[0])
    frames = codec.decode_frames(speech, voice_ids, state)
    # the source follows the true pitch, so that its harmonics lie on those of the target
    audio = codec.vocoder(log_f0, frames.envelopes, state) * padding_mask
    pitch = ((frames.log_f0 + median_log_f0 - log_f0).abs() * voiced_mask).sum() / voiced_mask.sum().clamp(min=1)
    return spectral_loss(audio, target_values), pitch


def phoneme_loss(log_probs: torch.Tensor, mask: torch.Tensor, labels: torch.LongTensor) -> torch.Tensor:
    """CTC loss of a [`PhonemeHead`]'s output; `mask` `(batch, codes)`, `labels` from 1 on and padded with 0."""
    return nn.functional.ctc_loss(
        log_probs.transpose(0, 1), labels, 4 * mask.sum(-1), (labels > 0).sum(-1), zero_infinity=True
    )


class VitaAudioCodecForPreTraining(VitaAudioCodecPreTrainedModel):
    """The codec with its losses. Only `codec` is kept after training.

    While `is_quantizing` is False the decoder and the phoneme head see the encoder's latents as they are.
    """

    def __init__(self, config: VitaAudioCodecConfig, num_phonemes: int, phoneme_loss_weight: float = 1.0):
        super().__init__(config)
        self.codec = VitaAudioCodec(config)
        self.phoneme_head = PhonemeHead(config, num_phonemes)
        self.phoneme_loss_weight = phoneme_loss_weight
        self.is_quantizing = True
        self.post_init()

    @torch.no_grad()
    def initialize_codebook(self, batches: Iterable[dict]) -> None:
        """Sets the codebook to the clusters of the latents of as many of the `batches` as it takes."""
        latents, missing = [], LATENTS_PER_CODE * self.config.codebook_size
        for batch in batches:
            encoded = self.codec.encode(batch["input_values"], batch["padding_mask"])
            latents.append(nn.functional.normalize(encoded.latents[encoded.audio_codes_mask], dim=-1))
            missing -= len(latents[-1])
            if missing <= 0:
                break
        self.codec.quantizer.codebook.weight.copy_(spherical_kmeans(torch.cat(latents), self.config.codebook_size))

    def forward(
        self,
        input_values: torch.FloatTensor,
        padding_mask: torch.Tensor,
        target_values: torch.FloatTensor,
        log_f0: torch.FloatTensor,
        voiced_mask: torch.Tensor,
        median_log_f0: torch.FloatTensor,
        voice_ids: torch.LongTensor,
        is_reconstructed: torch.Tensor,
        labels: torch.LongTensor,
    ) -> VitaAudioCodecForPreTrainingOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, 1, num_samples)`): audio to encode, with noise.
            padding_mask (`torch.LongTensor` of shape `(batch_size, num_samples)`): 1 on audio.
            target_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`): audio to reconstruct.
            log_f0 (`torch.FloatTensor` of shape `(batch_size, num_frames)`): log pitch where the vocoder wants it.
            voiced_mask (`torch.BoolTensor` of shape `(batch_size, num_frames)`): where this pitch is to be trusted.
            median_log_f0 (`torch.FloatTensor` of shape `(batch_size, 1)`): of each clip.
            voice_ids (`torch.LongTensor` of shape `(batch_size,)`): voices.
            is_reconstructed (`torch.BoolTensor` of shape `(batch_size, 1)`): False where only phonemes are learnt.
            labels (`torch.LongTensor` of shape `(batch_size, num_phonemes)`): phonemes from 1 on, padded with 0.
        """
        encoded = self.codec.encode(input_values, padding_mask)
        directions = nn.functional.normalize(encoded.latents, dim=-1)
        speech = encoded.quantized_representation if self.is_quantizing else directions
        spectral, pitch = reconstruction_losses(
            self.codec,
            speech,
            voice_ids,
            target_values * is_reconstructed,
            padding_mask * is_reconstructed,
            log_f0,
            voiced_mask & is_reconstructed,
            median_log_f0,
        )
        mask = encoded.audio_codes_mask
        phoneme = phoneme_loss(self.phoneme_head(speech, mask[..., None].float()), mask, labels)
        vectors = self.codec.quantizer.from_codes(encoded.audio_codes[:, 0])
        codebook = (
            (vectors - directions.detach()).square() + COMMITMENT * (vectors.detach() - directions).square()
        ).sum(-1)
        codebook = (codebook * mask).sum() / mask.sum() * self.is_quantizing
        loss = spectral + pitch + codebook + self.phoneme_loss_weight * phoneme
        parts = {
            "spectral_loss": spectral,
            "pitch_loss": pitch,
            "codebook_loss": codebook,
            "phoneme_loss": phoneme,
        }
        return VitaAudioCodecForPreTrainingOutput(loss=loss, **{name: part.detach() for name, part in parts.items()})


def pitch_track(waveform: np.ndarray, config: VitaAudioCodecConfig, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Log pitch `(num_frames,)` at the times the vocoder needs it, and where it is voiced: loud and steady."""
    hop = config.synthesis_hop_length
    # the source that frame j makes is heard three hops after the hop it belongs to
    shifted = np.pad(waveform[3 * hop + hop // 2 :], (0, 4 * hop))
    shifted = np.pad(shifted, (0, max(0, num_frames * hop - len(shifted))))
    f0 = librosa.yin(
        shifted, fmin=F0_RANGE[0], fmax=F0_RANGE[1], sr=config.sampling_rate, frame_length=1024, hop_length=hop
    )[:num_frames]
    log_f0 = np.log(f0).astype(np.float32)
    energy = librosa.feature.rms(y=shifted, frame_length=1024, hop_length=hop)[0][:num_frames]
    steady = np.abs(np.gradient(log_f0)) < 0.05
    return log_f0, steady & (energy > 0.1 * energy.max())


def overlap_add(waveform: np.ndarray, positions: np.ndarray, num_samples: int) -> np.ndarray:
    """
    WSOLA (Verhelst and Roelands, 1993): `num_samples` samples from pieces of `waveform`, one every `STRETCH_HOP` samples.
    Each is taken near its one of the `positions`, in samples, from where it best continues the piece before.
    """
    hop, search = STRETCH_HOP, STRETCH_SEARCH
    padded = np.pad(waveform, (search, 3 * hop + search))
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    output = np.zeros((len(positions) + 1) * hop, np.float32)
    continuation = padded[search : search + hop]
    for piece, position in enumerate(positions):
        # index 0 of `padded` is `search` samples before its first one
        earliest = min(round(position), len(padded) - 2 * hop - 2 * search)
        nearby = padded[earliest : earliest + hop + 2 * search]
        start = earliest + int(np.correlate(nearby, continuation).argmax())
        output[piece * hop : (piece + 2) * hop] += window * padded[start : start + 2 * hop]
        continuation = padded[start + hop : start + 2 * hop]
    return output[:num_samples]


def change_rhythm(waveform: np.ndarray, num_samples: int, generator: torch.Generator) -> np.ndarray:
    """`waveform` faster here and slower there, `(num_samples,)`: the rhythm of somebody else, or of a synthesizer."""
    num_pieces = -(-num_samples // STRETCH_HOP) + 1
    num_knots = 2 + num_pieces * STRETCH_HOP // RHYTHM_SAMPLES
    knots = RHYTHM_DEVIATION * torch.randn(num_knots, generator=generator).numpy()
    rates = np.exp(np.interp(np.linspace(0, num_knots - 1, num_pieces), np.arange(num_knots), knots))
    positions = np.cumsum(rates) - rates[0]
    return overlap_add(waveform, positions * (len(waveform) / positions[-1]), num_samples)


def change_voice(waveform: np.ndarray, factor: float, sampling_rate: int) -> np.ndarray:
    """
    `waveform` `(num_samples,)` with pitch and formants at `factor` times theirs, what is said when it was, to about 10 ms:
    played at another rate and then brought back to its length.
    """
    resampled = soxr.resample(waveform, factor * sampling_rate, sampling_rate)
    times = np.arange(-(-len(waveform) // STRETCH_HOP) + 1) * STRETCH_HOP
    return overlap_add(resampled, times * (len(resampled) / len(waveform)), len(waveform))


def _spectral_envelope(waveform: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Spectrum and its log envelope, without pitch, both `(257, num_frames)`, of `waveform` `(num_samples,)`."""
    spectrum = torch.stft(torch.from_numpy(waveform), 512, 128, window=torch.hann_window(512), return_complex=True)
    cepstrum = torch.fft.irfft((spectrum.abs() + 1e-4).log(), dim=0)
    cepstrum[ENVELOPE_CEPSTRA : 1 - ENVELOPE_CEPSTRA] = 0
    return spectrum, torch.fft.rfft(cepstrum, dim=0).real


def _with_gains(spectrum: torch.Tensor, log_gains: torch.Tensor, num_samples: int) -> np.ndarray:
    window = torch.hann_window(512)
    return torch.istft(spectrum * log_gains.exp(), 512, 128, window=window, length=num_samples).numpy()


def warp_formants(waveform: np.ndarray, factor: float) -> np.ndarray:
    """`waveform` `(num_samples,)` with formants at `factor` times theirs, and its pitch: the vocal tract of somebody else."""
    spectrum, envelope = _spectral_envelope(waveform)
    positions = (torch.arange(257) / factor).clamp(max=255.999)
    below = positions.long()
    fraction = (positions - below)[:, None]
    warped = (1 - fraction) * envelope[below] + fraction * envelope[below + 1]
    return _with_gains(spectrum, warped - envelope, len(waveform))


def morph(waveform: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """
    `waveform` `(num_samples,)` in a voice between its own and that of `other`, which says the same at the same time, or
    beyond its own where the `share` of the other one is negative.
    """
    spectrum, envelope = _spectral_envelope(waveform)
    _, other_envelope = _spectral_envelope(other)
    return _with_gains(spectrum, share * (other_envelope - envelope), len(waveform))


def random_filters(num_filters: int, num_samples: int, sampling_rate: int) -> torch.Tensor:
    """
    Frequency responses `(num_filters, num_samples // 2 + 1)` of random microphones and, `ROOM_SHARE` of them, rooms: noise
    that decays by 60 dB in at most `ROOM_SECONDS`, 3 to 20 dB below the direct sound.
    """
    gains = GAIN_DEVIATION_DB * torch.randn(num_filters, 1, NUM_GAINS)
    gains = nn.functional.interpolate(gains, num_samples // 2 + 1, mode="linear", align_corners=True)[:, 0]
    time = torch.arange(int(ROOM_SECONDS * sampling_rate)) / sampling_rate
    decays = 10 ** (-3 * time / torch.empty(num_filters, 1).uniform_(0.2 * ROOM_SECONDS, ROOM_SECONDS))
    echoes = decays * torch.randn(num_filters, len(time))
    levels = 10 ** (-torch.empty(num_filters, 1).uniform_(3, 20) / 20) * (torch.rand(num_filters, 1) < ROOM_SHARE)
    rooms = levels * echoes / echoes.norm(dim=-1, keepdim=True)
    rooms[:, 0] += 1
    return 10 ** (gains / 20) * torch.fft.rfft(rooms, num_samples)


def read_clip(corpus_dir: Path, clip: dict) -> tuple[np.ndarray, int]:
    """Samples of a clip at the level that the codec is trained at, and their rate."""
    with naming(f"The clip {corpus_dir / clip['path']}"):
        waveform, sampling_rate = sf.read(corpus_dir / clip["path"], dtype="float32")
    return waveform * (TARGET_RMS / max(float(np.sqrt(np.mean(waveform**2))), 1e-4)), sampling_rate


def read_clips(corpus_dir: Path, max_seconds: float = 6.0) -> list[dict]:
    """Rows of the training clips of a rendered corpus that are not too long."""
    clips = [clip for _, clip in read_json_lines(corpus_dir / "clips.jsonl", CLIP_FIELDS)]
    return [clip for clip in clips if clip["split"] == "train" and clip["duration"] <= max_seconds]


def read_answers(corpus_dir: Path) -> set[str]:
    """Paths of the clips of a rendered corpus that spoken questions are answered with in training."""
    rows = (row for _, row in read_json_lines(corpus_dir / "conversations.jsonl"))
    return {
        row["audios"][-1]
        for row in rows
        if (row.get("task"), row.get("split")) == ("sqa", "train") and row.get("audios")
    }


def disturb(waveforms: torch.Tensor, mask: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """
    `waveforms` `(batch, samples)` as heard through random filters, with another spectral tilt and, half of them, noise at
    10 to 40 dB below the speech; `mask` is 1 on audio.
    """
    num_clips, num_samples = waveforms.shape
    # circular, so with room for the echoes
    size = num_samples + int(ROOM_SECONDS * sampling_rate)
    filters = random_filters(num_clips, size, sampling_rate)
    filtered = torch.fft.irfft(torch.fft.rfft(waveforms, size) * filters, size)[:, :num_samples] * mask
    levels = 10 ** (-torch.empty(num_clips, 1).uniform_(10, 40) / 20) * (torch.rand(num_clips, 1) < 0.5)
    tilts = torch.empty(num_clips, 1).uniform_(-0.5, 0.7)
    tilted = filtered - tilts * nn.functional.pad(filtered, (1, -1))
    return tilted + TARGET_RMS * levels * torch.randn_like(waveforms)


def pad_to_codes(waveforms: list[torch.Tensor], hop_length: int) -> tuple[torch.Tensor, torch.LongTensor]:
    """Waveforms `(num_samples,)` padded to whole codes, `(batch, samples)`, and the mask that is 1 on audio."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    padded = nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    padded = nn.functional.pad(padded, (0, -padded.shape[1] % hop_length))
    return padded, (torch.arange(padded.shape[1]) < lengths[:, None]).long()


class CodecClips(Dataset):
    """Clips of a rendered corpus as tensors for [`VitaAudioCodecForPreTraining`]; the first voice is the default one, seen twice.

    Half of the clips to be reconstructed are encoded in another voice than the one to decode: codes must be those of all
    voices. Of voices other than the default one, half are only read.

    Raises:
        ValueError: one of the `voices` says nothing.
    """

    def __init__(
        self,
        corpus_dir: str | Path,
        config: VitaAudioCodecConfig,
        default_voice: str,
        voices: list[str] | None = None,
        is_disturbed: bool = True,
    ):
        self.corpus_dir, self.config, self.is_disturbed = Path(corpus_dir), config, is_disturbed
        clips = read_clips(self.corpus_dir)
        spoken = {clip["voice"] for clip in clips}
        if missing := sorted({default_voice, *(voices or ())} - spoken):
            raise ValueError(f"{corpus_dir} has no training clips of {', '.join(missing)}, but of {sorted(spoken)}.")
        clips = [clip for clip in clips if voices is None or clip["voice"] in voices]
        self.voices = sorted({clip["voice"] for clip in clips}, key=lambda voice: (voice != default_voice, voice))
        self.phonemes = sorted({phoneme for clip in clips for phoneme in clip["phonemes"]})
        # of several voices the default one is the one that the codec has to speak best
        defaults = [clip for clip in clips if clip["voice"] == default_voice]
        self.clips = clips + defaults if len(self.voices) > 1 else clips
        self.phoneme_ids = {phoneme: i + 1 for i, phoneme in enumerate(self.phonemes)}
        self.pitch = {}  # of clips to reconstruct, tracked once

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        waveform, sampling_rate = read_clip(self.corpus_dir, clip)
        is_reconstructed = clip["voice"] == self.voices[0] or bool(torch.rand(()) > OTHER_RATE_SHARE)
        if not is_reconstructed:
            rate = torch.empty(()).uniform_(*OTHER_RATES).item()
            waveform = soxr.resample(waveform, rate * sampling_rate, sampling_rate)
        num_codes = -(-len(waveform) // self.config.hop_length)
        num_frames = num_codes * self.config.hop_length // self.config.synthesis_hop_length
        inputs = waveform
        if self.is_disturbed and is_reconstructed and torch.rand(()) < OTHER_VOICE_SHARE:
            inputs = change_voice(waveform, torch.empty(()).uniform_(*OTHER_RATES).item(), sampling_rate)
        if not is_reconstructed:
            log_f0, voiced = np.zeros(num_frames, np.float32), np.zeros(num_frames, bool)
        else:
            if index not in self.pitch:
                self.pitch[index] = pitch_track(waveform, self.config, num_frames)
            log_f0, voiced = self.pitch[index]
        median = np.median(log_f0[voiced]) if voiced.any() else np.median(log_f0)
        return {
            "inputs": torch.from_numpy(inputs),
            "waveform": torch.from_numpy(waveform),
            "log_f0": torch.from_numpy(log_f0),
            "voiced_mask": torch.from_numpy(voiced),
            "median_log_f0": float(median),
            "voice_id": self.voices.index(clip["voice"]),
            "is_reconstructed": is_reconstructed,
            "labels": torch.tensor([self.phoneme_ids[phoneme] for phoneme in clip["phonemes"]]),
        }

    def collate(self, clips: list[dict]) -> dict:
        """Pads a batch to whole codes; of inputs and targets only the former are disturbed."""
        inputs, mask = pad_to_codes([clip["inputs"] for clip in clips], self.config.hop_length)
        waveforms, _ = pad_to_codes([clip["waveform"] for clip in clips], self.config.hop_length)
        if self.is_disturbed:
            inputs = disturb(inputs, mask, self.config.sampling_rate)
        frames = nn.utils.rnn.pad_sequence(
            [clip["log_f0"] for clip in clips], batch_first=True, padding_value=math.log(100)
        )
        return {
            "input_values": inputs[:, None],
            "padding_mask": mask,
            "target_values": waveforms,
            "log_f0": frames,
            "voiced_mask": nn.utils.rnn.pad_sequence([clip["voiced_mask"] for clip in clips], batch_first=True),
            "median_log_f0": torch.tensor([[clip["median_log_f0"]] for clip in clips]),
            "voice_ids": torch.tensor([clip["voice_id"] for clip in clips]),
            "is_reconstructed": torch.tensor([[clip["is_reconstructed"]] for clip in clips]),
            "labels": nn.utils.rnn.pad_sequence([clip["labels"] for clip in clips], batch_first=True),
        }
