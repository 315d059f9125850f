# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys

import pytest
import torch
from modeling_fixtures import (
    RELEASED_FIXTURE,
    SPEECH_VOCABULARY,
    left_pad,
    original_mctp_losses,
    random_config,
    random_model,
    random_prompt,
    reference_logits,
    released_model,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForTextToWaveform,
    DynamicCache,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
)
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import flash_attention_mask
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from modeling_vita_audio import VitaAudioCache, VitaAudioConfig, VitaAudioForConditionalGeneration, VitaAudioModel
from modeling_vita_audio.loss_vita_audio import targets_of_columns


LENGTHS = (16, 3, 27, 12)


def samples(seed: int = 0) -> list[dict[str, list[int]]]:
    """Samples of different lengths, one shorter than there are modules; the first few tokens have no label."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(1, 120, (length,), generator=generator).tolist() for length in LENGTHS]
    return [{"input_ids": row, "labels": [-100] * (i + 1) + row[i + 1 :]} for i, row in enumerate(rows)]


def padded(rows: list[dict[str, list[int]]], side: str) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {"input_ids": [], "labels": [], "attention_mask": []}
    for row in rows:
        row = {**row, "attention_mask": [1] * len(row["input_ids"])}
        for name, fill in (("input_ids", 0), ("labels", -100), ("attention_mask", 0)):
            fill = [fill] * (longest - len(row["input_ids"]))
            batch[name].append(fill + row[name] if side == "left" else row[name] + fill)
    return {name: torch.tensor(values) for name, values in batch.items()}


def packed(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    batch = {name: torch.tensor([[token for row in rows for token in row[name]]]) for name in rows[0]}
    batch["position_ids"] = torch.cat([torch.arange(len(row["input_ids"])) for row in rows])[None]
    return batch


def losses_and_gradients(model, batch, **kwargs):
    model.zero_grad()
    output = model(**batch, **kwargs)
    output.loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return torch.stack([output.loss, output.lm_loss, *output.mctp_losses]).detach(), gradients


# --- configuration ---


def test_config_defaults_are_those_of_the_released_checkpoints():
    config = VitaAudioConfig()
    assert config.text_config.vocab_size == 168072
    assert config.speech_token_offset + config.num_speech_tokens == 168069
    assert (config.text_config.model_type, config.text_config.num_hidden_layers) == ("qwen2", 28)
    assert config.num_mctp_modules == 10


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
def test_config_is_saved_and_loaded(tmp_path, model_type):
    config = random_config(4, model_type, text_config={"tie_word_embeddings": True})
    assert config.tie_word_embeddings
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is VitaAudioConfig and type(loaded.text_config) is type(config.text_config)
    loaded.name_or_path = ""
    # of its code, where the folder brings it
    of_the_code = {"auto_map": loaded.auto_map, "custom_pipelines": loaded.custom_pipelines}
    assert loaded.to_dict() == config.to_dict() | of_the_code


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"num_mctp_modules": -1}, "`num_mctp_modules` must be 0 or more, got -1"),
        ({"num_mctp_modules": 10**6}, "`num_mctp_modules` must be 256 at most, got 1000000"),
        ({"text_config": {"hidden_size": 10**9}}, "`text_config.hidden_size` must be 131072 at most"),
        ({"storage_dtype": "float17"}, "`storage_dtype` must be one of float16, bfloat16, float32"),
        ({"speech_token_offset": 101}, "ids 101 to 120 .* `text_config.vocab_size` is 120"),
        ({"speech_token_offset": -1}, "ids -1 to 18"),
        ({"num_speech_tokens": 0}, "`num_speech_tokens` must be 1 or more"),
        ({"audio_token_id": 120}, "`audio_token_id` is 120, but `text_config.vocab_size` is 120"),
        ({"begin_audio_token_id": 119}, "`begin_audio_token_id` is 119, which is one of the speech tokens 100 to 119"),
        ({"end_audio_token_id": 98}, "must differ"),
        ({"text_config": {"model_type": "t5", "vocab_size": 120}}, "decoder-only"),
        (
            {"text_config": {"vocab_size": 120, "num_hidden_layers": 0}},
            "`text_config.num_hidden_layers` must be 1 or more",
        ),
        (
            {"text_config": {"vocab_size": 120, "num_attention_heads": 0}},
            "`text_config.num_attention_heads` must be 1",
        ),
        (
            {"text_config": {"vocab_size": 120, "num_attention_heads": 32, "num_key_value_heads": 3}},
            "`text_config.num_attention_heads` is 32, which is no multiple of `num_key_value_heads`, 3",
        ),
        (
            {"text_config": {"vocab_size": 120, "num_attention_heads": 5, "num_key_value_heads": 5}},
            "`text_config.hidden_size` is 4096, which is no multiple of `num_attention_heads`, 5",
        ),
        ({"text_config": {"vocab_size": 120, "pad_token_id": 120}}, "`text_config.pad_token_id` is 120"),
        (
            {"text_config": {"model_type": "granite", "vocab_size": 120, "logits_scaling": 8.0}},
            "`logits_scaling` = 8.0: a language model that changes the logits of its head",
        ),
    ],
    ids=str,
)
def test_config_whose_sizes_disagree_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        VitaAudioConfig(**{"text_config": {"vocab_size": 120}, **SPEECH_VOCABULARY, **kwargs})


@pytest.mark.parametrize(
    "model_type, cause",
    [
        ("gpt2", "its model has no embed_tokens"),
        ("gemma3_text", "its layers have rotary embeddings of several"),
        ("mamba", "its model has no embed_tokens"),
    ],
)
def test_language_model_of_another_kind_is_refused(model_type, cause):
    sizes = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2}
    # mamba has none
    heads = {} if model_type == "mamba" else {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = VitaAudioConfig(text_config={"model_type": model_type, **sizes, **heads}, **SPEECH_VOCABULARY)
    with pytest.raises(ValueError, match=f"'{model_type}' cannot carry MCTP modules: {cause}"):
        VitaAudioForConditionalGeneration(config)


def test_modules_of_a_mixture_of_experts_are_initialized_whole():
    sizes = {
        "vocab_size": 120,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_local_experts": 4,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = VitaAudioConfig(
        text_config={"model_type": "mixtral", **sizes, **heads}, num_mctp_modules=2, **SPEECH_VOCABULARY
    )
    weights = VitaAudioForConditionalGeneration(config).state_dict()
    layer, module = "model.language_model.layers.0.", "model.mctp_modules.0.layer."
    for name in (
        name for name in weights if name.startswith(layer) and name.endswith("weight") and "norm" not in name
    ):
        assert 0.01 < weights[name.replace(layer, module)].std() < 0.03, name


# --- forward ---


def test_released_fixture_losses():
    model = released_model()
    for expected in json.loads((RELEASED_FIXTURE / "expected.json").read_text())["loss"]:
        batch = {name: torch.tensor([expected[name]]) for name in ("input_ids", "position_ids", "labels")}
        output = model(**batch)
        assert output.lm_loss.item() == pytest.approx(expected["lm_loss"], abs=1e-4)
        assert original_mctp_losses(model, expected) == pytest.approx(expected["mctp_losses"], abs=1e-4)
        if batch["position_ids"].eq(0).sum() == 1:
            assert output.loss.item() == pytest.approx(expected["total_loss"], abs=1e-4)
            assert output.mctp_losses.tolist() == pytest.approx(expected["mctp_losses"], abs=1e-4)


def test_logits_of_the_language_model_are_those_of_qwen2():
    model = random_model(3)
    qwen2 = Qwen2ForCausalLM(model.config.text_config).eval()
    qwen2.model.load_state_dict(model.model.language_model.state_dict())
    qwen2.lm_head.load_state_dict(model.lm_head.state_dict())
    inputs = left_pad([random_prompt(5), random_prompt(9)])
    torch.testing.assert_close(model(**inputs).logits, qwen2(**inputs).logits, rtol=0, atol=0)
    hidden_states = model(**inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(hidden_states, qwen2(**inputs, output_hidden_states=True).hidden_states)


@pytest.mark.parametrize("num_mctp_modules", [1, 4, 10])
def test_logits_and_losses_are_what_the_formulas_say(num_mctp_modules):
    model, tokens = random_model(num_mctp_modules), random_prompt(14)
    output = model(tokens, labels=tokens, output_mctp_logits=True)
    all_logits = [output.logits, *output.mctp_logits]
    all_losses = [output.lm_loss, *output.mctp_losses]
    for k, (logits, loss) in enumerate(zip(all_logits, all_losses)):
        assert logits.shape == (1, 14 - k, 120)
        expected = [reference_logits(model, tokens[0, : i + k + 1].tolist(), k) for i in range(14 - k)]
        torch.testing.assert_close(logits[0], torch.stack(expected), rtol=1e-4, atol=1e-4)
        expected_loss = nn.functional.cross_entropy(torch.stack(expected[:-1]), tokens[0, k + 1 :])
        torch.testing.assert_close(loss, expected_loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.loss, output.lm_loss + output.mctp_losses.mean())


@pytest.mark.slow
def test_positions_of_the_modules():
    model = random_model(3)
    positions = []
    model.model.language_model.rotary_emb.register_forward_pre_hook(
        lambda module, args, kwargs: positions.append((kwargs or {"position_ids": args[1]})["position_ids"].tolist()),
        with_kwargs=True,
    )
    inputs = left_pad([random_prompt(2), random_prompt(4)])
    model.generate(**inputs, mctp_mode=[1, 3], max_new_tokens=5, pad_token_id=0)
    # Column i of module k is where token i + k is; what the padding's position is does not matter
    assert positions[:4] == [
        [[0, 0, 0, 1], [0, 1, 2, 3]],
        [[1, 1, 1, 2], [1, 2, 3, 4]],
        [[2, 2, 2, 3], [2, 3, 4, 5]],
        [[3, 3, 3, 4], [3, 4, 5, 6]],
    ]
    assert positions[4] == [[2, 3, 4, 5], [4, 5, 6, 7]]


def test_which_logits_are_returned():
    model, tokens = random_model(2), random_prompt(8)
    full = model(tokens, output_mctp_logits=True)
    assert model(tokens).mctp_logits is None
    last = model(tokens, logits_to_keep=3, output_mctp_logits=True)
    torch.testing.assert_close(last.logits, full.logits[:, -3:])
    torch.testing.assert_close(last.mctp_logits[1], full.mctp_logits[1][:, -3:])
    columns = torch.tensor([0, 5])
    kept = model(tokens, logits_to_keep=columns, output_mctp_logits=True)
    torch.testing.assert_close(kept.mctp_logits[1], full.mctp_logits[1][:, columns])
    with pytest.raises(ValueError, match="columns of `logits_to_keep`: the last has 6"):
        model(tokens, logits_to_keep=columns + 1, output_mctp_logits=True)
    assert model(tokens, labels=tokens).logits is not None
    assert model(tokens, labels=tokens, skip_logits=True).logits is None
    model.train()
    assert model(tokens, labels=tokens).logits is None
    assert model(tokens, labels=tokens, skip_logits=False).logits is not None
    loss, *_ = model(tokens, labels=tokens, return_dict=False)
    torch.testing.assert_close(loss, model(tokens, labels=tokens).loss)


def test_the_head_sees_only_columns_with_a_target():
    model = random_model(3).train()
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[:-1].numel()))
    rows = samples()
    model(**packed(rows))
    # Sample i has labels from its token i + 1 on; module k predicts none before token k + 1
    expected = [sum(max(length - max(i + 1, k + 1), 0) for i, length in enumerate(LENGTHS)) for k in range(len(seen))]
    assert seen == expected


def test_losses_need_whole_sequences():
    model, tokens = random_model(2), random_prompt(6)
    cache = DynamicCache(config=model.config.text_config)
    model(tokens, cache=cache)
    with pytest.raises(ValueError, match="whole sequences"):
        model(tokens, labels=tokens, cache=cache)
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model()


def test_caches_of_a_forward():
    model, tokens = random_model(2), random_prompt(6)
    assert isinstance(model(tokens).cache, VitaAudioCache)
    assert model(tokens, use_cache=False).cache is None
    assert model(tokens, labels=tokens).cache is None
    assert type(random_model(0)(tokens).cache) is DynamicCache
    cache = model(tokens[:, :4]).cache
    torch.testing.assert_close(model(tokens[:, 4:], cache=cache).logits, model(tokens).logits[:, 4:])


# --- training ---


def varlen_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """What flash attention makes of its arguments: the samples' bounds, given or found by position 0."""
    assert attention_mask is None and len(query) == 1
    bounds = kwargs.get("cu_seq_lens_q")
    if bounds is None:
        bounds = prepare_fa_kwargs_from_position_ids(kwargs["position_ids"])[0][0]
    key, value = (repeat_kv(states, module.num_key_value_groups) for states in (key, value))
    outputs = [
        nn.functional.scaled_dot_product_attention(
            query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], scale=scaling, is_causal=True
        )
        for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist())
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register("varlen", varlen_attention)
AttentionMaskInterface.register("varlen", flash_attention_mask)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager", "varlen", "varlen with cu_seq_lens"])
def test_padded_batches_and_packed_samples_give_the_same_losses(model_type, attn_implementation):
    model, rows = random_model(10, model_type), samples()
    expected, expected_gradients = losses_and_gradients(model, padded(rows, "right"))
    model.set_attn_implementation(attn_implementation.split()[0])
    packed_batch = packed(rows)
    if attn_implementation.endswith("cu_seq_lens"):
        starts = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        packed_batch |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": 27, "max_length_k": 27}
    batches = [packed_batch]
    if "varlen" not in attn_implementation:
        batches += [padded(rows, "right"), padded(rows, "left")]
        # By position ids alone, without asking for no cache
        batches += [packed_batch | {"use_cache": True}]
    for batch in batches:
        losses, gradients = losses_and_gradients(model, batch)
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-5, msg=name)


def test_no_token_of_a_neighbour_leaks_in():
    model, batch = random_model(10), packed(samples())
    start, end = sum(LENGTHS[:2]), sum(LENGTHS[:3])
    batch["labels"][:, :start] = -100
    batch["labels"][:, end:] = -100
    embeds = model.get_input_embeddings()(batch.pop("input_ids")).detach().requires_grad_()
    model(inputs_embeds=embeds, **batch).loss.backward()
    reached = embeds.grad[0].abs().amax(-1).nonzero().flatten().tolist()
    # The last token is only ever predicted
    assert reached == list(range(start, end - 1))


def test_losses_of_accumulated_batches_add_up_to_those_of_one_batch():
    model, rows = random_model(4), samples()
    num_items = sum(label != -100 for row in rows for label in row["labels"][1:])
    whole, gradients = losses_and_gradients(model, padded(rows, "right"), num_items_in_batch=num_items)
    parts = [losses_and_gradients(model, packed([row]), num_items_in_batch=torch.tensor(num_items)) for row in rows]
    torch.testing.assert_close(sum(losses for losses, _ in parts), whole)
    for name, gradient in gradients.items():
        torch.testing.assert_close(sum(part[name] for _, part in parts), gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_trainer_accumulates_to_the_same_weights(tmp_path):
    weights = []
    for batch_size, accumulation in ((4, 1), (1, 4), (2, 2)):
        model = random_model(4)
        arguments = TrainingArguments(
            output_dir=tmp_path,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            learning_rate=0.05,
            optim="sgd",
            max_grad_norm=0,
            lr_scheduler_type="constant",
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
        )
        before = model.lm_head.weight.detach().clone()
        Trainer(model, arguments, train_dataset=samples(), data_collator=lambda rows: padded(rows, "right")).train()
        assert (model.lm_head.weight - before).abs().max() > 1e-3
        weights.append(model.state_dict())
    for other in weights[1:]:
        for name, tensor in weights[0].items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-5)


def test_trainer_predicts_logits(tmp_path):
    arguments = TrainingArguments(
        output_dir=tmp_path,
        per_device_eval_batch_size=2,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
    )
    model = random_model(3)
    trainer = Trainer(model, arguments, data_collator=lambda rows: padded(rows, "right"))
    predictions = trainer.predict(samples())
    assert predictions.predictions.shape == (4, max(LENGTHS), 120)
    batches = [padded(samples()[:2], "right"), padded(samples()[2:], "right")]
    num_items = [batch["labels"][:, 1:].ne(-100).sum() for batch in batches]
    expected = [model(**batch, num_items_in_batch=n).loss.item() for batch, n in zip(batches, num_items)]
    assert predictions.metrics["test_loss"] == pytest.approx(sum(expected) / 2, rel=1e-4)


@pytest.mark.slow
def test_a_few_steps_of_training_fit_a_sample():
    model = random_model(10).train()
    batch = packed(samples()[:1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
    assert output.lm_loss < 0.1 and (output.mctp_losses < 0.1).all()
    for mctp_mode in ("vanilla", "balance", "boost", "turbo"):
        generated = model.eval().generate(batch["input_ids"][:, :5], mctp_mode=mctp_mode, max_new_tokens=11)
        assert generated.tolist() == batch["input_ids"].tolist(), mctp_mode


def test_stages_two_and_three_train_the_modules_alone():
    model = random_model(3).train()
    model.requires_grad_(False)
    model.model.mctp_modules.requires_grad_(True)
    hidden_states = []
    model.model.language_model.register_forward_hook(
        lambda module, args, output: hidden_states.append(output.last_hidden_state)
    )
    output = model(**packed(samples()), lm_loss_weight=0)
    assert not hidden_states[0].requires_grad
    assert output.lm_loss is None
    torch.testing.assert_close(output.loss, output.mctp_losses.mean())
    output.loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("model.mctp_modules.")}


def test_loss_weights():
    batch, model = packed(samples()), random_model(3)
    plain = model(**batch)
    weighted = model(**batch, lm_loss_weight=0.5, mctp_loss_weight=2)
    torch.testing.assert_close(weighted.loss, 0.5 * plain.lm_loss + 2 * plain.mctp_losses.mean())
    for name in ("lm_loss_weight", "mctp_loss_weight"):
        with pytest.raises(ValueError, match=f"`{name}` must be 0 or more, got -0.5"):
            model(**batch, **{name: -0.5})
    model.model.mctp_modules[0].register_forward_hook(lambda *_: pytest.fail("a module ran for nothing"))
    output = model(**batch, mctp_loss_weight=0)
    assert output.mctp_losses is None
    torch.testing.assert_close(output.loss, plain.lm_loss)


@pytest.mark.parametrize(
    "former", [{"lm_loss_weight": 0, "mctp_loss_weight": 0.3}, {"mctp_targets_cross_samples": True}]
)
def test_training_state_in_a_config_of_an_earlier_version_is_passed_over(tmp_path, former, caplog):
    model, batch = random_model(3), packed(samples())
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert not config.keys() & former.keys()
    (tmp_path / "config.json").write_text(json.dumps(config | former))
    loaded = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch).loss, model(**batch).loss)
    assert not loaded.config.to_dict().keys() & former.keys() and not caplog.records


@pytest.mark.parametrize(
    "sample_ids, num_ahead, expected",
    [
        # the example of the docstring, then with a module for which the samples are too short
        ([0, 0, 0, 1, 1, 1], 0, [11, 12, -100, 21, 22, -100]),
        ([0, 0, 0, 1, 1, 1], 1, [12, -100, -100, 22, -100, -100]),
        ([0, 0, 0, 1, 1, 1], 2, 6 * [-100]),
        ([0, 0, 0, 0, 0, 0], 2, [-100, 21, 22, -100, -100, -100]),
        ([0, 0, 0, 0, 0, 0], 5, 6 * [-100]),
        ([0, 0, 0, 0, 0, 0], 9, 6 * [-100]),
    ],
    ids=str,
)
def test_targets_of_six_tokens(sample_ids, num_ahead, expected):
    labels = torch.tensor([[-100, 11, 12, -100, 21, 22]])
    targets = targets_of_columns(labels, torch.tensor([sample_ids]), num_ahead)
    assert targets.tolist() == [expected]


def test_labels_that_are_shifted_already_are_refused():
    batch = packed(samples())
    with pytest.raises(ValueError, match="`shift_labels` are refused"):
        random_model(1)(**batch, shift_labels=batch["labels"].roll(-1))


def test_a_batch_without_labels_has_a_loss_of_zero():
    batch = packed(samples())
    batch["labels"].fill_(-100)
    losses, gradients = losses_and_gradients(random_model(3), batch)
    assert losses.tolist() == [0] * 5
    assert all((gradient == 0).all() for gradient in gradients.values())


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(use_reentrant):
    batch = packed(samples())
    model = random_model(4).train()
    expected, expected_gradients = losses_and_gradients(model, batch)
    # its name before transformers 5.23
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": use_reentrant})
    calls = []
    for layer in (model.model.mctp_modules[2].layer, model.model.language_model.layers[0]):
        layer.input_layernorm.register_forward_hook(lambda *_: calls.append("layer"))
    model.lm_head.register_forward_hook(lambda *_: calls.append("head"))
    losses, gradients = losses_and_gradients(model, batch)
    # All run again in the backward pass; the head runs for each of five losses
    assert (calls.count("layer"), calls.count("head")) == (2 * 2, 2 * 5)
    torch.testing.assert_close(losses, expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name])


def test_bfloat16():
    model = random_model(4).to(torch.bfloat16).train()
    output = model(**packed(samples()))
    assert output.loss.dtype == torch.float32
    expected = random_model(4)(**packed(samples()))
    torch.testing.assert_close(output.mctp_losses, expected.mctp_losses, rtol=0.02, atol=0.02)


# --- modules and embeddings ---


def test_zero_modules_are_a_language_model():
    model, tokens = random_model(0).train(), random_prompt(9)
    output = model(tokens, labels=tokens)
    assert output.mctp_losses is None
    torch.testing.assert_close(output.loss, output.lm_loss)
    output.loss.backward()
    assert model.eval().generate(tokens, max_new_tokens=5).shape == (1, 14)
    with pytest.raises(ValueError, match="the model has 0 modules"):
        model.generate(tokens, mctp_mode="boost")


def test_growing_copies_the_last_layer_and_then_the_module_before():
    model = random_model(0)
    model.grow_mctp_modules(1)
    first = model.model.mctp_modules[0]
    for name, tensor in model.model.language_model.layers[-1].state_dict().items():
        assert torch.equal(first.layer.state_dict()[name], tensor)
    assert (first.embed_norm.weight == 1).all() and (first.hidden_norm.weight == 1).all()
    assert first.proj.weight.std().item() == pytest.approx(0.1, rel=0.1)
    nn.init.normal_(first.embed_norm.weight)
    model.grow_mctp_modules(4)
    assert model.config.num_mctp_modules == len(model.model.mctp_modules) == 4
    for module in model.model.mctp_modules:
        assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in first.state_dict().items())
    pointers = {parameter.data_ptr() for parameter in model.model.mctp_modules.parameters()}
    assert len(pointers) == 4 * len(list(first.parameters()))
    # The copies have caches of their own
    tokens = random_prompt(7)
    output = model.generate(tokens, mctp_mode=[1, 4], max_new_tokens=20, return_dict_in_generate=True)
    assert [cache.get_seq_length() for cache in output.cache.mctp_caches] == [22, 22, 22, 22]
    with pytest.raises(ValueError, match="Cannot grow from 4 MCTP modules to 2"):
        model.grow_mctp_modules(2)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_resized(tmp_path, tied):
    model = random_model(2, text_config={"tie_word_embeddings": tied})
    tokens = random_prompt(6)
    before = model(tokens, output_mctp_logits=True)
    model.resize_token_embeddings(130)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert (
        model.config.text_config.vocab_size
        == len(model.lm_head.weight)
        == len(model.get_input_embeddings().weight)
        == 130
    )
    after = model(tokens, output_mctp_logits=True)
    torch.testing.assert_close(after.logits[..., :120], before.logits)
    torch.testing.assert_close(after.mctp_logits[1][..., :120], before.mctp_logits[1])
    model.save_pretrained(tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tied
    loaded = AutoModel.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    torch.testing.assert_close(loaded(tokens).logits, after.logits)


# --- checkpoints ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "auto_class",
    [
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForMultimodalLM,
        AutoModelForTextToWaveform,
        VitaAudioForConditionalGeneration,
    ],
)
def test_saved_in_shards_and_loaded(tmp_path, auto_class):
    model = random_model(3, "qwen3")
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is VitaAudioForConditionalGeneration and not loaded.training
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.parametrize("auto_class", [AutoModel, VitaAudioForConditionalGeneration])
def test_missing_and_surplus_tensors_are_refused_by_name(tmp_path, auto_class):
    model = random_model(2)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["model.mctp_modules.1.proj.weight"], weights["model.language_model.norm.weight"]
    weights["model.mctp_modules.2.proj.weight"] = torch.zeros(32, 64)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError) as error:
        auto_class.from_pretrained(tmp_path)
    assert "missing: model.language_model.norm.weight, model.mctp_modules.1.proj.weight" in str(error.value)
    assert "unexpected: model.mctp_modules.2.proj.weight" in str(error.value)
    # A module more in the config than in the file is the same mistake
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_mctp_modules": 3}))
    with pytest.raises(ValueError, match="missing: model.mctp_modules.2.embed_norm.weight"):
        auto_class.from_pretrained(tmp_path)


def test_misshaped_and_truncated_checkpoints_are_refused(tmp_path):
    model = random_model(2)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "lm_head.weight": torch.zeros(119, 32)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"misshaped: lm_head.weight \(119, 32\) instead of \(120, 32\)"):
        AutoModel.from_pretrained(tmp_path)
    VitaAudioForConditionalGeneration.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    save_file(weights, path, metadata={"format": "pt"})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match="cannot be read, they may be cut off"):
        AutoModel.from_pretrained(tmp_path)


def test_base_model_is_loaded_from_the_same_folder(tmp_path):
    model = random_model(2)
    model.save_pretrained(tmp_path)
    base = VitaAudioModel.from_pretrained(tmp_path)
    tokens = random_prompt(5)
    expected = model.model(tokens, output_mctp_hidden_states=True)
    output = base(tokens, output_mctp_hidden_states=True)
    torch.testing.assert_close(output.mctp_hidden_states, expected.mctp_hidden_states)


REMOTE_PROGRAM = """
import importlib.util, json, sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

assert importlib.util.find_spec("modeling_vita_audio") is None
folder, copy, prompt = sys.argv[1], sys.argv[2], torch.tensor([json.loads(sys.argv[3])])
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).num_mctp_modules == 4
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
model.save_pretrained(copy)
model = AutoModel.from_pretrained(copy, trust_remote_code=True)
tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40)
print(json.dumps({"tokens": tokens.tolist(), "module": type(model).__module__}))
"""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    model = random_model(1)
    with torch.no_grad():
        model.model.mctp_modules[0].proj.weight[3, 5] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="NaN or infinite values in model.mctp_modules.0.proj.weight"):
        VitaAudioForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
@pytest.mark.parametrize("max_shard_size", ["5GB", "5KB"])
def test_weights_of_another_kind_of_number_are_refused(tmp_path, dtype, max_shard_size):
    random_model(1).save_pretrained(tmp_path, max_shard_size=max_shard_size)
    name = "model.mctp_modules.0.proj.weight"
    for path in tmp_path.glob("*.safetensors"):
        weights = load_file(path)
        if name in weights:
            save_file({**weights, name: weights[name].to(dtype)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"no floating point numbers, but (I64|BOOL), in {name}"):
        VitaAudioForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.slow
def test_a_saved_folder_is_remote_code(tmp_path):
    model, prompt = random_model(4), random_prompt(6)
    model.generation_config.mctp_mode = [1, 4, 4, 4]
    model.save_pretrained(tmp_path / "saved")
    expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40)
    away = tmp_path / "away"
    away.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    # Without site packages of the project either: an editable install is a path file that `-S` leaves out
    program = f"import sys; sys.path[:0] = {[p for p in sys.path if 'site-packages' in p]}\n" + REMOTE_PROGRAM
    process = subprocess.run(
        [sys.executable, "-S", "-c", program, tmp_path / "saved", tmp_path / "copy", str(prompt[0].tolist())],
        cwd=away,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["module"].startswith("transformers_modules.")
    assert result["tokens"] == expected.tolist()
    saved, copy = ({path.name for path in (tmp_path / name).iterdir()} for name in ("saved", "copy"))
    assert saved == copy and "pipeline_vita_audio.py" in saved
