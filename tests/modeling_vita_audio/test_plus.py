# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Continuous speech input (VITA-Audio-Plus), against the original implementation and against itself in other batches.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from modeling_fixtures import random_model
from plus_fixture import (
    plus_config,
    plus_expected,
    plus_features,
    plus_model,
    plus_tensors,
    plus_weights,
    released_source,
)

from modeling_vita_audio import VitaAudioCache, VitaAudioForConditionalGeneration
from modeling_vita_audio.modeling_vita_audio_encoder import VitaAudioPositionEncoding


AUDIOS = ("short", "mid", "long", "tiny")
CONTEXT = 511
EXPECTED = plus_expected()


@pytest.fixture(scope="module")
def model():
    return plus_model()


def generate(model, sequence, **kwargs):
    ids = torch.tensor([sequence["input_ids"]])
    mode = sequence["pattern"] if sequence["mode"] != "vanilla" else "vanilla"
    options = {"mctp_mode": mode, "max_new_tokens": len(sequence["tokens"]), "do_sample": False}
    options |= {"attention_mask": torch.ones_like(ids), **plus_features(sequence["audios"])}
    return model.generate(ids, **options | kwargs)[0, ids.shape[1] :].tolist()


def test_every_tensor_of_the_encoder_is_used(model):
    sources = {released_source(name)[0] for name, _ in model.named_parameters()}
    assert {name for name in plus_weights() if name not in sources} == {
        "model.audio_model.model.ctc.ctc_lo.weight",
        "model.audio_model.model.ctc.ctc_lo.bias",
    }


@pytest.mark.parametrize("audio", AUDIOS)
def test_encoder_and_projector_are_the_originals(model, audio):
    tensors = plus_tensors()
    outputs = model.get_audio_features(tensors[f"features.{audio}"][None])
    expected = tensors[f"encoder_from_unrounded_features.{audio}"]
    torch.testing.assert_close(outputs.last_hidden_state[0], expected, rtol=0, atol=1e-5)
    expected = tensors[f"projector_from_unrounded_features.{audio}"]
    torch.testing.assert_close(outputs.pooler_output, expected, rtol=0, atol=2e-5)


def test_audios_in_a_padded_batch_are_encoded_as_alone(model):
    rows = model.get_audio_features(**plus_features(AUDIOS)).pooler_output
    alone = torch.cat([model.get_audio_features(**plus_features([audio])).pooler_output for audio in AUDIOS])
    torch.testing.assert_close(rows, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0)])
def test_positions_are_in_the_models_type(dtype, tolerance):
    tensors = plus_tensors()
    positions = tensors["position_encoding_positions"]
    states = torch.zeros(1, int(positions.max()), 560, dtype=getattr(torch, dtype))
    encoding = VitaAudioPositionEncoding()(states)[positions - 1].float()
    torch.testing.assert_close(encoding, tensors[f"position_encoding_{dtype}"], rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(EXPECTED["generate"])))
def test_sequences_are_the_originals(model, index):
    sequence = EXPECTED["generate"][index]
    assert generate(model, sequence) == sequence["tokens"]


def vanilla_of(sequence):
    return next(
        other["tokens"]
        for other in EXPECTED["generate"]
        if other["mode"] == "vanilla"
        and other["input_ids"] == sequence["input_ids"]
        and other["audios"] == sequence["audios"]
    )


@pytest.mark.slow
def test_verified_gives_what_vanilla_gives(model):
    for sequence in EXPECTED["generate"]:
        assert generate(model, sequence, mctp_verify=True) == vanilla_of(sequence)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"mctp_speech_only_head": True}, {"mctp_verify": True}])
@pytest.mark.parametrize("mode", ["vanilla", "boost"])
def test_a_batch_with_other_numbers_and_lengths_of_audios(model, mode, options):
    sequences = [sequence for sequence in EXPECTED["generate"] if sequence["mode"] == mode]
    longest = max(len(sequence["input_ids"]) for sequence in sequences)
    length = min(len(sequence["tokens"]) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        start = longest - len(sequence["input_ids"])
        ids[row, start:], mask[row, start:] = torch.tensor(sequence["input_ids"]), 1
    features = plus_features([audio for sequence in sequences for audio in sequence["audios"]])
    options = {"mctp_mode": mode, "max_new_tokens": length, **options}
    together = model.generate(ids, attention_mask=mask, do_sample=False, **options, **features)
    assert together[:, longest:].tolist() == [generate(model, sequence, **options) for sequence in sequences]
    # every row twice: audios are repeated with the rows that they are in
    options |= {"do_sample": True, "top_k": 1, "num_return_sequences": 2}
    repeated = model.generate(ids, attention_mask=mask, **options, **features)
    assert repeated.tolist() == together.repeat_interleave(2, dim=0).tolist()


def test_padding_on_the_right_gives_the_same_logits(model):
    sequence = max(EXPECTED["generate"], key=lambda sequence: len(sequence["audios"]))
    ids, features = torch.tensor([sequence["input_ids"]]), plus_features(sequence["audios"])
    alone = model(ids, **features).logits
    padded = torch.nn.functional.pad(ids, (0, 5))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 5))
    torch.testing.assert_close(model(padded, attention_mask=mask, **features).logits[:, :-5], alone, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["vanilla", "boost"])
def test_a_second_turn_goes_on_from_the_cache(model, mode):
    """With the features of all turns, as a processor has them, and with those of the new one."""
    first, second = (
        next(s for s in EXPECTED["generate"] if s["audios"] == audios and s["mode"] == mode)
        for audios in sorted({tuple(s["audios"]) for s in EXPECTED["generate"] if len(s["audios"]) == 1})[:2]
        for audios in [list(audios)]
    )
    options = {"mctp_mode": mode, "max_new_tokens": 12, "do_sample": False}
    ids = torch.tensor([first["input_ids"]])
    answered = model.generate(
        ids,
        cache=VitaAudioCache(model.config),
        return_dict_in_generate=True,
        **options,
        **plus_features(first["audios"]),
    )
    conversation = torch.cat([answered.sequences, torch.tensor([second["input_ids"]])], dim=-1)
    audios = [*first["audios"], *second["audios"]]
    start = conversation.shape[1]
    expected = model.generate(conversation, **options, **plus_features(audios))[:, start:]
    going_on = model.generate(conversation, cache=answered.cache, **options, **plus_features(audios))[:, start:]
    assert going_on.tolist() == expected.tolist()


@pytest.mark.slow
def test_threads(model):
    sequences = EXPECTED["generate"][::2]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda sequence: generate(model, sequence), sequences))
    assert answers == [sequence["tokens"] for sequence in sequences]


def run(model, example, **kwargs):
    keys = ("input_ids", "labels", "position_ids")
    inputs = {key: torch.tensor([example[key]]) for key in keys} | plus_features(example["audios"])
    model.train()
    # the fixture is of an encoder without dropout
    model.model.audio_tower.eval()
    return model(**inputs, **kwargs)


def originals_losses(model, example, num_items_in_batch=None):
    """
    The losses `(1 + num_modules,)` of the language model and of each module, from their logits. In the original the
    last column that module k can fill in a sample predicts token k of the next sample, which ours does not.
    """
    outputs = run(model, example, output_mctp_logits=True, skip_logits=False)
    labels, positions = torch.tensor(example["labels"]), torch.tensor(example["position_ids"])
    samples = (positions == 0).cumsum(0)
    losses = []
    for k, logits in enumerate([outputs.logits, *outputs.mctp_logits]):
        columns = torch.arange(len(labels) - k)
        columns = columns[samples[columns] == samples[columns + k]]
        targets, columns = labels[columns[1:] + k], columns[:-1]
        loss = torch.nn.functional.cross_entropy(logits[0, columns], targets, reduction="sum")
        losses.append(loss / (num_items_in_batch or int((targets != -100).sum())))
    return torch.stack(losses)


@pytest.mark.parametrize("example", EXPECTED["loss"], ids=["three audios", "one audio", "no audio"])
def test_losses_are_the_originals(example):
    model = plus_model()
    expected = example.get("from_unrounded_features", example)
    losses = originals_losses(model, example)
    torch.testing.assert_close(
        losses, torch.tensor([expected["lm_loss"], *expected["mctp_losses"]]), rtol=0, atol=1e-4
    )
    assert run(model, example).lm_loss.item() == pytest.approx(expected["lm_loss"], abs=1e-4)


def test_losses_divided_by_the_labels_of_a_step():
    expected = EXPECTED["loss_with_num_items_in_batch"]
    losses = originals_losses(plus_model(), EXPECTED["loss"][0], expected["num_items_in_batch"])
    expected = torch.tensor([expected["lm_loss"], *expected["mctp_losses"]])
    # the original has rounded the features to bfloat16
    torch.testing.assert_close(losses, expected, rtol=0, atol=3e-3)


GROUPS = {
    "llm_layers": "model.language_model.layers.",
    "mctp_modules": "model.mctp_modules.",
    "audio_encoder": "model.audio_tower.",
}
NAMES = {
    "model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
    "model.norm.weight": "model.language_model.norm.weight",
    "model.audio_projection.pre_proj_layernorm.weight": "model.multi_modal_projector.norm.weight",
    "model.audio_projection.pre_proj_layernorm.bias": "model.multi_modal_projector.norm.bias",
    "model.audio_projection.mlp.0.weight": "model.multi_modal_projector.linear_1.weight",
    "model.audio_projection.mlp.2.weight": "model.multi_modal_projector.linear_2.weight",
    "lm_head.weight": "lm_head.weight",
}


@pytest.mark.parametrize("stage", ["stage_4", "stage_3", "stage_4_batch_without_audio"])
def test_gradients_are_the_originals(stage):
    expected, model = EXPECTED["gradients"][stage], plus_model()
    frozen = [name for name, state in expected["state"].items() if state == "frozen"]
    parameters = {
        group: [p for name, p in model.named_parameters() if name.startswith(GROUPS.get(group) or NAMES[group])]
        for group in expected["state"]
    }
    for group in frozen:
        for parameter in parameters[group]:
            parameter.requires_grad_(False)
    example = EXPECTED["loss"][2 if "without" in stage else 0]
    lm_loss, *mctp_losses = originals_losses(model, example)
    (torch.stack(mctp_losses).mean() + (lm_loss if "lm_head.weight" not in frozen else 0)).backward()
    for group, members in parameters.items():
        assert all((parameter.grad is None) == (group in frozen) for parameter in members), group
    for group, norm in expected["gradient_norm"].items():
        squares = sum(parameter.grad.double().square().sum().item() for parameter in parameters[group])
        assert squares**0.5 == pytest.approx(norm, rel=0.01, abs=1e-9), group


def test_mctp_losses_reach_the_language_model_where_they_shall():
    """By default in models of codes, and nowhere in those that hear by features."""
    hearing, of_codes = plus_model(), random_model(2)
    ids = torch.arange(1, 9)[None]
    for model, detach, is_reached in (
        (hearing, None, False),
        (hearing, False, True),
        (of_codes, None, True),
        (of_codes, True, False),
    ):
        model.zero_grad()
        inputs = {"input_ids": ids, "labels": ids}
        loss = model.train()(**inputs, mctp_detach=detach).mctp_losses.mean()
        loss.backward()
        layers = [p.grad for name, p in model.named_parameters() if "language_model.layers." in name]
        assert any(gradient is not None and bool(gradient.any()) for gradient in layers) == is_reached


def test_a_saved_model_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path)
    state = loaded.state_dict()
    assert all(state[name].equal(tensor) for name, tensor in model.state_dict().items())
    assert loaded.config.audio_config.input_size == 560
    sequence = EXPECTED["generate"][-1]
    assert generate(loaded.eval(), sequence) == sequence["tokens"]


def test_bad_input_is_named(model):
    sequence = next(s for s in EXPECTED["generate"] if len(s["audios"]) == 1)
    ids, features = torch.tensor([sequence["input_ids"]]), plus_features(sequence["audios"])
    codes = random_model(2)
    for run, inputs, message in (
        (codes, {"input_ids": torch.ones(1, 4, dtype=torch.long), **features}, "takes speech as codes"),
        (
            model,
            {"input_ids": ids, "input_features": features["input_features"][..., :500]},
            r"\(num_audios, num_frames, 560\)",
        ),
        (
            model,
            {"input_ids": ids, "input_features": features["input_features"][0]},
            r"\(num_audios, num_frames, 560\)",
        ),
        (
            model,
            {"input_ids": ids[:, :-1].masked_fill(ids[:, :-1] == CONTEXT, 3), **features},
            "has 0 `<|context_of_audio|>` tokens",
        ),
        (model, {"input_ids": torch.cat([ids, ids], dim=-1), **features}, "of 1 audios take"),
        (model, {"input_ids": ids, "input_features": torch.zeros(0, 5, 560)}, "with 1 audio or more"),
        (model, {"inputs_embeds": torch.zeros(1, 4, 64), **features}, "need `input_ids`"),
        (
            model,
            {"input_ids": ids, **features, "feature_attention_mask": torch.ones(1, 2)},
            "`feature_attention_mask` must have the shape",
        ),
        (
            model,
            {"input_ids": ids, **features, "feature_attention_mask": features["feature_attention_mask"].clone()},
            "must be on the right",
        ),
    ):
        if message == "must be on the right":
            inputs["feature_attention_mask"][0, 0] = 0
        with pytest.raises(ValueError, match=message.replace("|", r"\|")):
            run(**inputs)
        if "input_ids" in inputs:
            with pytest.raises(ValueError):
                run.generate(**inputs, max_new_tokens=2)


def test_audio_is_heard_with_each_token_where_there_is_no_cache(model):
    sequence = next(s for s in EXPECTED["generate"] if len(s["audios"]) == 2 and s["mode"] == "vanilla")
    assert generate(model, sequence, use_cache=False) == sequence["tokens"]


def test_audio_that_is_missing_is_named(model):
    sequence = next(s for s in EXPECTED["generate"] if len(s["audios"]) == 1)
    ids, features = torch.tensor([sequence["input_ids"]]), plus_features(sequence["audios"])
    with pytest.raises(ValueError, match="but no `input_features`"):
        model.generate(ids, max_new_tokens=2)
    with pytest.raises(ValueError, match="`prefill_chunk_size` would cut audios"):
        model.generate(ids, max_new_tokens=2, prefill_chunk_size=8, **features)
    mask = features["feature_attention_mask"]
    with pytest.raises(ValueError, match="`feature_attention_mask` came without the `input_features`"):
        model.generate(ids, max_new_tokens=2, feature_attention_mask=mask)
    with pytest.raises(ValueError, match="takes speech as codes"):
        random_model(2).generate(ids % 100, max_new_tokens=2, num_return_sequences=2, do_sample=True, **features)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"context_audio_token_id": None}, "needs `context_audio_token_id`"),
        ({"context_audio_token_id": 509}, "must differ from one another"),
        ({"context_audio_token_id": 700}, "but `text_config.vocab_size` is 640"),
        ({"audio_config": {"model_type": "whisper"}}, "must be 'fun_asr_nano_encoder'"),
        ({"audio_config": {"hidden_size": 30}}, "no multiple of `num_attention_heads`"),
        (
            {"audio_config": {"num_hidden_layers": 2, "num_timestamp_prediction_layers": 2}},
            "there are 2 layers in all",
        ),
        ({"audio_config": {"num_hidden_layers": 10**9}}, "must be 1 to"),
    ],
)
def test_configs_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        plus_config(**change)
