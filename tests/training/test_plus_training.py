# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Training of models that hear by features (VITA-Audio-Plus): data, batches, stages, where they start."""

import numpy as np
import pytest
import torch
from plus_fixture import PLUS_FIXTURE, plus_features, plus_tensors, plus_weights
from safetensors.torch import load_file
from tiny_corpus import TINY_TEXT_CONFIG, write_config, write_corpus
from tiny_models import TINY_AUDIO_CONFIG, tiny_codec, tiny_model, tiny_plus_processor
from transformers import Qwen2Config, Qwen2ForCausalLM, pipeline

from hub_cards.command_line import run_command
from processing import TTS_PROMPT
from training.conversations import load_conversations
from training.data import build_training_dataset
from training.speech_input import AUDIO_LABEL, SpeechInput, SpeechInputCollator, load_sensevoice
from training.train import PROG, main
from training.trainer import VitaAudioSFTConfig, VitaAudioSFTTrainer, prepare_model_for_stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder / "corpus", num_clips=12)
    tiny_codec().save_pretrained(folder / "codec")
    return folder


@pytest.fixture(scope="module")
def processor():
    return tiny_plus_processor()


def settings_of(folder, output_dir, **settings):
    return {
        "dataset_name": str(folder / "corpus"),
        "code_cache_dir": str(folder / "codes"),
        "codec_name_or_path": str(folder / "codec"),
        "output_dir": str(output_dir),
        "text_config": TINY_TEXT_CONFIG,
        "audio_config": TINY_AUDIO_CONFIG,
        "text_vocab_size": 320,
        "num_mctp_modules": 3,
        "interleave_pattern": [2, 3],
        "max_steps": 2,
    } | settings


def examples_of(folder, processor, **kwargs):
    speech_input = SpeechInput(processor)
    conversations = load_conversations(str(folder / "corpus"), "train", ["asr", "tts", "sqa", "tqa"], str(folder))
    examples = build_training_dataset(conversations, processor, folder / "codes", speech_input=speech_input, **kwargs)
    return conversations, examples, speech_input


def test_users_are_heard_by_features_and_answer_in_codes(folder, processor):
    conversations, examples, speech_input = examples_of(folder, processor)
    vocabulary, num_heard = processor.speech_vocabulary, 0
    for conversation, example in zip(conversations, examples):
        user, assistant = (message["content"].count("<|audio|>") for message in conversation["messages"])
        marked = [AUDIO_LABEL - label for label in example["labels"] if label <= AUDIO_LABEL]
        assert len(marked) == user
        for number in marked:
            rows = len(speech_input.features(number))
            assert example["input_ids"].count(vocabulary.context_audio_token_id) == rows + 4
        assert any(map(vocabulary.is_code, example["input_ids"])) == bool(assistant)
        learned = [label for label in example["labels"] if label > -100]
        assert vocabulary.context_audio_token_id not in learned
        num_heard += user
    # a clip that two conversations share is one audio
    assert 0 < len(speech_input.places) < num_heard


def test_the_text_of_tts_can_come_before_its_speech(folder, processor):
    conversations, plain, _ = examples_of(folder, processor)
    _, interleaved, _ = examples_of(folder, processor, interleave_tts=True)

    def text_of(example):
        ids, _ = processor.speech_vocabulary.split([label for label in example["labels"] if label > -100])
        return processor.decode_text(ids).strip()

    for conversation, before, after in zip(conversations, plain, interleaved):
        question, _ = (message["content"] for message in conversation["messages"])
        if question.startswith(TTS_PROMPT):
            assert (text_of(before), text_of(after)) == ("", question.removeprefix(TTS_PROMPT))
        else:
            assert before == after


def test_a_batch_has_the_features_of_its_audios_in_order(folder, processor):
    _, examples, speech_input = examples_of(folder, processor)
    model = tiny_model(processor)
    trainer = VitaAudioSFTTrainer(
        model,
        VitaAudioSFTConfig(
            output_dir=str(folder / "out"), stage=4, max_length=256, use_cpu=True, bf16=False, report_to="none"
        ),
        train_dataset=examples,
        processing_class=processor,
        speech_input=speech_input,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    context = processor.speech_vocabulary.context_audio_token_id
    assert (batch["labels"] >= -100).all() and not (batch["labels"] == context).any()
    num_tokens = batch["feature_attention_mask"].sum(1) + 4
    assert int((batch["input_ids"] == context).sum()) == int(num_tokens.sum())
    # each run of context tokens is as long as the audio that stands at its place
    ids, runs = batch["input_ids"].flatten().tolist(), []
    for index, token_id in enumerate(ids):
        if token_id == context:
            if index and ids[index - 1] == context:
                runs[-1] += 1
            else:
                runs.append(1)
    assert runs == num_tokens.tolist() and len(set(runs)) > 2
    loss = model(**batch).loss
    assert torch.isfinite(loss)


def test_the_features_of_a_batch_are_the_processors(folder, processor):
    _, examples, speech_input = examples_of(folder, processor)
    heard = [example for example in examples if any(label <= AUDIO_LABEL for label in example["labels"])][:3]

    def collate(examples):
        return {"labels": torch.nn.utils.rnn.pad_sequence([torch.tensor(e["labels"]) for e in examples], True, -100)}

    batch = SpeechInputCollator(collate, speech_input)(heard)
    for example, features, mask in zip(heard, batch["input_features"], batch["feature_attention_mask"]):
        (number,) = (AUDIO_LABEL - label for label in example["labels"] if label <= AUDIO_LABEL)
        conversations, row, place = speech_input.places[number]
        waveform = processor.load_audio(conversations[row]["audios"][place])
        np.testing.assert_array_equal(
            features[mask.bool()], processor.feature_extractor(waveform)["input_features"][0]
        )
    silent = [example for example in examples if example not in heard and min(example["labels"]) == -100][:2]
    assert set(SpeechInputCollator(collate, speech_input)(silent)) == {"labels"}


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_what_a_stage_freezes(processor, stage):
    model = tiny_model(processor)
    model.model.mctp_modules = torch.nn.ModuleList(list(model.model.mctp_modules)[: {1: 0, 2: 1}.get(stage, 10)])
    model.config.num_mctp_modules = len(model.model.mctp_modules)
    prepare_model_for_stage(model, stage, 10)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, _ in model.named_parameters():
        if "audio_tower" in name:
            assert name not in trained
        elif "mctp_modules" in name:
            assert (name in trained) == (stage > 1)
        else:  # the projector learns with the language model
            assert (name in trained) == (stage in (1, 4))


@pytest.mark.slow
def test_four_stages_train_one_after_the_other(folder, tmp_path):
    weights = {}
    for stage in (1, 2, 3, 4):
        before = {"model_name_or_path": str(tmp_path / f"stage{stage - 1}")}
        before |= dict.fromkeys(["codec_name_or_path", "text_config", "audio_config"])
        settings = settings_of(folder, tmp_path / f"stage{stage}", stage=stage, interleave_tts=stage == 4)
        main(["--config", str(write_config(tmp_path / "config.yaml", **(settings | (before if stage > 1 else {}))))])
        weights[stage] = load_file(tmp_path / f"stage{stage}" / "model.safetensors")

    def changed(one, other, part):
        return any(not weights[one][name].equal(weights[other][name]) for name in weights[one] if part in name)

    for part, stages in (("audio_tower", ()), ("multi_modal_projector", (4,)), ("language_model", (4,))):
        for stage in (2, 3, 4):
            assert changed(stage - 1, stage, part) == (stage in stages), (part, stage)
    assert changed(2, 3, "mctp_modules.0") and changed(3, 4, "mctp_modules.2")
    pipe = pipeline("audio-to-audio", model=str(tmp_path / "stage4"), trust_remote_code=True)
    assert pipe.processor.hears_features and pipe.model.config.interleave_pattern == [2, 3]
    assert pipe(str(folder / "corpus" / "audio" / "0.wav"), max_new_tokens=8)["text"] is not None


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_weights(folder, tmp_path):
    for name, steps in (("whole", [4]), ("stopped", [2, 4])):
        for max_steps in steps:
            settings = settings_of(
                folder, tmp_path / name, stage=1, max_steps=max_steps, save_steps=2, lr_scheduler_type="constant"
            )
            main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])
    whole, stopped = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(stopped[name].equal(tensor) for name, tensor in whole.items())


@pytest.fixture
def sensevoice_dir(tmp_path):
    """A folder as `FunAudioLLM/SenseVoiceSmall`, of the fixture's encoder."""
    folder = tmp_path / "sensevoice"
    folder.mkdir()
    for name in ("config.yaml", "am.mvn"):
        (folder / name).write_bytes((PLUS_FIXTURE / name).read_bytes())
    prefix = "model.audio_model.model."
    weights = {n.removeprefix(prefix): t for n, t in plus_weights().items() if n.startswith(prefix)}
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, folder / "model.pt")
    return folder


@pytest.mark.slow
def test_stage_1_starts_from_a_language_model_and_sensevoice(folder, tmp_path, sensevoice_dir):
    config = Qwen2Config(**{name: value for name, value in TINY_TEXT_CONFIG.items() if name != "model_type"})
    config.vocab_size = 400
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "llm")
    tiny_plus_processor().tokenizer.save_pretrained(tmp_path / "llm")
    settings = settings_of(
        folder,
        tmp_path / "stage1",
        stage=1,
        model_name_or_path=str(tmp_path / "llm"),
        sensevoice_name_or_path=str(sensevoice_dir),
        text_config=None,
        audio_config=None,
    )
    main(["--config", str(write_config(tmp_path / "config.yaml", **settings))])
    pipe = pipeline("audio-to-audio", model=str(tmp_path / "stage1"), trust_remote_code=True)
    states = pipe.model.get_audio_features(**plus_features(["short"])).last_hidden_state[0]
    expected = plus_tensors()["encoder_from_unrounded_features.short"]
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)
    features = pipe.processor.feature_extractor(plus_tensors()["wave.short"].numpy())["input_features"][0]
    np.testing.assert_allclose(features, plus_tensors()["features.short"], atol=1e-3)


def test_weights_that_are_no_tensors_are_not_unpickled(sensevoice_dir):
    torch.save({"state_dict": {"a": pytest.raises}}, sensevoice_dir / "model.pt")
    with pytest.raises(ValueError, match="no weights that are safe to load"):
        load_sensevoice(str(sensevoice_dir))
    (sensevoice_dir / "model.pt").unlink()
    with pytest.raises(ValueError, match="has no model.pt"):
        load_sensevoice(str(sensevoice_dir))


NORM = "encoder.encoders.0.norm1.weight"


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda weights: weights.pop("embed.weight"), "missing: .*embed.weight"),
        (lambda weights: weights.update({NORM: torch.ones(3)}), r"misshaped: .*norm1.weight \(3,\)"),
        (lambda weights: weights[NORM].fill_(torch.nan), "norm1.weight that are no finite"),
        (lambda weights: weights.update({1: torch.ones(3)}), "dense tensors by their names"),
    ],
)
def test_weights_that_are_no_encoder_are_named(sensevoice_dir, harm, message):
    content = torch.load(sensevoice_dir / "model.pt", weights_only=True)["state_dict"]
    weights = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    harm(weights)
    torch.save(weights, sensevoice_dir / "model.pt")
    with pytest.raises(ValueError, match=message):
        load_sensevoice(str(sensevoice_dir))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"text_config": None, "model_name_or_path": "x"}, "`audio_config` is for a start from nothing"),
        ({"sensevoice_name_or_path": "x"}, "`audio_config` has no effect beside `sensevoice_name_or_path`"),
        ({"audio_config": {"hidden_size": 15}}, "no multiple of `num_attention_heads`"),
    ],
)
def test_settings_that_have_no_effect_are_named(folder, tmp_path, settings, message, capsys):
    config = write_config(tmp_path / "config.yaml", **settings_of(folder, tmp_path / "run", stage=1, **settings))
    assert run_command(main, PROG, ["--config", str(config)]) != 0
    assert message in capsys.readouterr().err
