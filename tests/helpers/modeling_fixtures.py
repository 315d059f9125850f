# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny random models, the released fixture, and MCTP written a second time, straight from its formulas."""

from tempfile import TemporaryDirectory

import torch
from places import FIXTURES

from modeling_vita_audio import MCTP_MODES, VitaAudioConfig, VitaAudioForConditionalGeneration
from modeling_vita_audio.convert_vita_audio_to_hf import convert


RELEASED_FIXTURE = FIXTURES / "vita_audio_k10"

SPEECH_VOCABULARY = {
    "audio_token_id": 97,
    "begin_audio_token_id": 98,
    "end_audio_token_id": 99,
    "speech_token_offset": 100,
    "num_speech_tokens": 20,
}


def random_config(num_mctp_modules: int = 10, model_type: str = "qwen2", **kwargs) -> VitaAudioConfig:
    text_config = {
        "model_type": model_type,
        "vocab_size": 120,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        # Scores that differ by far more than rounding does, without blowing that up from layer to layer
        "initializer_range": 0.1,
        **kwargs.pop("text_config", {}),
    }
    return VitaAudioConfig(text_config=text_config, num_mctp_modules=num_mctp_modules, **SPEECH_VOCABULARY, **kwargs)


def random_model(num_mctp_modules: int = 10, model_type: str = "qwen2", **kwargs) -> VitaAudioForConditionalGeneration:
    torch.manual_seed(0)
    model = VitaAudioForConditionalGeneration(random_config(num_mctp_modules, model_type, **kwargs))
    # Norms and biases start as ones and zeros, with which a mix-up of two of them would go unnoticed
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    return model.eval()


def random_prompt(length: int, batch_size: int = 1, seed: int = 0) -> torch.LongTensor:
    return torch.randint(1, 97, (batch_size, length), generator=torch.Generator().manual_seed(seed))


def left_pad(prompts: list[torch.LongTensor]) -> dict[str, torch.LongTensor]:
    """Prompts `(1, length)` to `input_ids` and `attention_mask`, both `(batch_size, longest length)`."""
    longest = max(prompt.shape[1] for prompt in prompts)
    padded = [torch.nn.functional.pad(prompt + 1, (longest - prompt.shape[1], 0)) for prompt in prompts]
    padded = torch.cat(padded)
    return {"input_ids": (padded - 1).clamp(min=0), "attention_mask": (padded > 0).long()}


def schedules(num_mctp_modules: int) -> list[list[int]]:
    """The four modes, cut to the number of modules, and a list that leaves most modules far behind."""
    cut = [[min(n, num_mctp_modules) if i % 2 else n for i, n in enumerate(mode)] for mode in MCTP_MODES.values()]
    return [*cut, [2, 1, 1, 0, 3, num_mctp_modules, 1, 1]]


def released_model() -> VitaAudioForConditionalGeneration:
    """The fixture, converted."""
    with TemporaryDirectory() as folder:
        return VitaAudioForConditionalGeneration.from_pretrained(convert(RELEASED_FIXTURE, f"{folder}/converted"))


def original_mctp_losses(model, batch: dict[str, list[int]]) -> list[float]:
    """
    Computes the modules' losses of packed samples as the original does: the last column of a sample that module k can
    fill predicts token k of the next sample. In our loss that column has no target; all other targets are the same.
    """
    batch = {name: torch.tensor([batch[name]]) for name in ("input_ids", "position_ids", "labels")}
    mctp_logits = model(**batch, output_mctp_logits=True).mctp_logits
    samples, labels = batch["position_ids"][0].eq(0).cumsum(0), batch["labels"][0]
    losses = []
    for k, logits in enumerate(mctp_logits, start=1):
        is_filled = samples[k:] == samples[:-k]
        targets = labels[k:][is_filled][1:]
        losses.append(torch.nn.functional.cross_entropy(logits[0, is_filled][:-1], targets).item())
    return losses


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def qwen2_layer(x: torch.Tensor, weights: dict[str, torch.Tensor], positions: torch.Tensor, config) -> torch.Tensor:
    """One layer of Qwen2 over all columns of `x` `(sequence_length, hidden_size)`, each attending to those before."""
    head_dim = config.hidden_size // config.num_attention_heads
    exponents = torch.arange(0, head_dim, 2) / head_dim
    angles = positions[:, None] / config.rope_parameters["rope_theta"] ** exponents
    rotation = torch.polar(torch.ones_like(angles), angles)

    def heads(name: str) -> torch.Tensor:
        y = normed @ weights[f"self_attn.{name}.weight"].T + weights[f"self_attn.{name}.bias"]
        return y.view(len(x), -1, head_dim).transpose(0, 1)

    def rotate(y: torch.Tensor) -> torch.Tensor:
        rotated = torch.complex(*y.chunk(2, dim=-1)) * rotation
        return torch.cat([rotated.real, rotated.imag], dim=-1)

    normed = rms_norm(x, weights["input_layernorm.weight"], config.rms_norm_eps)
    group = config.num_attention_heads // config.num_key_value_heads
    query, key, value = rotate(heads("q_proj")), rotate(heads("k_proj")), heads("v_proj")
    scores = query @ key.repeat_interleave(group, 0).transpose(1, 2) / head_dim**0.5
    scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf)
    attended = (scores.softmax(-1) @ value.repeat_interleave(group, 0)).transpose(0, 1).flatten(1)
    x = x + attended @ weights["self_attn.o_proj.weight"].T
    normed = rms_norm(x, weights["post_attention_layernorm.weight"], config.rms_norm_eps)
    gate = torch.nn.functional.silu(normed @ weights["mlp.gate_proj.weight"].T)
    return x + (gate * (normed @ weights["mlp.up_proj.weight"].T)) @ weights["mlp.down_proj.weight"].T


def reference_logits(model: VitaAudioForConditionalGeneration, tokens: list[int], num_ahead: int) -> torch.Tensor:
    """
    Scores `(vocab_size,)` for the token after `tokens`, of which the language model reads all but the last `num_ahead`
    and MCTP module `num_ahead` (if not 0) makes the prediction. No cache, no batch, no catching up.
    """
    weights, config = model.state_dict(), model.config.text_config
    prefix = "model.language_model"
    embeds = weights[f"{prefix}.embed_tokens.weight"][tokens]
    num_read = len(tokens) - num_ahead
    positions = torch.arange(num_read)

    def layer(x: torch.Tensor, name: str, positions: torch.Tensor) -> torch.Tensor:
        part = {key.removeprefix(f"{name}."): tensor for key, tensor in weights.items() if key.startswith(f"{name}.")}
        return qwen2_layer(x, part, positions, config)

    def final_norm(x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weights[f"{prefix}.norm.weight"], config.rms_norm_eps)

    hidden = embeds[:num_read]
    for index in range(config.num_hidden_layers):
        hidden = layer(hidden, f"{prefix}.layers.{index}", positions)
    hidden = final_norm(hidden)
    for k in range(1, num_ahead + 1):
        name = f"model.mctp_modules.{k - 1}"
        pair = [
            rms_norm(embeds[k : num_read + k], weights[f"{name}.embed_norm.weight"], config.rms_norm_eps),
            rms_norm(hidden, weights[f"{name}.hidden_norm.weight"], config.rms_norm_eps),
        ]
        joined = torch.cat(pair, dim=-1) @ weights[f"{name}.proj.weight"].T
        hidden = final_norm(layer(joined, f"{name}.layer", positions + k))
    return hidden[-1] @ weights["lm_head.weight"].T


def reference_generate(
    model: VitaAudioForConditionalGeneration, prompt: list[int], schedule: list[int], max_new_tokens: int
) -> list[int]:
    """Greedy generation without caches."""
    tokens, pairs = list(prompt), list(zip(schedule[::2], schedule[1::2]))
    with torch.no_grad():
        while len(tokens) < len(prompt) + max_new_tokens:
            main, mctp = pairs.pop(0) if len(pairs) > 1 else pairs[0]
            for num_ahead in [0] * main + list(range(1, mctp + 1)):
                tokens.append(int(reference_logits(model, tokens, num_ahead).argmax()))
    return tokens[len(prompt) : len(prompt) + max_new_tokens]
