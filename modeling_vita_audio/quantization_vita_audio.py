# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Weights of 8 or 4 bits: torchao quantises, saves and loads them, and torch's own CPU kernels multiply with them.

torchao 0.18 makes floating point weights of them before each product on a CPU, which is slower than not to quantise,
and its plain 4-bit weights it multiplies, and makes, only on a GPU and with the package mslk. torch has had kernels
for the CPU all along, so layers are given them here. On other devices torchao does all, but for 4-bit weights without
mslk, which become floating point ones before each product.
"""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TorchAoConfig
from transformers.quantizers.quantizers_utils import should_convert_module


# What the argument `quantization_config` may be besides a configuration of transformers: weights alone, by their bits
QUANTIZATIONS = ("int8", "int4")

# How many weights share a scale and an offset with 4 bits. 32 is the most exact of torchao's choices, and divides
# the sizes of all published Qwen2 and Llama models
INT4_GROUP_SIZE = 32

# What hears is small, runs once an audio, and is left as it is
NOT_QUANTIZED = ["model.audio_tower", "model.multi_modal_projector"]

# The time of the kernels grows with each row of input, that of a floating point product hardly at first. From about so
# many rows on it pays to make floating point weights (measured on a Xeon with AVX-512 and AMX). 16 is more than the 11
# tokens that a step of "turbo" reads
MAX_KERNEL_ROWS = {"Int8Tensor": 16, "Int4Tensor": 64}

# Rows of a weight that are made floating point, or packed, at a time: at 18944 columns, the most of Qwen2.5-7B, 78 MB.
# A multiple of 64, the largest block of rows that the 4-bit kernel packs
NUM_WEIGHT_ROWS = 2048

# The 8-bit kernel reads so many bytes at once, without a look at where they begin or end: from elsewhere the process
# would crash, and rows of another length would be wrong. What torch makes begins at multiples of 64, what is read from
# a file or sliced may not
INT8_ALIGNMENT = 32

# The 4-bit kernel takes weights of a multiple of so many rows
INT4_ROW_MULTIPLE = 16


def as_quantization_config(quantization: Any) -> Any:
    """
    Args:
        quantization (`str` or a configuration): `"int8"`, `"int4"`, or a configuration of transformers.

    Returns:
        A [`TorchAoConfig`] for one of the names, which takes in the head, too; what is no name as it is.

    Raises:
        ValueError: the name is none of these.
        ImportError: torchao is not installed.
    """
    if not isinstance(quantization, str):
        return quantization
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"`quantization_config` must be {' or '.join(map(repr, QUANTIZATIONS))} or a configuration such as "
            f"transformers' `TorchAoConfig`, got {quantization!r:.200}."
        )
    torchao = import_torchao("quantization")
    if quantization == "int8":
        quant_type = torchao.Int8WeightOnlyConfig(set_inductor_config=False)
    else:
        quant_type = torchao.Int4WeightOnlyConfig(group_size=INT4_GROUP_SIZE, set_inductor_config=False)
    # With a list, also an empty one, transformers does not leave the head out
    return TorchAoConfig(quant_type, modules_to_not_convert=list(NOT_QUANTIZED))


def import_torchao(module: str) -> Any:
    # Not by an import statement, for which transformers would ask of every user of a Hub folder's code
    try:
        return importlib.import_module(f"torchao.{module}")
    except ImportError as error:
        raise ImportError("Quantised weights need torchao: `pip install torchao`.") from error


def has_mslk() -> bool:
    """Whether torchao can make and multiply plain 4-bit weights on a GPU."""
    return importlib.util.find_spec("mslk") is not None


@contextmanager
def quantizing_on_cpu(quantization_config: Any) -> Iterator[None]:
    """Lets torchao make plain 4-bit weights meanwhile where it does not: on a CPU, and without the package mslk."""
    is_int4 = type(getattr(quantization_config, "quant_type", None)).__name__ == "Int4WeightOnlyConfig"
    if not is_int4:
        yield
        return
    handlers = import_torchao("quantization.transform_module")._QUANTIZE_CONFIG_HANDLER
    config_class = type(quantization_config.quant_type)
    handler = handlers[config_class]

    def quantize_weight(module: nn.Linear, config: Any, **kwargs: Any) -> nn.Linear:
        weight = module.weight
        if (weight.device.type != "cpu" and has_mslk()) or config.int4_packing_format != "plain":
            return handler(module, config, **kwargs)
        # As torchao does, a weight is left as it is where groups do not fit in
        if weight.shape[1] % config.group_size == 0:
            module.weight = nn.Parameter(to_int4(weight.detach(), config.group_size), requires_grad=False)
        return module

    handlers[config_class] = quantize_weight
    try:
        yield
    finally:
        handlers[config_class] = handler


def to_int4(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """
    torchao's `Int4Tensor` of a weight `(out_features, in_features)`: of each group of columns, the least value becomes
    -8 and the largest 7, so that a weight is `scale * number + zero_point`.
    """
    # `(out_features, num_groups, group_size)`
    groups = weight.float().unflatten(1, (-1, group_size))
    least, most = groups.aminmax(dim=2, keepdim=True)
    scale = ((most - least) / 15).clamp(min=1e-6)
    numbers = ((groups - least) / scale).round_().clamp_(0, 15).sub_(8).to(torch.int8).flatten(1)
    # Two columns in a byte, the first one in its lower half
    qdata = (numbers[:, ::2] & 15) | (numbers[:, 1::2] << 4)
    scale, zero_point = (values.squeeze(2).t().contiguous().to(weight.dtype) for values in (scale, least + 8 * scale))
    return import_torchao("quantization").Int4Tensor(
        qdata.contiguous(), scale, zero_point, block_size=[1, group_size], shape=weight.shape
    )


def finish_quantization(model: PreTrainedModel) -> None:
    """
    Ends the loading of a quantised model: quantises a head that has the weight of the embeddings, of which it becomes
    a copy, and gives layers the kernels of the CPU, see [`use_cpu_kernels`]. Any other model stays as it is.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if type(getattr(quantizer, "quantization_config", None)).__name__ != "TorchAoConfig":
        return
    head = model.lm_head
    is_tied = head.weight is model.get_input_embeddings().weight
    if is_tied and should_convert_module("lm_head.weight", quantizer.modules_to_not_convert):
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=False)
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        quantize(head, quantizer.quantization_config)
    use_cpu_kernels(model)


def quantize(model: nn.Module, quantization_config: TorchAoConfig) -> None:
    """Quantises the linear layers of a model in memory, all of them."""
    with quantizing_on_cpu(quantization_config):
        import_torchao("quantization").quantize_(model, quantization_config.quant_type)
    use_cpu_kernels(model)


def use_cpu_kernels(model: nn.Module) -> None:
    """Makes layers whose weights torchao has quantised [`QuantizedLinear`]s, where there is a kernel for them."""
    for module in model.modules():
        layer_class = LAYER_CLASSES.get(type(module.weight).__name__) if type(module) is nn.Linear else None
        if layer_class is not None and layer_class.fits(module.weight):
            # The parameters stay as torchao has made them, so that transformers saves them
            module.__class__ = layer_class
            module.prepare()


class QuantizedLinear(nn.Linear):
    """
    A linear layer whose weight is one of torchao's. On a CPU, few rows of input in bfloat16 are multiplied by a kernel
    for such weights, and more rows, or those of another type, by floating point weights that are made some at a time.

    Subclasses are made of a [`nn.Linear`] by setting its class, and `prepare` it then.
    """

    def prepare(self) -> None:
        """Keeps what the kernel reads beside the weight, outside of what is saved."""
        raise NotImplementedError

    def torchao_multiplies(self) -> bool:
        """Whether torchao can multiply with the weight on other devices than a CPU."""
        return True

    def has_kernel(self, device: torch.device) -> bool:
        return device.type == "cpu"

    def kernel(self, rows: torch.Tensor) -> torch.Tensor:
        """Products `(num_rows, out_features)` of bfloat16 rows `(num_rows, in_features)`, without the bias."""
        raise NotImplementedError

    def weight_rows(self, index: slice | torch.LongTensor, dtype: torch.dtype) -> torch.Tensor:
        """The floating point values `(num_weight_rows, in_features)` of some rows of the weight."""
        raise NotImplementedError

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.device.type != "cpu" and self.torchao_multiplies():
            return super().forward(input)
        rows = input.reshape(-1, input.shape[-1])
        is_few = len(rows) <= MAX_KERNEL_ROWS[type(self.weight).__name__]
        # The kernels have no backward
        needs_grad = torch.is_grad_enabled() and rows.requires_grad
        if is_few and not needs_grad and rows.dtype == torch.bfloat16 and self.has_kernel(rows.device):
            products = self.kernel(rows.contiguous())
        else:
            products = torch.cat(
                [
                    nn.functional.linear(rows, self.weight_rows(slice(start, start + NUM_WEIGHT_ROWS), rows.dtype))
                    for start in range(0, self.out_features, NUM_WEIGHT_ROWS)
                ],
                dim=1,
            )
        if self.bias is not None:
            products = products + self.bias
        return products.unflatten(0, input.shape[:-1])

    def part(self, start: int, end: int) -> "QuantizedLinear":
        """A layer of the rows from `start` to `end` of the weight, without a bias; made once."""
        last = getattr(self, "_last_part", None)
        if last is None or last[:2] != (start, end):
            part = nn.Linear(self.in_features, end - start, bias=False, device="meta")
            part.weight = nn.Parameter(self.weight[start:end], requires_grad=False)
            part.__class__ = type(self)
            part.prepare()
            # In a tuple, as an attribute that is a module would be saved with this one
            last = self._last_part = (start, end, part)
        return last[2]


def aligned(values: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy of it where the 8-bit kernel cannot read it."""
    # Compiled code makes its tensors itself, and cannot ask where they are
    is_fine = torch.compiler.is_compiling() or values.data_ptr() % INT8_ALIGNMENT == 0
    return values if is_fine else values.clone()


class Int8Linear(QuantizedLinear):
    """With torchao's `Int8Tensor`, one scale a row, as of its `Int8WeightOnlyConfig`."""

    @staticmethod
    def fits(weight: torch.Tensor) -> bool:
        is_weight_only = weight.act_quant_kwargs is None and weight.act_pre_scale is None
        is_per_row = list(weight.block_size) == [1, weight.shape[1]]
        return is_weight_only and is_per_row and weight.shape[1] % INT8_ALIGNMENT == 0

    def prepare(self) -> None:
        self.weight.qdata = aligned(self.weight.qdata)
        self.register_buffer("scales", self.weight.scale.flatten().to(torch.bfloat16), persistent=False)

    def kernel(self, rows: torch.Tensor) -> torch.Tensor:
        numbers = aligned(self.weight.qdata)
        return torch._weight_int8pack_mm(aligned(rows), numbers, self.scales.to(rows.dtype))

    def weight_rows(self, index: slice | torch.LongTensor, dtype: torch.dtype) -> torch.Tensor:
        return self.weight.qdata[index].to(dtype) * self.weight.scale[index].to(dtype)


class Int4Linear(QuantizedLinear):
    """
    With torchao's plain `Int4Tensor`, as of its `Int4WeightOnlyConfig`. What the kernel reads is a second copy of the
    weight in an order of its own, so in memory such a layer takes two times 4 bits a weight, and the scales.
    """

    @staticmethod
    def fits(weight: torch.Tensor) -> bool:
        return weight.act_pre_scale is None and weight.activation_dtype == torch.bfloat16

    def torchao_multiplies(self) -> bool:
        return has_mslk()

    def has_kernel(self, device: torch.device) -> bool:
        # A layer that was made on another device, and moved here, has nothing packed
        return super().has_kernel(device) and self.packed is not None

    def prepare(self) -> None:
        weight, parts = self.weight, []
        if weight.device.type != "cpu":
            self.register_buffer("packed", None, persistent=False)
            return
        padding = -weight.shape[0] % INT4_ROW_MULTIPLE
        for start in range(0, weight.shape[0], NUM_WEIGHT_ROWS):
            # The kernel counts from 0 to 15
            numbers = self.numbers(slice(start, start + NUM_WEIGHT_ROWS)).add_(8).to(torch.int32)
            if start + NUM_WEIGHT_ROWS >= weight.shape[0]:
                numbers = nn.functional.pad(numbers, (0, 0, 0, padding))
            # The second argument is for GPUs
            parts.append(torch._convert_weight_to_int4pack_for_cpu(numbers.contiguous(), 1))
        # `(num_groups, out_features, 2)`
        scales_and_zeros = torch.stack([weight.scale, weight.zero_point], dim=2).to(torch.bfloat16)
        scales_and_zeros = nn.functional.pad(scales_and_zeros, (0, 0, 0, padding))
        self.register_buffer("packed", torch.cat(parts), persistent=False)
        self.register_buffer("scales_and_zeros", scales_and_zeros.contiguous(), persistent=False)

    def kernel(self, rows: torch.Tensor) -> torch.Tensor:
        products = torch._weight_int4pack_mm_for_cpu(
            rows, self.packed, self.weight.block_size[-1], self.scales_and_zeros.to(rows.dtype)
        )
        return products[:, : self.out_features]

    def numbers(self, index: slice | torch.LongTensor) -> torch.Tensor:
        """The numbers, int8 from -8 to 7, of some rows of the weight."""
        both = self.weight.qdata[index].view(torch.int8)
        # Shifted up and down again, a number keeps its sign
        return torch.stack([(both << 4) >> 4, both >> 4], dim=2).flatten(1)

    def weight_rows(self, index: slice | torch.LongTensor, dtype: torch.dtype) -> torch.Tensor:
        groups = self.numbers(index).unflatten(1, (-1, self.weight.block_size[-1])).to(dtype)
        scale, zero_point = (
            values[:, index].t().to(dtype)[..., None] for values in (self.weight.scale, self.weight.zero_point)
        )
        return torch.addcmul(zero_point, groups, scale).flatten(1)


# By the name of the class of the weight, so that torchao need not be imported
LAYER_CLASSES = {"Int8Tensor": Int8Linear, "Int4Tensor": Int4Linear}


__all__ = [
    "QUANTIZATIONS",
    "QuantizedLinear",
    "as_quantization_config",
    "finish_quantization",
    "quantize",
    "quantizing_on_cpu",
    "use_cpu_kernels",
]
