# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""VITA-Audio model: a language model over text and speech tokens, and MCTP modules that each write one more token."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel, CompileConfig, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, get_layer_types_and_kwargs
from transformers.masking_utils import LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING, find_packed_sequence_indices
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .adapters_vita_audio import find_adapter, load_adapted
from .attention_vita_audio import CACHED_SDPA
from .cache_vita_audio import VitaAudioCache
from .compatibility_vita_audio import (
    CACHE,
    attach_to_package,
    gives_new_cache_name,
    slice_logits_to_keep,
    takes_old_cache_name,
)
from .configuration_vita_audio import VitaAudioConfig
from .generation_vita_audio import VitaAudioGenerationMixin
from .head_vita_audio import scores_of_rows
from .loss_vita_audio import VitaAudioLossMixin, samples_of_columns
from .modeling_vita_audio_encoder import VitaAudioEncoder, VitaAudioMultiModalProjector, VitaAudioSpeechInput
from .quantization_vita_audio import as_quantization_config, finish_quantization, quantizing_on_cpu
from .registration_vita_audio import PipelineOfFolder  # noqa: F401  loading a folder's model registers its pipeline
from .saving_vita_audio import HUB_KWARGS, check_weights, describe_misfit, keep_code, saved_whole


# What reads checkpoints of other layouts, by their model types. `released_layout` fills it where this package is
# installed
READERS: dict[str, Any] = {}


@gives_new_cache_name
@dataclass
class VitaAudioModelOutputWithPast(BaseModelOutputWithPast):
    """
    The [`~modeling_outputs.BaseModelOutputWithPast`] of the language model, with one field more. `last_hidden_state`
    is normalised; for `cache` see [`VitaAudioForConditionalGeneration.forward`].

    Args:
        mctp_hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned when `output_mctp_hidden_states=True`):
            One tensor of shape `(batch_size, sequence_length, hidden_size)` per MCTP module. Column i of module k is
            computed from the tokens up to i + k. Where the sample ends before token i + k, the column has no meaning.
    """

    mctp_hidden_states: tuple[torch.FloatTensor, ...] | None = None


@gives_new_cache_name
@dataclass
class VitaAudioOutputWithPast(CausalLMOutputWithPast):
    """
    The [`~modeling_outputs.CausalLMOutputWithPast`] of the language model, with three fields more. `loss`, a scalar,
    is `lm_loss_weight * lm_loss + mctp_loss_weight * mctp_losses.mean()`, where a part that is not computed counts 0;
    `logits`, `(batch_size, sequence_length, vocab_size)`, are None with `skip_logits`; for `cache` see
    [`VitaAudioForConditionalGeneration.forward`].

    Args:
        lm_loss (`torch.FloatTensor` of shape `()`, *optional*):
            Cross-entropy of the language model in nats. None where `lm_loss_weight` is 0.
        mctp_losses (`torch.FloatTensor` of shape `(num_mctp_modules,)`, *optional*):
            Cross-entropy of each MCTP module in nats. None where `mctp_loss_weight` is 0 or there are no modules.
        mctp_logits (`tuple(torch.FloatTensor)`, *optional*, returned when `output_mctp_logits=True`):
            One tensor of shape `(batch_size, sequence_length - k, vocab_size)` for each module k = 1, 2, ...; its
            column i has the scores for token i + k + 1. `logits_to_keep` applies to these logits, too.
    """

    lm_loss: torch.FloatTensor | None = None
    mctp_losses: torch.FloatTensor | None = None
    mctp_logits: tuple[torch.FloatTensor, ...] | None = None


class VitaAudioMCTPModule(nn.Module):
    """
    One Multiple Cross-modal Token Prediction module. It joins a hidden state with the embedding of a later token and
    passes both through one layer, which is of the same class as those of the language model.

    Args:
        language_model (`PreTrainedModel`): the model whose classes and configuration the layer and the norms have.
    """

    def __init__(self, language_model: PreTrainedModel):
        super().__init__()
        config = language_model.config
        # The classes that the model itself has, so that any architecture built like Qwen2 fits
        norm_class, layer_class = type(language_model.norm), type(language_model.layers[-1])
        self.embed_norm = norm_class(config.hidden_size, eps=config.rms_norm_eps)
        self.hidden_norm = norm_class(config.hidden_size, eps=config.rms_norm_eps)
        self.proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        # The layer gets the last layer's type (such as sliding attention) from that layer's index. In the cache of its
        # module it is the only layer, hence index 0 below
        self.layer = layer_class(config, layer_idx=config.num_hidden_layers - 1)
        for module in self.layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = 0

    def forward(
        self, inputs_embeds: torch.Tensor, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """
        Args:
            inputs_embeds (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`):
                Column i is the embedding of token i + k.
            hidden_states (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`):
                Hidden states of the language model for module 1, of module k - 1 for module k.
            kwargs: arguments of the layer, such as `position_embeddings` and `attention_mask`.

        Returns:
            `torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`: hidden states, not yet normalised.
        """
        # The embedding comes first, because the released weights of `proj` have it so
        hidden_states = torch.cat([self.embed_norm(inputs_embeds), self.hidden_norm(hidden_states)], dim=-1)
        return self.layer(self.proj(hidden_states), **kwargs)


class VitaAudioPreTrainedModel(PreTrainedModel):
    save_pretrained = saved_whole(PreTrainedModel.save_pretrained)
    remote_code = VitaAudioConfig.remote_code

    config: VitaAudioConfig
    config_class = VitaAudioConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    # transformers adds the names that the class of the language model has
    _no_split_modules = ["VitaAudioMCTPModule", "FunAsrNanoEncoderLayer"]
    # accelerate would otherwise move the cache to the device of every layer. Our own methods call it `cache` in all
    # releases, the language model's as the release has it
    _skip_keys_device_placement = ["cache", CACHE]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _supports_attention_backend = True


class VitaAudioModel(VitaAudioSpeechInput, VitaAudioPreTrainedModel):
    """
    The language model and its MCTP modules, without the head.

    Raises:
        ValueError: if the language model is not built like Qwen2: without `embed_tokens`, `layers`, `norm` or
            `rotary_emb`, or with rotary embeddings that differ between layers.
    """

    def __init__(self, config: VitaAudioConfig):
        super().__init__(config)
        self.language_model = AutoModel.from_config(config.text_config)
        if self.language_model.config._attn_implementation == "sdpa":
            self.language_model.config._attn_implementation = CACHED_SDPA
        cause, parts = None, ("embed_tokens", "layers", "norm", "rotary_emb")
        if missing := [name for name in parts if not hasattr(self.language_model, name)]:
            cause = f"its model has no {', '.join(missing)}"
        elif "layer_type" in inspect.signature(self.language_model.rotary_emb.forward).parameters:
            cause = "its layers have rotary embeddings of several kinds"
        if cause is not None:
            raise ValueError(
                f"`text_config.model_type` '{config.text_config.model_type}' cannot carry MCTP modules: {cause}. "
                "Models built like Qwen2, Qwen3 or Llama can."
            )
        if config.audio_config is not None:
            self.audio_tower = VitaAudioEncoder(config.audio_config)
            self.multi_modal_projector = VitaAudioMultiModalProjector(
                config.audio_config, config.text_config.hidden_size
            )
        # The modules' layers are made with the last layer's index, so they need that layer's mask
        self.mctp_layer_type = get_layer_types_and_kwargs(self.language_model.config)[0][-1]
        self.mctp_modules = nn.ModuleList(
            [VitaAudioMCTPModule(self.language_model) for _ in range(config.num_mctp_modules)]
        )
        self.post_init()
        # Tensor parallelism shards the modules' layers as the language model's; `post_init` has its plan alone
        self._tp_plan |= {
            f"mctp_modules.*.layer.{name.removeprefix('layers.*.')}": style
            for name, style in (self.language_model.tp_plan or {}).items()
            if name.startswith("layers.*.")
        }

    def _init_weights(self, module: nn.Module):
        # The modules' layers may have parts that only the language model's class can initialise, such as routers
        self.language_model._init_weights(module)

    def _run_module(
        self,
        module: VitaAudioMCTPModule,
        inputs_embeds: torch.Tensor,
        hidden_states: torch.Tensor,
        position_ids: torch.LongTensor,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        Runs module k and the final norm. Column i of `inputs_embeds` is the embedding of token i + k, and column i of
        `position_ids` the position of that token.
        """
        hidden_states = module(
            inputs_embeds,
            hidden_states,
            position_ids=position_ids,
            position_embeddings=self.language_model.rotary_emb(hidden_states, position_ids),
            use_cache=cache is not None,
            **{CACHE: cache},
            **kwargs,
        )
        return self.language_model.norm(hidden_states)

    def __getstate__(self) -> dict:
        # A copy needs compiled calls of its own: these run this object's weights
        return {name: value for name, value in super().__getstate__().items() if name != "_last_compiled_calls"}

    def _compiled_calls(self, compile_config: CompileConfig) -> tuple[Callable, Callable]:
        """
        Compiles the language model and `_run_module`, once as long as the configuration stays the same, as
        [`PreTrainedModel.get_compiled_call`] does.
        """
        last_config, *calls = getattr(self, "_last_compiled_calls", (None,))
        if last_config != compile_config:
            compiled = partial(torch.compile, **compile_config.to_dict())
            calls = compiled(self.language_model.__call__), compiled(self._run_module)
            self._last_compiled_calls = (compile_config, *calls)
        return tuple(calls)

    @takes_old_cache_name
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        input_features: torch.FloatTensor | None = None,
        feature_attention_mask: torch.LongTensor | None = None,
        output_mctp_hidden_states: bool | None = None,
        mctp_detach: bool | None = None,
        compile_config: CompileConfig | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VitaAudioModelOutputWithPast:
        """
        Takes the arguments of [`VitaAudioForConditionalGeneration.forward`] up to `use_cache`, and two more.

        Args:
            output_mctp_hidden_states (`bool`, *optional*, defaults to `False`):
                Whether to run the MCTP modules. They need whole sequences, so `cache` must be empty. In training
                without a cache (`use_cache=False`), the argument must be given where the modules require gradients: a
                trainer that takes the language model's hidden states alone would not train them.
            compile_config (`CompileConfig`, *optional*):
                How to compile the language model's forward; by default it is not compiled. Meant for a static cache.
                This forward is not compiled as a whole, because the states it keeps for the modules grow with each
                call.

        Raises:
            ValueError: if not exactly one of `input_ids` and `inputs_embeds` is given, if the modules are to run with
                a filled cache, or if a trainer leaves modules untrained that require gradients.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.language_model.embed_tokens(input_ids)
        # MCTP modules embed `<|context_of_audio|>` as any token; they hear by the hidden states alone
        mctp_inputs_embeds = inputs_embeds
        if input_features is not None:
            inputs_embeds = self._with_audio(input_ids, inputs_embeds, input_features, feature_attention_mask)
        elif self.training and torch.is_grad_enabled() and self._trains_projector():
            inputs_embeds = self._dummy_audio(inputs_embeds)

        # Trainers of TRL that have a loss of their own call the model like this
        if output_mctp_hidden_states is None and use_cache is False and self.training and torch.is_grad_enabled():
            if any(parameter.requires_grad for parameter in self.mctp_modules.parameters()):
                raise ValueError(
                    "This trainer computes its loss from the language model alone, so the MCTP modules would not be "
                    "trained, though they require gradients. `training.trainer.VitaAudioSFTTrainer` and "
                    "`transformers.Trainer` train them. To leave them as they are, say so: "
                    "`model.model.mctp_modules.requires_grad_(False)`."
                )

        # The paged caches of transformers' continuous batching have no length, but say all positions
        num_read = 0
        if cache is not None and (position_ids is None or output_mctp_hidden_states):
            num_read = cache.get_seq_length()
        if output_mctp_hidden_states and num_read > 0:
            raise ValueError("The hidden states and losses of MCTP modules need whole sequences, not a filled cache.")
        if use_cache is None:
            # Either config can switch the cache off; ours has the key only where somebody has set it
            use_cache = self.config.text_config.use_cache and getattr(self.config, "use_cache", True)
        # Our config may ask for them, and the language model reads only its own
        for name in ("output_hidden_states", "output_attentions"):
            if getattr(self.config, name, False):
                kwargs.setdefault(name, True)
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + num_read
            position_ids = position_ids.unsqueeze(0)
        elif use_cache and attention_mask is None and cache is None:
            # With a cache, transformers does not look for packed samples, so attention would cross from one to the
            # next
            use_cache = find_packed_sequence_indices(position_ids) is None
        if use_cache and cache is None and len(self.mctp_modules) > 0:
            cache = VitaAudioCache(self.config)

        language_model = self.language_model
        if compile_config is not None:
            language_model, _ = self._compiled_calls(compile_config)
        outputs = language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{CACHE: cache},
            **kwargs,
        )
        # Any other cache serves the language model alone
        if isinstance(cache, VitaAudioCache):
            cache.append_language_model(mctp_inputs_embeds, position_ids, outputs.last_hidden_state)

        mctp_hidden_states = None
        if output_mctp_hidden_states:
            # The language model's mask serves all modules. A column i is useless to module k where token i + k is in
            # the padding or in the next sample; then so are all later columns of that sample, and as attention is
            # causal, no useful column attends to a useless one
            causal_mask = LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING[self.mctp_layer_type](
                config=self.language_model.config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                # Without a cache, because the modules run over whole sequences here
                **{CACHE: None},
            )
            mctp_hidden_states = ()
            hidden_states = outputs.last_hidden_state
            # By default VITA-Audio-Plus cuts the modules' gradients off, as its original does in all stages
            if self.config.audio_config is not None if mctp_detach is None else mctp_detach:
                hidden_states, mctp_inputs_embeds = hidden_states.detach(), mctp_inputs_embeds.detach()
            for module_idx, module in enumerate(self.mctp_modules, start=1):
                hidden_states = self._run_module(
                    module,
                    # `roll` brings the first tokens to the end, where no column has a target
                    mctp_inputs_embeds.roll(-module_idx, dims=1),
                    hidden_states,
                    position_ids + module_idx,
                    attention_mask=causal_mask,
                    **kwargs,
                )
                mctp_hidden_states += (hidden_states,)

        return VitaAudioModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            mctp_hidden_states=mctp_hidden_states,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: outputs.get(CACHE)},
        )

    @takes_old_cache_name
    def forward_mctp(
        self,
        input_ids: torch.LongTensor,
        cache: VitaAudioCache,
        attention_mask: torch.Tensor | None = None,
        compile_config: CompileConfig | None = None,
    ) -> torch.Tensor:
        """
        Lets MCTP module k read, in one call, the n columns that it has not read yet. Takes the arguments of
        [`VitaAudioForConditionalGeneration.forward_mctp`].

        Returns:
            `torch.Tensor` of shape `(batch_size, n, hidden_size)`: the module's normalised hidden states.

        Raises:
            ValueError: if there is no module for so many tokens.
        """
        module_idx = input_ids.shape[1]
        if not 1 <= module_idx <= len(self.mctp_modules):
            raise ValueError(
                f"{module_idx} tokens are for MCTP module {module_idx}; there are {len(self.mctp_modules)}."
            )
        mctp_cache = cache.mctp_caches[module_idx - 1]
        hidden_states, position_ids, inputs_embeds = cache.unread(module_idx)
        new_embeds = self.language_model.embed_tokens(input_ids)
        # A module with fewer unread columns than new tokens has combined the first of these before
        inputs_embeds = torch.cat([inputs_embeds, new_embeds], dim=1)[:, -hidden_states.shape[1] :]
        if attention_mask is not None:
            # A mask for the next forward also covers tokens that the language model has not read
            attention_mask = attention_mask[:, : cache.num_columns_read(0)]
        causal_mask = LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING[self.mctp_layer_type](
            config=self.language_model.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE: mctp_cache},
        )
        run_module = self._run_module
        # A static cache allocates its tensors in its first call, and they must be allocated outside of compiled code
        if compile_config is not None and mctp_cache.layers[0].is_initialized:
            _, run_module = self._compiled_calls(compile_config)
        hidden_states = run_module(
            self.mctp_modules[module_idx - 1],
            inputs_embeds,
            hidden_states,
            position_ids + module_idx,
            cache=mctp_cache,
            attention_mask=causal_mask,
        )
        cache.append_module(module_idx, hidden_states)
        return hidden_states


class VitaAudioForConditionalGeneration(VitaAudioLossMixin, VitaAudioPreTrainedModel, VitaAudioGenerationMixin):
    """The language model, its MCTP modules and the head that all of them share."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    # The revision that `from_pretrained` was given, because a pipeline loads the processor from the same one
    revision: str | None = None

    def __init__(self, config: VitaAudioConfig):
        super().__init__(config)
        self.model = VitaAudioModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.gradient_checkpointing = False
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args, output_loading_info: bool = False, **kwargs
    ):
        """
        Loads as [`PreTrainedModel.from_pretrained`], but strictly. Where this package is installed, the checkpoints of
        the original authors, such as `VITA-MLLM/VITA-Audio-Boost`, are taken as they are. Of an adapter, the model
        that it was trained on is loaded with it, see [`load_adapted`].

        `quantization_config` is one of transformers, or `"int8"` or `"int4"`: weights of so many bits by torchao, of
        the language model, the MCTP modules and the head (a configuration without `modules_to_not_convert` leaves the
        head out). All else is then in bfloat16 by default, the type that torch's CPU kernels for such weights take.
        [`~PreTrainedModel.save_pretrained`] saves the quantised weights, which are loaded without the argument.

        Raises:
            ValueError: if the checkpoint lacks tensors of the model, has other tensors or other shapes, or has values
                that are NaN, infinite or no floating point numbers.
            OSError: if the weights cannot be read.
        """
        adapter = find_adapter(str(pretrained_model_name_or_path), **kwargs)
        kwargs.pop("adapter_kwargs", None)
        if adapter is not None:
            # The configuration comes with the model, as the adapter's may have more modules
            kwargs = {name: value for name, value in kwargs.items() if name not in ("config", "revision")}
            quantization_config = as_quantization_config(kwargs.get("quantization_config"))
            if is_for_torchao := type(quantization_config).__name__ == "TorchAoConfig":
                # PEFT has no adapters for all of torchao's weights, and beside weights they could not be saved
                del kwargs["quantization_config"]
            model = load_adapted(cls, adapter, **kwargs)
            if is_for_torchao:
                model = cls._quantize_loaded(model, quantization_config, **kwargs)
            keep_code(cls.remote_code, adapter.place, **adapter.hub_kwargs)
            model.revision = adapter.hub_kwargs.get("revision")
            return (model, {}) if output_loading_info else model
        quantization_config = as_quantization_config(kwargs.pop("quantization_config", None))
        if quantization_config is not None:
            kwargs["quantization_config"] = quantization_config
            # The older name of the argument
            kwargs.setdefault("dtype", kwargs.pop("torch_dtype", None))
            if kwargs["dtype"] in (None, "auto"):
                kwargs["dtype"] = torch.bfloat16
        reader = cls._find_reader(str(pretrained_model_name_or_path), **kwargs)
        if reader is not None:
            kwargs |= {"config": reader.config, "key_mapping": reader.key_mapping()}
        # Without the flag, transformers refuses tensors of other shapes too, but does not name them
        are_other_shapes_fine = kwargs.pop("ignore_mismatched_sizes", False)
        try:
            with quantizing_on_cpu(quantization_config):
                model, info = super().from_pretrained(
                    pretrained_model_name_or_path,
                    *args,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    **kwargs,
                )
        except SafetensorError as error:
            raise OSError(
                f"The weights of '{pretrained_model_name_or_path}' cannot be read, they may be cut off: {error}"
            ) from error
        finish_quantization(model)
        misshaped = () if are_other_shapes_fine else info["mismatched_keys"]
        unexpected = set(info["unexpected_keys"]) - (reader.unused_names if reader is not None else set())
        if misfit := describe_misfit(info["missing_keys"], unexpected, misshaped):
            raise ValueError(f"The tensors of '{pretrained_model_name_or_path}' do not fit its config. {misfit}.")
        check_weights(model, str(pretrained_model_name_or_path), **kwargs)
        keep_code(cls.remote_code, str(pretrained_model_name_or_path), **kwargs)
        model.revision = kwargs.get("revision")
        if reader is not None:
            model.generation_config = reader.generation_config
        return (model, info) if output_loading_info else model

    @classmethod
    def _quantize_loaded(cls, model: "VitaAudioPreTrainedModel", quantization_config: Any, **kwargs):
        """A model that is in memory with quantised weights; `kwargs` are those that it was loaded with."""
        if getattr(model, "is_quantized", False):
            raise ValueError("The model that the adapter was trained on is quantised already.")
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        # transformers would not know a head that is tied to the embeddings for them any more
        tied = model.all_tied_weights_keys or {}
        with quantizing_on_cpu(quantization_config):
            quantized = super().from_pretrained(
                None,
                config=model.config,
                state_dict={name: tensor for name, tensor in model.state_dict().items() if name not in tied},
                quantization_config=quantization_config,
                dtype=torch.bfloat16 if dtype in (None, "auto") else dtype,
                device_map=kwargs.get("device_map"),
            )
        finish_quantization(quantized)
        quantized.generation_config = model.generation_config
        quantized.name_or_path = quantized.config._name_or_path = model.name_or_path
        return quantized

    @classmethod
    def _find_reader(cls, name_or_path: str, **kwargs) -> Any:
        """What reads a checkpoint of another layout, of `READERS`; None for one of ours, or if a config is given."""
        if not READERS or isinstance(kwargs.get("config"), PreTrainedConfig):
            return None
        hub_kwargs = {key: kwargs[key] for key in (*HUB_KWARGS, "subfolder") if key in kwargs}
        model_type = PreTrainedConfig.get_config_dict(name_or_path, **hub_kwargs)[0].get("model_type")
        return READERS[model_type](name_or_path, **hub_kwargs) if model_type in READERS else None

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs):
        # transformers loads a generation config with this flag without keys that it does not know, such as `mctp_mode`
        self.generation_config._from_model_config = False
        # transformers saves the adapter alone where it has put one in itself
        is_adapted = any(name.endswith(".base_layer") for name, _ in self.named_modules())
        if is_adapted and not getattr(self, "_hf_peft_config_loaded", False):
            raise ValueError(
                "The model has adapters beside its weights, and would be saved as nobody could load it. Save the "
                "adapter (`PeftModel.save_pretrained`), or what `vita-audio merge` writes."
            )
        # Whatever layout the model was loaded from, it is saved in ours
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)

    def get_audio_features(self, *args, **kwargs) -> BaseModelOutputWithPooling:
        """See [`VitaAudioModel.get_audio_features`]."""
        return self.model.get_audio_features(*args, **kwargs)

    def can_copy_layers(self) -> bool:
        """Whether the next MCTP module can be a copy, as it cannot be of layers whose weights are quantised."""
        modules = self.model.mctp_modules
        return not getattr(self, "is_quantized", False) or (len(modules) > 0 and type(modules[-1].proj) is nn.Linear)

    def grow_mctp_modules(self, num_mctp_modules: int, as_copies: bool = True):
        """
        Adds MCTP modules before a training stage that needs more of them. The layer of the first module is a copy of
        the language model's last layer; every later module is a copy of the module before it.

        Args:
            num_mctp_modules (`int`): the new number of modules, at least the present one.
            as_copies (`bool`, defaults to `True`): whether they are copies. Otherwise all of their weights are random,
                as before those of a checkpoint are put in.

        Raises:
            ValueError: if the model has more modules already.
        """
        modules, language_model = self.model.mctp_modules, self.model.language_model
        if num_mctp_modules < len(modules):
            raise ValueError(f"Cannot grow from {len(modules)} MCTP modules to {num_mctp_modules}.")
        while len(modules) < num_mctp_modules:
            module = VitaAudioMCTPModule(language_model).to(device=self.device, dtype=self.dtype)
            if as_copies and len(modules) > 0:
                module.load_state_dict(modules[-1].state_dict())
            else:
                # The norms and the projection of the first module have nothing to be copied from
                module.apply(self._init_weights)
                if as_copies:
                    module.layer.load_state_dict(language_model.layers[-1].state_dict())
            modules.append(module.train(self.training))
        self.config.num_mctp_modules = num_mctp_modules

    def _logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Scores `(batch_size, num_columns, vocab_size)` of hidden states `(batch_size, num_columns, hidden_size)`."""
        # Flatten to 2-D: for a non-contiguous 3-D input, matmul copies a weight that needs no gradient
        return self.lm_head(hidden_states.flatten(0, 1)).unflatten(0, hidden_states.shape[:2])

    @takes_old_cache_name
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        input_features: torch.FloatTensor | None = None,
        feature_attention_mask: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool | None = None,
        output_mctp_logits: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
        lm_loss_weight: float = 1.0,
        mctp_loss_weight: float = 1.0,
        mctp_detach: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VitaAudioOutputWithPast:
        """
        Runs the language model, and the MCTP modules where their losses or logits are asked for.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Ids of text and speech tokens. Give these or `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_past_columns + sequence_length)`, *optional*):
                0 at the padding, which may be on either side. Leave it out for packed samples.
            position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Positions of the tokens. Without an `attention_mask`, a packed sample begins wherever positions
                restart: attention does not cross from one sample to another, and no MCTP module pairs a hidden state
                with a token of another sample.
            cache (`Cache`, *optional*; `past_key_values` is its old name):
                After a call with a [`VitaAudioCache`], generation can go on with MCTP modules. Any other cache serves
                the language model alone. By default a [`VitaAudioCache`] is made if there are modules.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`, *optional*):
                Embeddings instead of `input_ids`.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Token ids to be predicted, -100 where there is no loss. Give them unshifted: from column i, the
                language model predicts label i + 1 and module k label i + k + 1, see
                [`~loss_vita_audio.targets_of_columns`].
            use_cache (`bool`, *optional*, defaults to `text_config.use_cache` without and `False` with `labels`):
                Whether to return `cache`. Packed samples never have a cache.
            input_features (`torch.FloatTensor` of shape `(num_audios, num_frames, 560)`, *optional*):
                Continuous speech input, of models with an `audio_config`: features of all audios of the batch, in the
                order of the runs of `<|context_of_audio|>` in `input_ids`, whose embeddings they take the place of.
            feature_attention_mask (`torch.LongTensor` of shape `(num_audios, num_frames)`, *optional*):
                0 at the padding of the features, which is on the right.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0):
                Columns whose logits are returned: so many last ones (0 for all), or the given ones.
            skip_logits (`bool`, *optional*, defaults to `True` for `labels` in training mode, else `False`):
                Whether to return no logits. The losses do not need them: they compute the logits of columns with a
                target alone.
            output_mctp_logits (`bool`, *optional*, defaults to `False`):
                Whether to return `mctp_logits`. This needs whole sequences, so `cache` must be empty.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                The number of labels in all batches of an optimisation step, which the `Trainer` gives. All summed
                losses are divided by it, the modules' too, so that accumulated gradients are exactly those of one
                large batch. The loss of module k is then smaller than its mean where samples have labels among their
                first k + 1 tokens, which module k does not predict. By default each loss is a mean over its own
                targets.
            lm_loss_weight (`float`, *optional*, defaults to 1.0):
                Weight of the language model's loss. With 0, as in training stages 2 and 3, the loss is not computed.
            mctp_loss_weight (`float`, *optional*, defaults to 1.0):
                Weight of the mean of the modules' losses. With 0, the modules do not run for a loss.
            mctp_detach (`bool`, *optional*, defaults to whether there is an `audio_config`):
                Whether the modules' losses reach nothing but the modules, the head and the final norm, as in all
                stages of VITA-Audio-Plus. Otherwise they reach the language model, too.

        Raises:
            ValueError: if not exactly one of `input_ids` and `inputs_embeds` is given, if losses or logits of MCTP
                modules are asked for with a filled cache, if `shift_labels` are given (as context parallelism does,
                which gives each process a part of a sequence), if `num_items_in_batch` is given without `labels`, or
                if the weight of a loss is negative.
        """
        for name, weight in (("lm_loss_weight", lm_loss_weight), ("mctp_loss_weight", mctp_loss_weight)):
            if weight < 0:
                raise ValueError(f"`{name}` must be 0 or more, got {weight}.")
        if num_items_in_batch is not None and labels is None:
            raise ValueError(
                "`num_items_in_batch` came without `labels`: a trainer with a loss function of its own, or label "
                "smoothing, would train the language model alone. Let the model compute the loss; it takes the "
                "weights of its parts as `lm_loss_weight` and `mctp_loss_weight`."
            )
        if kwargs.get("shift_labels") is not None:
            raise ValueError(
                "`shift_labels` are refused, as each MCTP module shifts whole sequences of `labels` itself."
            )
        has_lm_loss = labels is not None and lm_loss_weight > 0
        has_mctp_loss = labels is not None and mctp_loss_weight > 0 and self.config.num_mctp_modules > 0
        outputs: VitaAudioModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=False if use_cache is None and labels is not None else use_cache,
            input_features=input_features,
            feature_attention_mask=feature_attention_mask,
            output_mctp_hidden_states=has_mctp_loss or output_mctp_logits,
            mctp_detach=mctp_detach,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state

        loss, lm_loss, mctp_losses = None, None, None
        if labels is not None:
            sample_ids = samples_of_columns(labels, attention_mask, position_ids)
            loss = hidden_states.new_zeros((), dtype=torch.float32)
            if has_lm_loss:
                lm_loss = self._loss(hidden_states, labels, sample_ids, 0, num_items_in_batch)
                loss = loss + lm_loss_weight * lm_loss
            if has_mctp_loss:
                mctp_losses = torch.stack(
                    [
                        self._loss(module_states, labels, sample_ids, num_ahead, num_items_in_batch)
                        for num_ahead, module_states in enumerate(outputs.mctp_hidden_states, start=1)
                    ]
                )
                loss = loss + mctp_loss_weight * mctp_losses.mean()

        logits, mctp_logits = None, None
        if not (self.training and labels is not None if skip_logits is None else skip_logits):
            logits = self._logits(slice_logits_to_keep(hidden_states, logits_to_keep))
        if output_mctp_logits:
            num_columns = hidden_states.shape[1] - self.config.num_mctp_modules
            if isinstance(logits_to_keep, torch.Tensor) and (logits_to_keep >= num_columns).any():
                raise ValueError(f"Not all modules have the columns of `logits_to_keep`: the last has {num_columns}.")
            mctp_logits = tuple(
                self._logits(slice_logits_to_keep(module_states[:, :-module_idx], logits_to_keep))
                for module_idx, module_states in enumerate(outputs.mctp_hidden_states, start=1)
            )

        return VitaAudioOutputWithPast(
            loss=loss,
            lm_loss=lm_loss,
            mctp_losses=mctp_losses,
            logits=logits,
            mctp_logits=mctp_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: outputs.get(CACHE)},
        )

    @takes_old_cache_name
    def forward_mctp(
        self,
        input_ids: torch.LongTensor,
        cache: VitaAudioCache,
        attention_mask: torch.Tensor | None = None,
        special_token_ids: torch.LongTensor | None = None,
        compile_config: CompileConfig | None = None,
    ) -> torch.FloatTensor:
        """
        Runs one MCTP module in generation. The module first reads all columns that it has not read yet.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, k)`):
                The tokens that the language model has not read yet. Their number k selects module k.
            cache ([`VitaAudioCache`]):
                The cache that the language model, and after it the modules 1 to k - 1, have run with.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_columns)`, *optional*):
                0 at the padding among the columns that the language model has read; further columns are ignored.
            special_token_ids (`torch.LongTensor` of shape `(num_special_tokens,)`, *optional*):
                Give it where the next token can only be speech: the tokens to score besides the speech tokens. All
                other tokens get -inf, and their rows of the head are not read where [`scores_of_rows`] can do without.
            compile_config (`CompileConfig`, *optional*):
                How to compile the module's step; by default it is not compiled. Meant for a static cache.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, 1, vocab_size)`: scores for the token after `input_ids`.
        """
        hidden_states = self.model.forward_mctp(input_ids, cache, attention_mask, compile_config)[:, -1:]
        if special_token_ids is None:
            return self._logits(hidden_states)
        start = self.config.speech_token_offset
        end = start + self.config.num_speech_tokens
        of_speech, of_special_tokens = scores_of_rows(self.lm_head, hidden_states, start, end, special_token_ids)
        # In the type of the products, which autocast may have made another one than the weights'
        logits = of_speech.new_full((*of_speech.shape[:2], self.config.text_config.vocab_size), -torch.inf)
        logits[..., start:end] = of_speech
        logits[..., special_token_ids.to(logits.device)] = of_special_tokens
        return logits


# For code from outside transformers, `generate` inspects this signature before every token; a stored one is found
# quickly
VitaAudioForConditionalGeneration.forward.__signature__ = inspect.signature(VitaAudioForConditionalGeneration.forward)


attach_to_package(__name__)

__all__ = [
    "VitaAudioForConditionalGeneration",
    "VitaAudioModel",
    "VitaAudioModelOutputWithPast",
    "VitaAudioOutputWithPast",
    "VitaAudioPreTrainedModel",
]
