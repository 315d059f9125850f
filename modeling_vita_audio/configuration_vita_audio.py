# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""VITA-Audio configuration: a decoder-only language model, its MCTP modules, and its speech vocabulary."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .compatibility_vita_audio import CACHE, attach_to_package
from .interleaving_vita_audio import check_interleave_pattern
from .saving_vita_audio import check_storage_dtype, saved_whole


# Qwen2.5-7B with a vocabulary of 168072 tokens, as in the released checkpoints
DEFAULT_TEXT_CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 168072,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    # `<|im_end|>`, which ends a turn, and `<|endoftext|>`
    "eos_token_id": [151645, 151643],
    "pad_token_id": 151643,
}


# Far more than any model has. A config with more is a mistake, and is refused before it fills the memory
LARGEST_SIZES = {
    "vocab_size": 2**24,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
}
# The released models have 10
LARGEST_NUM_MCTP_MODULES = 256

# transformers' name of SenseVoice's encoder
AUDIO_MODEL_TYPE = "fun_asr_nano_encoder"

# Keys that earlier versions saved and that are ignored. The weights of the losses are arguments of `forward` now,
# because training alone needs them
FORMER_KEYS = ("lm_loss_weight", "mctp_loss_weight", "mctp_targets_cross_samples")

MODEL_CLASS = "modeling_vita_audio.VitaAudioForConditionalGeneration"


@strict
class VitaAudioConfig(PreTrainedConfig):
    r"""
    Configuration of a [`VitaAudioForConditionalGeneration`]. The defaults are those of the released 7B checkpoints
    (`VITA-MLLM/VITA-Audio-Boost` and `-Balance`, arXiv 2505.03739).

    Args:
        text_config (`dict` or `PreTrainedConfig`, *optional*, defaults to Qwen2.5-7B with 168072 tokens):
            The language model: any decoder-only model of transformers that is built like Qwen2, such as Qwen3 or
            Llama. Its `vocab_size` includes the speech vocabulary.
        audio_config (`dict` or `FunAsrNanoEncoderConfig`, *optional*):
            The encoder of continuous speech input (VITA-Audio-Plus): SenseVoice's. None where speech enters as codes.
        num_mctp_modules (`int`, *optional*, defaults to 10):
            Number of MCTP modules, which is the number of tokens that they can write after one forward of the language
            model. With 0 the model is a plain language model, as in training stage 1.
        interleave_pattern (`list[int]`, *optional*):
            The layout of the answers that the model was trained with: text and speech tokens of each chunk, see
            [`interleave`]. None if it is not known, as in folders that were written before the config said it.
        audio_token_id (`int`, *optional*, defaults to 151684):
            Id of `<|audio|>`, which stands for one audio in a text.
        begin_audio_token_id (`int`, *optional*, defaults to 151674):
            Id of `<|begin_of_audio|>`.
        end_audio_token_id (`int`, *optional*, defaults to 151675):
            Id of `<|end_of_audio|>`.
        context_audio_token_id (`int`, *optional*):
            Id of `<|context_of_audio|>`, which stands for one row of continuous speech input. Needed with
            `audio_config`.
        speech_token_offset (`int`, *optional*, defaults to 151685):
            Id of `<|audio_0|>`, the first speech token.
        num_speech_tokens (`int`, *optional*, defaults to 16384):
            Number of speech tokens, the size of the speech codec's codebook. Their ids are `speech_token_offset` to
            `speech_token_offset + num_speech_tokens - 1`.
        tie_word_embeddings (`bool`, *optional*, defaults to `False`):
            Whether the language model's head and input embeddings are one matrix. Also set by `text_config`.
        storage_dtype (`str`, *optional*):
            Type that weights are saved in where that loses nothing, for a checkpoint that is stored in `"float16"` and
            computed in `dtype`, such as float32. By default weights are saved in the type that they have in memory.

    Raises:
        ValueError: if sizes do not agree, for example if the speech tokens are not all in the vocabulary.
    """

    save_pretrained = saved_whole(PreTrainedConfig.save_pretrained)
    # The entries of a Hub folder's `config.json` that name its code, see `add_code`
    remote_code = {
        "config.json": {
            "auto_map": {
                "AutoConfig": "configuration_vita_audio.VitaAudioConfig",
                "AutoModel": MODEL_CLASS,
                "AutoModelForCausalLM": MODEL_CLASS,
                "AutoModelForMultimodalLM": MODEL_CLASS,
                "AutoModelForTextToWaveform": MODEL_CLASS,
            },
            "custom_pipelines": {
                "audio-to-audio": {
                    "impl": "pipeline_vita_audio.VitaAudioPipeline",
                    "pt": ["AutoModel"],
                    "type": "multimodal",
                }
            },
        }
    }

    model_type = "vita_audio"
    # `Trainer` must not gather these as predictions when it evaluates
    keys_to_ignore_at_inference = [CACHE, "lm_loss", "mctp_losses"]
    sub_configs = {"text_config": AutoConfig, "audio_config": AutoConfig}

    text_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    num_mctp_modules: int = 10
    interleave_pattern: list[int] | None = None
    audio_token_id: int = 151684
    begin_audio_token_id: int = 151674
    end_audio_token_id: int = 151675
    context_audio_token_id: int | None = None
    speech_token_offset: int = 151685
    num_speech_tokens: int = 16384
    tie_word_embeddings: bool = False
    storage_dtype: str | None = None

    def __post_init__(self, **kwargs):
        if not isinstance(self.text_config, PreTrainedConfig):
            text_config = {"model_type": "qwen2", **(self.text_config or DEFAULT_TEXT_CONFIG)}
            self.text_config = AutoConfig.for_model(**text_config)
        if isinstance(self.audio_config, dict):
            self.audio_config = AutoConfig.for_model(**{"model_type": AUDIO_MODEL_TYPE, **self.audio_config})
        super().__post_init__(**{key: value for key, value in kwargs.items() if key not in FORMER_KEYS})
        # The language model's own config may say it, as those of small Qwen2.5 models do
        self.tie_word_embeddings = self.tie_word_embeddings or getattr(self.text_config, "tie_word_embeddings", False)
        # `@strict` runs these validators, too, but wraps their `ValueError` in an exception of its own; this comes
        # first
        self.validate_language_model()
        self.validate_modules()
        self.validate_speech_vocabulary()
        self.validate_speech_input()

    def validate_language_model(self):
        config = self.text_config
        if getattr(config, "is_encoder_decoder", False):
            raise ValueError(
                f"`text_config` must be a decoder-only language model, got the encoder-decoder '{config.model_type}'."
            )
        # So the configs of Gemma, Granite and Cohere call it
        for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
            if getattr(config, name, None) not in (None, 1):
                raise ValueError(
                    f"`text_config` has `{name}` = {getattr(config, name)}: a language model that changes the logits "
                    "of its head cannot carry MCTP modules, which share the head."
                )
        # Architectures differ in which of these sizes their config has, so a size that is not there is passed over
        for name, largest in LARGEST_SIZES.items():
            if (size := getattr(config, name, None)) is not None and size < 1:
                raise ValueError(f"`text_config.{name}` must be 1 or more, got {size}.")
            if size is not None and size > largest:
                raise ValueError(f"`text_config.{name}` must be {largest} at most, got {size}.")
        num_heads, num_kv_heads = (
            getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads")
        )
        if None not in (num_heads, num_kv_heads) and num_heads % num_kv_heads != 0:
            raise ValueError(
                f"`text_config.num_attention_heads` is {num_heads}, which is no multiple of `num_key_value_heads`, "
                f"{num_kv_heads}."
            )
        # With a `head_dim` of its own, as Qwen3 has, the heads need not divide the hidden size
        is_head_given = num_heads is None or getattr(config, "head_dim", None) is not None
        if not is_head_given and config.hidden_size % num_heads != 0:
            raise ValueError(
                f"`text_config.hidden_size` is {config.hidden_size}, which is no multiple of `num_attention_heads`, "
                f"{num_heads}."
            )
        # `nn.Embedding` would fail here, too, but by an assertion that does not name the key
        if (pad_token_id := getattr(config, "pad_token_id", None)) is not None and pad_token_id >= config.vocab_size:
            raise ValueError(
                f"`text_config.pad_token_id` is {pad_token_id}, but `text_config.vocab_size` is {config.vocab_size}."
            )

    def validate_modules(self):
        if self.num_mctp_modules < 0:
            raise ValueError(f"`num_mctp_modules` must be 0 or more, got {self.num_mctp_modules}.")
        if self.num_mctp_modules > LARGEST_NUM_MCTP_MODULES:
            raise ValueError(
                f"`num_mctp_modules` must be {LARGEST_NUM_MCTP_MODULES} at most, got {self.num_mctp_modules}."
            )
        if self.interleave_pattern is not None:
            check_interleave_pattern(self.interleave_pattern)
        check_storage_dtype(self)

    def validate_speech_vocabulary(self):
        vocab_size = self.text_config.vocab_size
        speech_end = self.speech_token_offset + self.num_speech_tokens
        if self.num_speech_tokens < 1:
            raise ValueError(f"`num_speech_tokens` must be 1 or more, got {self.num_speech_tokens}.")
        if not 0 <= self.speech_token_offset <= speech_end <= vocab_size:
            raise ValueError(
                f"The speech tokens have the ids {self.speech_token_offset} to {speech_end - 1} "
                f"(`speech_token_offset`, `num_speech_tokens`), but `text_config.vocab_size` is {vocab_size}."
            )
        names = ["audio_token_id", "begin_audio_token_id", "end_audio_token_id"]
        if self.context_audio_token_id is not None:
            names.append("context_audio_token_id")
        for name in names:
            token_id = getattr(self, name)
            if not 0 <= token_id < vocab_size:
                raise ValueError(f"`{name}` is {token_id}, but `text_config.vocab_size` is {vocab_size}.")
            if self.speech_token_offset <= token_id < speech_end:
                raise ValueError(
                    f"`{name}` is {token_id}, which is one of the speech tokens {self.speech_token_offset} to "
                    f"{speech_end - 1}."
                )
        if len({getattr(self, name) for name in names}) < len(names):
            raise ValueError(f"{', '.join(f'`{name}`' for name in names)} must differ from one another.")

    def validate_speech_input(self):
        if self.audio_config is None:
            return
        if self.context_audio_token_id is None:
            raise ValueError("`audio_config` needs `context_audio_token_id`, the token that its rows stand at.")
        config = self.audio_config
        if config.model_type != AUDIO_MODEL_TYPE:
            raise ValueError(f"`audio_config.model_type` must be '{AUDIO_MODEL_TYPE}', got '{config.model_type}'.")
        for name in (
            "hidden_size",
            "num_attention_heads",
            "intermediate_size",
            "fsmn_kernel_size",
            "num_hidden_layers",
        ):
            largest = LARGEST_SIZES.get(name, LARGEST_SIZES["hidden_size"])
            if not 1 <= getattr(config, name) <= largest:
                raise ValueError(f"`audio_config.{name}` must be 1 to {largest}, got {getattr(config, name)}.")
        # Their product is the width of the encoder's input
        if not 1 <= config.num_mel_bins * config.num_stacked_frames <= LARGEST_SIZES["hidden_size"]:
            raise ValueError(
                "`audio_config.num_mel_bins` and `num_stacked_frames` must be 1 or more, and no larger than those of "
                "any model."
            )
        if config.hidden_size % config.num_attention_heads != 0:
            raise ValueError(
                f"`audio_config.hidden_size` is {config.hidden_size}, which is no multiple of `num_attention_heads`, "
                f"{config.num_attention_heads}."
            )
        if not 0 <= config.num_timestamp_prediction_layers < config.num_hidden_layers:
            raise ValueError(
                "`audio_config.num_timestamp_prediction_layers` is "
                f"{config.num_timestamp_prediction_layers}, but there are {config.num_hidden_layers} layers in all."
            )


attach_to_package(__name__)

__all__ = ["VitaAudioConfig"]
