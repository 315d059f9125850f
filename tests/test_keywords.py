# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
A walk through every keyword that transformers and TRL have where ours takes theirs: it does what it says, or is
refused by its name. A keyword of a new release that is in none of the lists below fails here, until somebody decides
what it does.
"""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from datasets import Dataset
from modeling_fixtures import random_model, random_prompt
from tiny_models import tiny_model, tiny_processor
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    GenerationMixin,
    Pipeline,
    ProcessorMixin,
    Trainer,
    TrainingArguments,
)
from transformers.processing_utils import AudioKwargs, TextKwargs
from trl import SFTConfig, SFTTrainer

from processing.pipeline_vita_audio import PREPROCESS_KEYWORDS, VitaAudioPipeline
from training.trainer import REFUSED_ARGUMENTS, REFUSED_SETTINGS, VitaAudioSFTConfig, VitaAudioSFTTrainer


# a walk through hundreds of keywords, some of them by training
pytestmark = pytest.mark.slow


CONVERSATION = [
    {"role": "user", "content": "What is two plus two?"},
    {"role": "assistant", "content": "Two plus two is four."},
]


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def pipe(processor):
    return VitaAudioPipeline(tiny_model(processor), processor=processor, device="cpu")


def render(processor, conversation=CONVERSATION, **kwargs):
    return processor.apply_chat_template(conversation, tokenize=True, return_dict=True, **kwargs)


# --- the processor ---

# Keywords of `apply_chat_template`: arguments that give another result than none at all
TEMPLATE_EFFECTS = {
    "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    "add_generation_prompt": True,
    "continue_final_message": True,
    "return_assistant_tokens_mask": True,
    "return_tensors": "np",
}
TEMPLATE_REFUSED = {
    "tools": [{"type": "function"}],
    "documents": [{"title": "a", "text": "b"}],
    "load_audio_from_video": True,
}
# In tests of their own below
TEMPLATE_OTHERS = {
    "self",
    "conversation",
    "tokenize",
    "return_dict",
    "processor_kwargs",
    "sanitize_control_tokens",
    "kwargs",
}

# Of `__call__`, which `apply_chat_template` takes as well
CALL_EFFECTS = {
    "padding": False,
    "padding_side": "right",
    "pad_to_multiple_of": 64,
    "return_attention_mask": False,
    "return_tensors": "np",
}
CALL_REFUSED = {
    "text": {
        "truncation": True,
        "max_length": 5,
        "add_special_tokens": True,
        "stride": 3,
        "is_split_into_words": True,
        "return_token_type_ids": True,
        "return_overflowing_tokens": True,
        "return_special_tokens_mask": True,
        "return_offsets_mapping": True,
        "return_length": True,
        "verbose": True,
        "return_mm_token_type_ids": True,
        "return_text_replacement_offsets": True,
        "text_pair": "b",
        "text_target": "b",
        "text_pair_target": "b",
    },
    "audio": {"truncation": True, "max_length": 5, "device": "cuda", "load_audio_backend": "librosa"},
}


# Of tests of their own, and an argument that there is for any processor
CALL_OTHERS = {"sampling_rate", "raw_speech", "sanitize_control_tokens"}


def describe(batch):
    return {key: np.asarray(value).tolist() + [type(value).__name__] for key, value in batch.items()}


def test_no_keyword_of_a_chat_template_is_unknown():
    names = set(inspect.signature(ProcessorMixin.apply_chat_template).parameters)
    assert names <= {*TEMPLATE_EFFECTS, *TEMPLATE_REFUSED, *TEMPLATE_OTHERS}


@pytest.mark.parametrize("name", TEMPLATE_EFFECTS)
def test_a_keyword_of_the_chat_template_has_an_effect(processor, name):
    assert describe(render(processor, **{name: TEMPLATE_EFFECTS[name]})) != describe(render(processor))


@pytest.mark.parametrize("name", TEMPLATE_REFUSED)
def test_a_keyword_without_an_effect_on_the_chat_template_is_refused(processor, name):
    with pytest.raises(ValueError, match=f"`{name}"):
        render(processor, **{name: TEMPLATE_REFUSED[name]})


def test_a_keyword_that_the_chat_template_reads_is_taken(processor):
    template = "{% for tool in tools %}{{ tool['name'] }}{% endfor %}{{ mood }}" + processor.chat_template
    expected = [{"role": "user", "content": "x"}]
    prompt = processor.apply_chat_template(expected, template, tools=[{"name": "clock"}], mood="good")
    assert prompt.startswith("clockgood<|im_start|>")
    with pytest.raises(ValueError, match="`mood` has no effect"):
        processor.apply_chat_template(expected, mood="good")


@pytest.mark.parametrize("kind, kwargs_class", [("text", TextKwargs), ("audio", AudioKwargs)])
def test_no_keyword_of_a_processor_is_unknown(kind, kwargs_class):
    assert set(kwargs_class.__annotations__) - CALL_OTHERS <= {*CALL_EFFECTS, *CALL_REFUSED[kind]}


@pytest.mark.parametrize("group", [None, "text_kwargs", "common_kwargs", "processor_kwargs"])
@pytest.mark.parametrize("name", CALL_EFFECTS)
def test_a_keyword_of_the_processor_has_an_effect(processor, group, name):
    if name == "return_tensors" and group is None:
        pytest.skip("an argument of its own")
    kwargs = {name: CALL_EFFECTS[name], "return_tensors": None}
    if name == "return_tensors":
        kwargs = {}
    if group is not None:
        kwargs = {**{k: v for k, v in kwargs.items() if k != name}, group: {name: CALL_EFFECTS[name]}}
    texts = ["What is two plus two?", "Two"]
    default = {} if name == "return_tensors" else {"return_tensors": None}
    assert describe_rows(processor(texts, **kwargs)) != describe_rows(processor(texts, **default))
    conversations = [CONVERSATION, CONVERSATION[:1]]
    assert describe_rows(render(processor, conversations, **kwargs)) != describe_rows(
        render(processor, conversations, **default)
    )


def describe_rows(batch):
    return {key: (type(value).__name__, [list(row) for row in value]) for key, value in batch.items()}


@pytest.mark.parametrize("kind, name", [(kind, name) for kind, names in CALL_REFUSED.items() for name in names])
def test_a_keyword_without_an_effect_on_the_processor_is_refused(processor, kind, name):
    value = CALL_REFUSED[kind][name]
    for kwargs in ({name: value}, {f"{kind}_kwargs": {name: value}}):
        with pytest.raises((ValueError, TypeError), match=name):
            processor("Two", **kwargs)
        with pytest.raises((ValueError, TypeError), match=name):
            render(processor, **kwargs)


@pytest.mark.parametrize(
    "name",
    ["images", "videos", "sanitize_control_tokens", "output_labels", "audios_kwargs", "depth_decoder_labels_ratio"],
)
def test_keywords_of_other_processors_are_refused(processor, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        processor("Two", **{name: True})


def test_keywords_that_say_nothing_are_taken(processor):
    expected = describe(render(processor))
    nothing = dict.fromkeys([*TEMPLATE_REFUSED, *CALL_REFUSED["text"], "images", "text_kwargs", "processor_kwargs"])
    nothing |= {
        "truncation": False,
        "add_special_tokens": False,
        "return_tensors": "auto",
        "load_audio_from_video": False,
    }
    assert describe(render(processor, **nothing, sanitize_control_tokens=True)) == expected


def test_max_length_pads(processor):
    for kwargs in (
        {"padding": "max_length", "max_length": 50},
        {"text_kwargs": {"padding": "max_length", "max_length": 50}},
    ):
        assert render(processor, **kwargs)["input_ids"].shape == (1, 50)
    with pytest.raises(ValueError, match="max_length"):
        render(processor, padding="max_length")


def test_a_conversation_that_is_longer_than_it_is_padded_to_is_refused(processor):
    with pytest.raises(ValueError, match="tokens, more than `max_length` = 3"):
        processor(["Two", "What is two plus two?"], padding="max_length", max_length=3)


def test_keywords_that_contradict_each_other_are_refused(processor):
    with pytest.raises(ValueError, match="`padding` is given twice, as True and as False"):
        processor("Two", padding=True, text_kwargs={"padding": False})
    with pytest.raises(ValueError, match="`add_generation_prompt` begins another message"):
        render(processor, add_generation_prompt=True, continue_final_message=True)


@pytest.mark.parametrize(
    "part, message",
    [
        ({"type": "audio", "path": "a.wav", "start": 1.0}, "unknown keys start"),
        ({"type": "text", "text": "a", "audio": "a.wav"}, "unknown keys audio"),
        ({"type": "audio", "path": "a.wav", "audio": np.zeros(9)}, "not under audio and path"),
    ],
)
def test_keys_of_a_part_that_would_be_dropped_are_refused(processor, part, message):
    with pytest.raises(ValueError, match=message):
        render(processor, [{"role": "user", "content": [part]}])


def test_keys_without_a_value_are_absent(processor):
    part = {"type": "text", "text": "What is two plus two?", "audio": None, "path": None, "sampling_rate": None}
    messages = [{"role": "user", "content": [part]}, CONVERSATION[1]]
    assert describe(render(processor, messages)) == describe(render(processor))


def test_the_rate_of_arrays_is_heard(processor):
    samples = 0.3 * np.sin(np.arange(16000) / 20)
    message = [{"role": "user", "content": [{"type": "audio", "audio": samples}]}]
    lengths = [
        render(processor, message, **kwargs)["input_ids"].shape[1]
        for kwargs in ({}, {"sampling_rate": 32000}, {"audio_kwargs": {"sampling_rate": 32000}})
    ]
    assert lengths[1] == lengths[2] < lengths[0] - 5


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_masks_of_what_the_assistant_wrote(processor, padding_side):
    speech = {"type": "audio", "audio": 0.3 * np.sin(np.arange(16000) / 20)}
    text = {"type": "text", "text": "Two plus two is four."}
    long = [CONVERSATION[0], {"role": "assistant", "content": [text, speech]}]
    batch = render(processor, [long, CONVERSATION], return_assistant_tokens_mask=True, padding_side=padding_side)
    for row, messages in enumerate((long, CONVERSATION)):
        codes = processor.encode_audio([speech["audio"]]) if messages is long else []
        stripped = [
            {**m, "content": "Two plus two is four.<|audio|>"} if m["role"] == "assistant" else m for m in long
        ]
        example = processor.build_training_example(stripped if codes else messages, codes)
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        mask = batch["assistant_masks"][row][batch["attention_mask"][row].bool()].tolist()
        assert ids == example["input_ids"]
        assert mask == [int(label != -100) for label in example["labels"]]
    padding = batch["attention_mask"] == 0
    assert padding.any() and not batch["assistant_masks"][padding].any()
    with pytest.raises(ValueError, match="`return_assistant_tokens_mask=True` needs"):
        processor.apply_chat_template(CONVERSATION, tokenize=True, return_assistant_tokens_mask=True)


@pytest.mark.parametrize("marks, found", [("", 0), ("<|audio|><|audio|>", 2)])
def test_a_template_that_loses_or_doubles_the_audio_is_refused(processor, marks, found):
    audio = 0.3 * np.sin(np.arange(16000) / 20)
    message = [{"role": "user", "content": [{"type": "audio", "audio": audio}]}]
    template = "{% for message in messages %}<|im_start|>" + marks + "<|im_end|>{% endfor %}"
    with pytest.raises(ValueError, match=f"writes {found} marks <.audio.> for 1 audios"):
        render(processor, message, chat_template=template)


@pytest.mark.parametrize(
    "conversation, message",
    [
        (["hello"], "A message must be a dictionary, got 'hello'"),
        ([{"role": "user", "content": ["hello"]}], "A content part must be a dictionary, got 'hello'"),
        ([{"role": "user", "content": "half \ud83d a character"}], "half a character"),
        ([{"role": "user", "content": [{"type": "text", "text": "\udc00"}]}], "half a character"),
    ],
)
def test_what_is_no_conversation_is_named(processor, conversation, message):
    with pytest.raises(ValueError, match=message):
        render(processor, conversation)


def test_a_final_message_is_continued(processor):
    whole = processor.apply_chat_template(CONVERSATION)
    begun = processor.apply_chat_template(CONVERSATION, continue_final_message=True)
    assert begun.endswith("Two plus two is four.") and whole.startswith(begun)
    spoken = [CONVERSATION[0], {"role": "assistant", "content": "Two.<|audio|>"}]
    audio = 0.3 * np.sin(np.arange(16000) / 20)
    batch = render(processor, spoken, audios=[audio], continue_final_message=True)
    assert batch["input_ids"][0, -1] == processor.speech_vocabulary.end_audio_token_id


# --- generation ---

# Fields of a generation config by what they are: shared with all models of transformers, as its logits processors,
# stopping criteria, caches and outputs see every token of ours; of modes that are refused; or of what takes no part in
# `generate`
SHARED = {
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "cache_config", "cache_implementation", "compile_config",
    "disable_compile", "do_sample", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "eos_token_id",
    "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
    "max_cache_len", "max_length", "max_new_tokens", "max_time", "min_length", "min_new_tokens", "min_p",
    "no_repeat_ngram_size", "num_return_sequences", "output_attentions", "output_hidden_states", "output_logits",
    "output_scores", "pad_token_id", "prefill_chunk_size", "remove_invalid_values", "renormalize_logits",
    "repetition_penalty", "return_dict_in_generate", "sequence_bias", "stop_strings", "suppress_tokens", "temperature",
    "token_healing", "top_h", "top_k", "top_p", "typical_p", "use_cache", "watermarking_config",
}  # fmt: skip
MODES_REFUSED = {
    "num_beams": 2, "penalty_alpha": 0.6, "dola_layers": "low", "constraints": [object()], "force_words_ids": [[5]],
    "prompt_lookup_num_tokens": 3, "use_mtp": True, "guidance_scale": 1.5, "assistant_early_exit": 1,
}  # fmt: skip
OF_REFUSED_MODES = {
    "assistant_confidence_threshold", "assistant_ensemble_weight", "assistant_lookbehind", "diversity_penalty",
    "early_stopping", "is_assistant", "length_penalty", "low_memory", "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule", "num_beam_groups", "speculation_type", "target_lookbehind",
}  # fmt: skip
NO_PART = {"continuous_batching_config", "decoder_start_token_id", "transformers_version"}

# Arguments of `generate` itself
GENERATE_ARGUMENTS = {
    "self", "inputs", "generation_config", "logits_processor", "stopping_criteria",
    "prefix_allowed_tokens_fn", "synced_gpus",
    "assistant_model", "streamer", "negative_prompt_ids", "negative_prompt_attention_mask",
    "custom_generate", "kwargs",
    "use_model_defaults",
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return random_model(4)


def test_no_field_of_a_generation_config_is_unknown():
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert fields <= {*SHARED, *MODES_REFUSED, *OF_REFUSED_MODES, *NO_PART}
    assert set(inspect.signature(GenerationMixin.generate).parameters) <= GENERATE_ARGUMENTS


@pytest.mark.parametrize("name", MODES_REFUSED)
def test_modes_without_modules_are_refused(model, name):
    if name not in vars(GenerationConfig()):
        pytest.skip("not of this release")
    extra = {"assistant_model": model} if name == "assistant_early_exit" else {}
    with pytest.raises(ValueError):
        model.generate(random_prompt(5), mctp_mode=[1, 4], max_new_tokens=5, **{name: MODES_REFUSED[name]}, **extra)


@pytest.mark.parametrize("name", ["labels", "num_items_in_batch", "skip_logits", "output_mctp_logits", "output_audio"])
def test_arguments_that_no_generation_uses_are_refused(model, name):
    value = random_prompt(5) if name == "labels" else True
    for mctp_mode in ("vanilla", [1, 4]):
        with pytest.raises(ValueError, match=name):
            model.generate(random_prompt(5), mctp_mode=mctp_mode, max_new_tokens=5, **{name: value})


def test_a_prompt_in_pieces_or_as_embeddings_gives_the_same(model):
    prompt = random_prompt(23)
    for kwargs in ({"mctp_mode": [1, 4]}, {"mctp_mode": [2, 3], "mctp_verify": True}):
        expected = model.generate(prompt, max_new_tokens=20, **kwargs)
        pieces = model.generate(prompt, max_new_tokens=20, prefill_chunk_size=5, **kwargs)
        assert pieces.equal(expected)
        embeds = model.get_input_embeddings()(prompt)
        new_tokens = model.generate(inputs_embeds=embeds, max_new_tokens=20, **kwargs)
        assert new_tokens.equal(expected[:, 23:])


def test_a_generation_config_of_ones_own_keeps_the_mode_of_the_model(model):
    prompt = random_prompt(6)
    expected = model.generate(prompt, mctp_mode=[1, 4], max_new_tokens=20)
    model.generation_config.mctp_mode = [1, 4]
    try:
        assert model.generate(prompt, generation_config=GenerationConfig(max_new_tokens=20)).equal(expected)
    finally:
        del model.generation_config.mctp_mode


def test_a_head_of_speech_alone_needs_the_layout_of_training(model):
    with pytest.raises(ValueError, match="`mctp_speech_only_head` has no effect"):
        model.generate(random_prompt(5), mctp_mode=[1, 4], mctp_speech_only_head=True)


def test_settings_of_the_config_are_heeded():
    model, tokens = random_model(2), random_prompt(5)
    assert model(tokens).hidden_states is None and model(tokens).cache is not None
    model.config.output_hidden_states = True
    model.config.use_cache = False
    assert len(model(tokens).hidden_states) == 3 and model(tokens).cache is None


def test_a_prompt_beyond_the_positions_of_the_model_is_refused(model):
    assert model.generate(random_prompt(510), mctp_mode=[1, 4], max_new_tokens=2).shape == (1, 512)
    for mctp_mode in ("vanilla", [1, 4]):
        with pytest.raises(ValueError, match="prompt has 513 tokens, but the model has positions for 512"):
            model.generate(random_prompt(513), mctp_mode=mctp_mode, max_new_tokens=2)
        with pytest.raises(ValueError, match="prompt has 513 tokens, but the model has positions for 512"):
            embeddings = model.get_input_embeddings()(random_prompt(513))
            model.generate(inputs_embeds=embeddings, mctp_mode=mctp_mode, max_new_tokens=2)


def test_continuous_batching_runs_the_language_model_alone(model):
    prompt = random_prompt(10)
    config = GenerationConfig(max_new_tokens=8, eos_token_id=-1, do_sample=False)
    # By default it would take nearly all memory
    blocks = ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=64)
    (result,) = model.generate_batch([prompt[0].tolist()], config, continuous_batching_config=blocks).values()
    expected = model.generate(prompt, mctp_mode="vanilla", max_new_tokens=8)[0, 10:].tolist()
    assert result.error is None and result.generated_tokens == expected
    config.mctp_mode = [1, 4]
    with pytest.raises(ValueError, match="continuous batching of transformers runs no MCTP modules"):
        model.generate_batch([[1, 2, 3]], config)
    model.generation_config.mctp_mode = [1, 4]
    try:
        with pytest.raises(ValueError, match="continuous batching of transformers runs no MCTP modules"):
            model.generate_batch([[1, 2, 3]], GenerationConfig(max_new_tokens=3))
    finally:
        del model.generation_config.mctp_mode


# --- the pipeline ---

# Arguments of transformers' pipelines: those of ours that do what they do there, and those that are refused
PIPELINE_ARGUMENTS = {
    "self", "model", "processor", "task", "device", "kwargs", "inputs", "args", "num_workers", "batch_size",
}  # fmt: skip
PIPELINE_REFUSED = {
    "tokenizer", "feature_extractor", "image_processor", "video_processor", "binary_output",
}  # fmt: skip
# Our own, with arguments that give another answer than none at all
PIPELINE_EFFECTS = {
    "system_prompt": None,
    "sampling_rate": 32000,
    "return_transcript": True,
    "voice": 0.3 * np.sin(np.arange(16000) / 30),
}


def test_no_keyword_of_a_pipeline_is_unknown():
    names = {*inspect.signature(Pipeline.__init__).parameters, *inspect.signature(Pipeline.__call__).parameters}
    assert names <= {*PIPELINE_ARGUMENTS, *PIPELINE_REFUSED}
    assert PIPELINE_EFFECTS.keys() == set(PREPROCESS_KEYWORDS)


@pytest.mark.parametrize("name", sorted(PIPELINE_REFUSED))
def test_an_argument_of_a_pipeline_without_an_effect_is_refused(pipe, name):
    with pytest.raises(ValueError, match=f"`{name}` is refused"):
        VitaAudioPipeline(pipe.model, processor=pipe.processor, device="cpu", **{name: object()})


@pytest.mark.parametrize("name", PIPELINE_EFFECTS)
def test_a_keyword_of_the_pipeline_has_an_effect(pipe, name):
    audio = 0.3 * np.sin(np.arange(32000) / 20)
    given = {name: PIPELINE_EFFECTS[name]}
    expected = {key: str(value) for key, value in pipe(audio, **given).items()}
    assert expected != {key: str(value) for key, value in pipe(audio).items()}
    assert expected == {key: str(value) for key, value in pipe([audio], **given)[0].items()}
    at_init = VitaAudioPipeline(pipe.model, processor=pipe.processor, device="cpu", **given)
    assert expected == {key: str(value) for key, value in at_init(audio).items()}


@pytest.mark.parametrize(
    "name", ["return_timestamps", "chunk_length_s", "generation_mode", "processor_kwargs", "forward_params", "typo"]
)
def test_keywords_of_other_pipelines_are_refused(pipe, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        pipe("there is no such file.wav", **{name: 1})
    with pytest.raises(ValueError, match=f"`{name}`"):
        pipe.stream("there is no such file.wav", **{name: 1})
    with pytest.raises(ValueError, match=f"`{name}`"):
        VitaAudioPipeline(pipe.model, processor=pipe.processor, device="cpu", **{name: 1})


def test_keywords_of_generate_reach_it_in_every_form(pipe):
    audio = 0.3 * np.sin(np.arange(16000) / 20)
    expected = pipe(audio, max_new_tokens=12, mctp_mode="vanilla")
    assert expected["text"] != pipe(audio)["text"]
    given = VitaAudioPipeline(
        pipe.model, processor=pipe.processor, device="cpu", max_new_tokens=12, mctp_mode="vanilla"
    )
    config = GenerationConfig.from_dict({**pipe.model.generation_config.to_dict(), "max_new_tokens": 12})
    answers = [
        pipe(audio, generate_kwargs={"max_new_tokens": 12, "mctp_mode": "vanilla"}),
        pipe(audio, generation_config=config, mctp_mode="vanilla"),
        given(audio),
    ]
    assert [answer["text"] for answer in answers] == 3 * [expected["text"]]
    assert config.return_dict_in_generate is not True
    with pytest.raises(ValueError, match="`max_new_tokens` is given twice"):
        pipe(audio, max_new_tokens=3, generate_kwargs={"max_new_tokens": 4})


def test_what_would_be_thrown_away_is_refused(pipe):
    audio = 0.3 * np.sin(np.arange(16000) / 20)
    for kwargs in (
        {"return_dict_in_generate": True},
        {"output_scores": True},
        {"num_return_sequences": 2},
        {"generation_config": GenerationConfig(num_return_sequences=2, do_sample=True)},
    ):
        with pytest.raises(ValueError, match="one answer for each input, and nothing else"):
            pipe(audio, **kwargs)
    with pytest.raises(ValueError, match="`system_prompt` is given, but the conversation has a turn of the system"):
        pipe([{"role": "system", "content": "y"}, *CONVERSATION[:1]], system_prompt="x")
    with pytest.raises(ValueError, match="`system_prompt` must be a text or None, got 5"):
        pipe(audio, system_prompt=5)


def test_the_rate_of_arrays_is_heard_by_the_pipeline(pipe):
    audio = 0.3 * np.sin(np.arange(32000) / 20)
    expected = pipe({"array": audio, "sampling_rate": 32000})["text"]
    assert pipe(audio, sampling_rate=32000)["text"] == expected != pipe(audio)["text"]


# --- training ---

# Settings of `SFTConfig` and of what it inherits that do here what they do there
TRAINER_SETTINGS = {field.name for field in dataclasses.fields(TrainingArguments)}
TRL_SETTINGS = {
    "trust_remote_code", "dataset_num_proc", "eos_token", "max_length", "shuffle_dataset", "packing", "padding_free",
    "pad_to_multiple_of", "eval_packing", "activation_offloading", "pad_token",
}  # fmt: skip

REFUSED_VALUES = {
    "label_smoothing_factor": 0.1, "loss_type": "dft", "router_aux_loss_coef": 0.01,
    "use_cache": True, "model_init_kwargs": {"dtype": "float16"}, "chat_template_path": "x.jinja",
    "dataset_text_field": "content", "dataset_kwargs": {"skip_prepare_dataset": True}, "completion_only_loss": True,
    "assistant_only_loss": True, "truncation_mode": "keep_end", "packing_strategy": "wrapped",
    "do_predict": True, "liger_kernel_config": {"rope": True},
    "do_eval": True,
}  # fmt: skip


def config(tmp_path, **kwargs):
    defaults = {"use_cpu": True, "bf16": False, "max_steps": 1, "report_to": "none", "save_strategy": "no", "stage": 4}
    return VitaAudioSFTConfig(output_dir=str(tmp_path), **{**defaults, "num_mctp_modules": 2, **kwargs})


def test_no_setting_is_unknown():
    fields = {field.name for field in dataclasses.fields(SFTConfig)}
    assert fields - TRAINER_SETTINGS <= {*TRL_SETTINGS, *REFUSED_SETTINGS}
    assert {*REFUSED_SETTINGS, "do_eval", "liger_kernel_config"} == REFUSED_VALUES.keys()
    assert not REFUSED_SETTINGS.keys() & TRL_SETTINGS


@pytest.mark.parametrize("name", REFUSED_VALUES)
def test_a_setting_without_an_effect_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"`{name}"):
        config(tmp_path, **{name: REFUSED_VALUES[name]})


def rows():
    ids = list(range(5, 30))
    return Dataset.from_list(4 * [{"input_ids": ids, "labels": [-100, *ids[1:]]}])


def trainer(tmp_path, processor, settings=None, **kwargs):
    model = tiny_model(processor)
    kwargs = {"train_dataset": rows(), "processing_class": processor, **kwargs}
    return VitaAudioSFTTrainer(
        kwargs.pop("model", model), config(tmp_path, num_mctp_modules=10, **(settings or {})), **kwargs
    )


@pytest.mark.parametrize("name", REFUSED_ARGUMENTS)
def test_an_argument_of_the_trainer_without_an_effect_is_refused(tmp_path, processor, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        trainer(tmp_path, processor, **{name: object()})


def test_what_would_have_no_effect_in_this_place_is_refused(tmp_path, processor):
    with pytest.raises(ValueError, match="`compute_metrics` has no effect"):
        trainer(tmp_path, processor, compute_metrics=print)
    with pytest.raises(ValueError, match="`padding_free=True` has an effect with flash attention alone"):
        trainer(tmp_path, processor, {"padding_free": True, "packing": False, "max_length": None})
    with pytest.raises(ValueError, match="`interleave_pattern` is .1, 3., but the processor"):
        trainer(tmp_path, processor, {"interleave_pattern": [1, 3]})
    trained = tiny_model(processor)
    trained.config.interleave_pattern = [1, 3]
    with pytest.raises(ValueError, match="trained with the `interleave_pattern` .1, 3., but the processor"):
        trainer(tmp_path, processor, model=trained)
    with pytest.raises(ValueError, match="`eval_dataset` must have the columns"):
        trainer(tmp_path, processor, eval_dataset=Dataset.from_list([{"text": "a"}]))
    with pytest.raises(TypeError, match="must be a VitaAudioForConditionalGeneration"):
        trainer(tmp_path, processor, model=torch.nn.Linear(2, 2))


def test_what_trl_would_cut_is_refused(tmp_path, processor):
    for packing in (True, False):
        for name in ("train_dataset", "eval_dataset"):
            with pytest.raises(ValueError, match=f"`{name}` has a row of 25 tokens, more than `max_length` = 24"):
                trainer(
                    tmp_path,
                    processor,
                    {"max_length": 24, "packing": packing},
                    **{"train_dataset": short_rows(), name: rows()},
                )


def short_rows():
    return Dataset.from_list(2 * [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}])


def test_an_optimizer_that_is_there_already_has_its_rates(tmp_path, processor):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match="`mctp_learning_rate_multiplier` has no effect"):
        trainer(tmp_path, processor, {"mctp_learning_rate_multiplier": 10.0}, optimizers=(optimizer, None))


def test_rows_are_padded_to_the_multiple_asked_for(tmp_path, processor):
    batch = next(iter(trainer(tmp_path, processor, {"pad_to_multiple_of": 64}).get_train_dataloader()))
    assert {tensor.shape[1] for tensor in batch.values()} == {128}  # of four times 25


def test_noise_on_the_embeddings_is_trained_with(tmp_path, processor):
    losses = []
    for alpha in (None, 50.0):
        run = trainer(tmp_path, processor, {"neftune_noise_alpha": alpha, "logging_steps": 1})
        run.train()
        losses.append(run.state.log_history[0]["loss"])
    assert losses[0] != losses[1]


def test_the_stock_trainers_train_the_modules_or_refuse(tmp_path, processor):
    model = tiny_model(processor)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arguments = {"max_steps": 1, "use_cpu": True, "report_to": "none", "save_strategy": "no", "learning_rate": 1e-2}
    Trainer(model, TrainingArguments(str(tmp_path), **arguments), train_dataset=rows()).train()
    assert all(not tensor.equal(before[name]) for name, tensor in model.state_dict().items() if "mctp_modules" in name)

    arguments |= {"bf16": False, "gradient_checkpointing": False}
    stock = SFTTrainer(
        model, SFTConfig(str(tmp_path), **arguments), train_dataset=rows(), processing_class=processor.tokenizer
    )
    with pytest.raises(ValueError, match="the MCTP modules would not be trained"):
        stock.train()
    model.model.mctp_modules.requires_grad_(False)
    stock.train()

    smoothed = TrainingArguments(str(tmp_path), **(arguments | {"label_smoothing_factor": 0.1}))
    with pytest.raises(ValueError, match="label smoothing"):
        Trainer(model, smoothed, train_dataset=rows()).train()


def test_the_stock_trainer_of_trl_learns_what_the_assistant_wrote(tmp_path, processor):
    model = tiny_model(processor)
    model.model.mctp_modules.requires_grad_(False)
    arguments = SFTConfig(
        str(tmp_path),
        max_steps=1,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        assistant_only_loss=True,
    )
    data = Dataset.from_list(2 * [{"messages": CONVERSATION}])
    stock = SFTTrainer(model, arguments, train_dataset=data, processing_class=processor)
    expected = processor.build_training_example(CONVERSATION)
    assert stock.train_dataset[0]["input_ids"] == expected["input_ids"]
    assert stock.train_dataset[0]["labels"] == expected["labels"]
    stock.train()
