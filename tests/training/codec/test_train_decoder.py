# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from accelerate import Accelerator
from places import ROOT
from safetensors.torch import load_file
from tiny_models import TRAINABLE_CODEC as TINY
from tiny_models import spread_codes
from training_runs import finish, start

from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_vita_audio_codec import VitaAudioCodec
from training.codec import decoder as train_decoder
from training.codec.adversary import (
    FEATURE_WEIGHT,
    STATE_NAME,
    Adversary,
    deception_losses,
    discriminator_loss,
    split_outputs,
)
from training.codec.decoder_model import VitaAudioCodecForDecoderTraining, disturb_codes
from training.codec.losses import mel_loss
from training.codec.recordings import read_clip, read_recording
from training.codec.voice_clips import VoiceClips, encoder_fingerprint


NUM_CLIPS = 4


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    """Half seconds of the recording of a question as the clips of one voice, and a clip of another."""
    folder = tmp_path_factory.mktemp("corpus")
    waveform, sampling_rate = sf.read(ROOT / "pretrained" / "vita-audio-mini" / "sample_question.wav", dtype="float32")
    assert sampling_rate == 16000
    clips = []
    for index in range(NUM_CLIPS + 1):
        # of different lengths, so that batches are padded
        piece = waveform[3000 + 4000 * index :][: 8000 - 500 * index]
        path, voice = f"audio/{index}.flac", "joe" if index < NUM_CLIPS else "amy"
        (folder / path).parent.mkdir(exist_ok=True)
        sf.write(folder / path, piece, sampling_rate)
        clip = {"path": path, "voice": voice, "text": "", "split": "train", "phonemes": []}
        clips.append({**clip, "duration": len(piece) / sampling_rate})
    (folder / "clips.jsonl").write_text("".join(json.dumps(clip) + "\n" for clip in clips))
    return folder


def new_codec():
    torch.manual_seed(0)
    codec = VitaAudioCodec(VitaAudioCodecConfig(**TINY, voice_names=["amy"])).eval()
    spread_codes(codec, [2] * 5)
    return codec


@pytest.fixture
def codec():
    return new_codec()


@pytest.fixture(scope="module")
def prepared_dir(corpus_dir, tmp_path_factory):
    """What `VoiceClips` computes with the codec above."""
    folder = tmp_path_factory.mktemp("prepared")
    VoiceClips(corpus_dir, folder, new_codec(), "joe", 6.0).prepare()
    return folder


@pytest.fixture
def command(corpus_dir, prepared_dir, codec, tmp_path):
    """The arguments of a run of few and quick steps, the second half of them with discriminators."""
    codec.save_pretrained(tmp_path / "start")
    shutil.copytree(prepared_dir, tmp_path / "run" / train_decoder.PREPARED_NAME)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"corpus_dir: {corpus_dir}\ncodec_name_or_path: {tmp_path / 'start'}\ndefault_voice: joe\nuse_cpu: true\n"
        f"output_dir: {tmp_path / 'run'}\ndecoder_config: {{synthesis_phase: true}}\nmax_steps: 4\nsave_steps: 3\n"
        "adversarial_after: 2\npiece_seconds: 0.25\nper_device_train_batch_size: 2\nlogging_steps: 1\n"
        "learning_rate: 3.0e-3\nlr_scheduler_type: constant\nreport_to: none\n"
    )
    return ["--config", str(config)]


def test_clips_are_those_of_the_voice_with_their_codes(corpus_dir, prepared_dir, codec):
    clips = VoiceClips(corpus_dir, prepared_dir, codec, "joe", 6.0)
    assert len(clips) == NUM_CLIPS and {clip["voice"] for clip in clips.clips} == {"joe"}
    batch = clips.collate([clips[1], clips[3]])
    assert batch["padding_mask"].sum(1).tolist() == [7500, 6500]
    for row, index in enumerate((1, 3)):
        waveform = torch.from_numpy(read_clip(corpus_dir, clips.clips[index])[0])
        assert batch["target_values"][row, : len(waveform)].equal(waveform)
        recording = torch.from_numpy(read_recording(corpus_dir, clips.clips[index])[0])
        codes = codec.encode(recording[None, None]).audio_codes[0, 0]
        assert batch["audio_codes"][row, : len(codes)].equal(codes)
    assert batch["log_f0"].shape == batch["voiced_mask"].shape == (2, 6 * 16)
    assert math.log(60) < clips.mean_log_f0() < math.log(400)


def test_codes_are_computed_once_for_each_encoder(corpus_dir, prepared_dir, codec, tmp_path):
    folder = shutil.copytree(prepared_dir, tmp_path / "prepared")
    files = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*.npz"))}
    assert len(files) == NUM_CLIPS
    list(files)[2].unlink()
    # another decoder makes no other codes
    torch.nn.init.normal_(codec.decoder.in_proj.weight)
    clips = VoiceClips(corpus_dir, folder, codec, "joe", 6.0)
    clips.prepare()
    again = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*.npz"))}
    assert [again[path] != written for path, written in files.items()] == [False, False, True, False]
    expected = VoiceClips(corpus_dir, prepared_dir, codec, "joe", 6.0)[2]
    assert all(tensor.equal(expected[name]) for name, tensor in clips[2].items())
    torch.nn.init.normal_(codec.tokenizer.projection.weight)
    with pytest.raises(FileNotFoundError):
        VoiceClips(corpus_dir, folder, codec, "joe", 6.0)[0]


def test_a_voice_that_says_nothing_is_refused(corpus_dir, codec, tmp_path):
    with pytest.raises(ValueError, match=r"no training clips of eve, but of \['amy', 'joe'\]"):
        VoiceClips(corpus_dir, tmp_path, codec, "eve", 6.0)


def test_some_codes_are_replaced():
    torch.manual_seed(0)
    codes = torch.arange(4000).reshape(4, 1000)
    mask = torch.ones_like(codes, dtype=torch.bool)
    mask[1, 500:] = False
    assert disturb_codes(codes, mask, 0.0).equal(codes)
    disturbed = disturb_codes(codes, mask, 0.2)
    assert disturbed[~mask].equal(codes[~mask])
    changed = disturbed != codes
    assert 0.17 < changed[mask].float().mean() < 0.23
    is_before = disturbed == codes - 1
    assert 0.08 < is_before[mask].float().mean() < 0.12
    # what padding has is no sound
    assert not torch.isin(disturbed[changed & ~is_before], codes[~mask]).any()


def test_mel_loss_is_the_mean_distance_of_logarithms():
    waveform = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    assert mel_loss(waveform, waveform, 16000) == 0
    assert mel_loss(waveform / 2, waveform, 16000).item() == pytest.approx(math.log(2), abs=1e-3)


def test_a_piece_is_what_the_whole_clip_has_there(codec):
    """A pitch whose period is one frame has the same phase at the start of every frame."""
    model = VitaAudioCodecForDecoderTraining(codec, piece_seconds=0.2, code_error_share=0.0).train()
    with torch.no_grad():
        codec.decoder.envelope_head.weight.normal_(std=0.3)
        # The noise of a piece is another one, so it is silenced.
        bias = codec.decoder.envelope_head.bias.unflatten(0, (2, 3, -1))
        bias[:, 1] = -40
    num_samples = torch.tensor([11 * 1280, 7 * 1280 - 100])
    mask = (torch.arange(11 * 1280) < num_samples[:, None]).long()
    codes = torch.randint(32, (2, 11))
    log_f0 = torch.full((2, 11 * 16), math.log(200))
    # every sample says where it is
    target = torch.arange(11 * 1280.0).repeat(2, 1)
    quantized = codec.quantizer.from_codes(codes) * mask[:, ::1280, None]
    state = codec.init_decoder_state(2)
    with torch.no_grad():
        frames = codec.decode_frames(quantized, torch.zeros(2, dtype=torch.long), state)
        whole = codec.vocoder(log_f0, frames.envelopes, state) * mask
    starts = set()
    for seed in range(8):
        torch.manual_seed(seed)
        with torch.no_grad():
            output = model(codes, mask, target, log_f0, torch.ones_like(log_f0, dtype=torch.bool))
        assert output.audio_values.shape == output.target_values.shape == (2, 3200)
        for row, (audio, target_values) in enumerate(zip(output.audio_values, output.target_values)):
            start = int(target_values[0])
            assert target_values.equal(torch.arange(start, start + 3200.0)) and start + 3200 <= num_samples[row]
            starts.add((row, start))
            # In front of the clip there is a source that a whole utterance lacks.
            skipped = max(0, 240 - start)
            expected = whole[row, start + skipped : start + 3200]
            torch.testing.assert_close(audio[skipped:], expected, atol=1e-3 * whole.abs().max().item(), rtol=0)
    assert len(starts) > 12


def test_the_encoder_and_its_codes_stay(codec):
    model = VitaAudioCodecForDecoderTraining(codec, 0.2, 0.0)
    trained = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"decoder", "quantizer"}


@pytest.fixture
def adversary():
    torch.manual_seed(0)
    return Adversary(1e-3, (0.8, 0.99), Accelerator(cpu=True))


def test_the_verdict_has_the_gradients_of_both_sides(adversary):
    audio, target = (0.07 * torch.randn(2, 4000)).requires_grad_(), 0.07 * torch.randn(2, 4000)
    loss, parts = adversary.judge(audio, target, weight=0.5, num_batches=4)
    loss.backward()
    gradient, audio.grad = audio.grad, None
    of_networks = [parameter.grad for parameter in adversary.discriminators.parameters()]
    adversary.optimizer.zero_grad()

    outputs = adversary.discriminators(torch.cat([audio, target]))
    adversarial, feature = deception_losses(*split_outputs(outputs))
    expected = 0.5 * (adversarial + FEATURE_WEIGHT * feature)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, audio.grad)
    adversary.optimizer.zero_grad()
    own = discriminator_loss(*split_outputs(adversary.discriminators(torch.cat([audio.detach(), target]))))
    (own / 4).backward()
    for mine, parameter in zip(of_networks, adversary.discriminators.parameters()):
        torch.testing.assert_close(mine, parameter.grad)
    assert parts["discriminator_loss"].item() == pytest.approx(own.item(), rel=1e-5)


def test_discriminators_learn_to_tell_a_buzz_from_noise(adversary):
    losses, time = [], torch.arange(4000) / 16000
    for _ in range(25):
        buzz = 0.1 * (2 * math.pi * (200 * time + torch.rand(4, 1))).sin()
        _, parts = adversary.judge(0.07 * torch.randn(4, 4000), buzz, 1.0)
        adversary.step(1.0, 1.0)
        losses.append(parts["discriminator_loss"].item())
    # 2 is what they have who know nothing
    assert losses[0] > 1.5 and losses[-1] < 0.5 * losses[0]


def test_a_few_steps_bring_speech_closer_to_the_recordings(corpus_dir, prepared_dir, codec):
    clips = VoiceClips(corpus_dir, prepared_dir, codec, "joe", 6.0)
    codec.voice_log_f0.data.fill_(clips.mean_log_f0())
    model = VitaAudioCodecForDecoderTraining(codec, 0.4, 0.0).train()
    optimizer = torch.optim.AdamW(model.codec.decoder.parameters(), 1e-2)
    batch, losses = clips.collate([clips[0], clips[1]]), []
    for _ in range(30):
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append([output[name].item() for name in ("spectral_loss", "mel_loss", "pitch_loss")])
    first, last = np.mean(losses[:3], axis=0), np.mean(losses[-3:], axis=0)
    assert (last < 0.7 * first).all()


@pytest.mark.slow
def test_a_run_and_what_it_leaves(command, codec, tmp_path):
    train_decoder.main(command)
    checkpoint = tmp_path / "run" / "checkpoint-4"
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    always = {"spectral_loss", "mel_loss", "pitch_loss", "recognition_loss"}
    late = {"adversarial_loss", "feature_loss", "discriminator_loss"}
    for row in history[:4]:
        assert {name for name in row if name.endswith("_loss")} == always | (late if row["step"] > 2 else set())
    trained = VitaAudioCodec.from_pretrained(tmp_path / "run" / "codec")
    assert trained.config.voice_names == ["joe"] and trained.config.synthesis_phase
    before, after = codec.state_dict(), trained.state_dict()
    for name in before:
        if name.startswith("tokenizer."):
            torch.testing.assert_close(after[name], before[name], atol=1e-3, rtol=1e-3)
    assert 60 < trained.voice_log_f0.exp().item() < 400
    state = torch.load(checkpoint / STATE_NAME, weights_only=True)
    # two steps with discriminators
    assert {int(entry["step"]) for entry in state["optimizer"]["state"].values()} == {2}


@pytest.fixture(params=[1, 2], ids=["one_process", "two_processes"])
def run_training(request, command):
    """Trains, with several processes as the recipe does, which is another way to a device."""
    if request.param == 1:
        return lambda: train_decoder.main(command)
    config_file = str(ROOT / "training" / "configs" / "accelerate" / "cpu.yaml")
    launcher = ["-m", "accelerate.commands.launch", "--config_file", config_file]
    launcher += ["--num_processes", str(request.param), "--main_process_port", "0"]
    return lambda: finish(start(Path(command[-1]), *launcher, "-m", "training.codec.decoder"))


@pytest.mark.slow
def test_a_resumed_run_is_the_run_itself(run_training, tmp_path):
    run_training()
    run = tmp_path / "run"
    whole = {name: run / f"whole-{name}" for name in ("checkpoint-4", "codec")}
    for name, path in whole.items():
        (run / name).rename(path)
    written = (run / "checkpoint-3" / STATE_NAME).stat().st_mtime_ns
    run_training()
    # a run that began again would have written its first checkpoint again
    assert (run / "checkpoint-3" / STATE_NAME).stat().st_mtime_ns == written
    resumed = load_file(run / "checkpoint-4" / "model.safetensors")
    expected = load_file(whole["checkpoint-4"] / "model.safetensors")
    assert resumed.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in resumed.items())
    states = [
        torch.load(path / STATE_NAME, weights_only=True) for path in (run / "checkpoint-4", whole["checkpoint-4"])
    ]
    for name, tensor in states[0]["discriminators"].items():
        assert tensor.equal(states[1]["discriminators"][name])
    for index, entry in states[0]["optimizer"]["state"].items():
        assert all(entry[name].equal(states[1]["optimizer"]["state"][index][name]) for name in entry)


@pytest.mark.slow
def test_a_checkpoint_without_discriminators_is_refused(command, tmp_path):
    train_decoder.main(command)
    (tmp_path / "run" / "checkpoint-4").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "checkpoint-3" / STATE_NAME).unlink()
    with pytest.raises(OSError, match=r"The discriminators in .*checkpoint-3 \(adversary.pt\) cannot be loaded"):
        train_decoder.main(command)


@pytest.mark.parametrize(
    "decoder_config, said",
    [
        ({"depth": 3}, "`decoder_config` has depth, which no codec has"),
        ({"decoder_depths": [1]}, "`decoder_depths` need one entry"),
        ({"tokenizer_config": TINY["tokenizer_config"] | {"encoder_layers": 2}}, "not fit the encoder of .*layers.1"),
    ],
)
def test_a_decoder_that_cannot_be_made_is_refused(codec, tmp_path, decoder_config, said):
    codec.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=said):
        train_decoder.load_codec(str(tmp_path), "joe", decoder_config)


def test_a_new_decoder_keeps_the_encoder(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    made = train_decoder.load_codec(str(tmp_path), "joe", {"decoder_depths": [1, 2], "decoder_lookahead": 2})
    assert made.config.decoder_depths == [1, 2] and made.config.voice_names == ["joe"]
    audio = 0.1 * torch.randn(1, 1, 6400)
    assert made.encode(audio).audio_codes.equal(codec.encode(audio).audio_codes)
    assert not made.decoder.in_proj.weight.equal(codec.decoder.in_proj.weight)


def test_a_decoder_reads_the_neighbours_of_a_grid_alike(tmp_path):
    tokenizer = TINY["tokenizer_config"] | {"codebook_size": 3**5}
    mute = {"codebook_dim": 1, "decoder_hidden_sizes": [1, 1], "decoder_depths": [0, 0]}
    hearing = VitaAudioCodec(VitaAudioCodecConfig(codebook_size=3**5, tokenizer_config=tokenizer, **mute))
    spread_codes(hearing, [3] * 5)
    hearing.save_pretrained(tmp_path / "codec")

    sizes = {"codebook_dim": 32, "decoder_hidden_sizes": [24, 16], "decoder_depths": [1, 1]}
    torch.manual_seed(0)
    codec = train_decoder.load_codec(str(tmp_path / "codec"), "joe", sizes)
    samples = torch.randn(1, 1, 16000) / 20
    assert codec.encode(samples).audio_codes.equal(hearing.encode(samples).audio_codes)
    vectors = codec.quantizer.from_codes(torch.arange(3**5))
    grid = codec.tokenizer.codebook.weight
    likeness, distance = vectors @ vectors.T, torch.cdist(grid, grid)
    assert likeness[distance == 1].mean() > 0.5 > 0.1 > likeness[distance > 4].mean()
    # what is prepared for an encoder does not depend on what the decoder starts with
    torch.manual_seed(1)
    other = train_decoder.load_codec(str(tmp_path / "codec"), "joe", sizes)
    assert not other.quantizer.codebook.weight.equal(codec.quantizer.codebook.weight)
    assert encoder_fingerprint(other) == encoder_fingerprint(codec)
    model = VitaAudioCodecForDecoderTraining(codec, piece_seconds=0.5, code_error_share=0.0)
    assert codec.quantizer.codebook.weight.requires_grad and not codec.tokenizer.codebook.weight.requires_grad
    assert sum(weight.requires_grad for weight in model.parameters()) > 10
