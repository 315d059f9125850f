# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What training takes of a GPU's memory, by the settings of a run and the sizes of its model; nothing is loaded.

    python -m benchmarks.training_memory training/configs/lora_7b/24gb/stage4.yaml
    python -m benchmarks.training_memory --check
    python -m benchmarks.training_memory --write

The first line prints what one run needs. A step of it is taken with tensors that have shapes and no values, and all
that is alive at once is counted; so activations, gradients and logits are those of the code that trains. The second
compares this with the peaks of real runs of [`~training.trainer.VitaAudioSFTTrainer`] on three small shapes, on the
CPU, where torch's profiler sees every allocation. The third does both for `training/configs/lora_7b`, and writes the
figures to `benchmarks/results/training_memory.json` and, with `--readme README.md`, a table into that file.
"""

import argparse
import gc
import json
import sys
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface
from trl import get_peft_config, get_quantization_config

from hub_cards.command_line import ArgumentParser, run_command
from hub_cards.stages import STAGES
from modeling_vita_audio import VitaAudioConfig, VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor
from training.adapters import adapt_to_stage, train_in_float32
from training.evaluation.report import fill_section, write_atomically
from training.settings import parse_settings
from training.train import VitaAudioScriptArguments
from training.trainer import (
    VitaAudioSFTConfig,
    VitaAudioSFTTrainer,
    num_modules_of_stage,
    prepare_model_for_stage,
)


ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "training_memory.json"
CONFIGS = ROOT / "training" / "configs" / "lora_7b"
SHIPPED = ROOT / "pretrained" / "vita-audio-mini"
# Memory of GPUs, in GB
GPUS = (24, 48, 80, 141)
PROG = "benchmarks.training_memory"

# The context of CUDA with its libraries, and what the allocator loses between its blocks, for models of this size
OTHER_BYTES = 1.5e9

# bitsandbytes stores a scale in float32 for each 64 weights of 4 bits; nested, the scales have 8 bits and there is one
# in float32 for 256 of them (`bnb_4bit_use_double_quant`)
BYTES_OF_4_BITS = {False: 0.5 + 4 / 64, True: 0.5 + 1 / 64 + 4 / (64 * 256)}
# Of 8 bits, a scale for each row is too small to count
BYTES_OF_8_BITS = 1.0
# How many MCTP modules the model has that a stage starts from; stage 4 starts from one with all
MODULES_BEFORE = {1: 0, 2: 0, 3: 1}
# Bytes of an optimizer's two moments for each byte of a weight, or for each weight where they have 8 bits
OPTIMIZERS = {"adamw_torch": 2, "adamw_torch_fused": 2, "adamw_8bit": None, "paged_adamw_8bit": None}


def attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args, scaling: float, **kwargs
) -> tuple[torch.Tensor, None]:
    """Attention that keeps what flash attention does: no mask, and no copies of keys and values for groups."""
    outputs = nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=True
    )
    return outputs.transpose(1, 2).contiguous(), None


def no_mask(*args, **kwargs) -> None:
    return None


AttentionInterface.register("causal_without_mask", attend)
AttentionMaskInterface.register("causal_without_mask", no_mask)


@dataclass(frozen=True)
class Memory:
    """In bytes, at the peak of a step; `logits` is a part of `activations`."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


class LiveTensors(TorchDispatchMode):
    """
    Counts the bytes of all tensors that are alive, and of those among them whose last dimension is `vocab_size`, at
    the moment when there are most.
    """

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocab_size = vocab_size
        self.live = self.live_logits = self.peak = self.peak_logits = 0
        self.storages: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return outputs

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        number = id(storage)
        # views share the storage of their tensor
        if number in self.storages:
            return
        num_bytes, is_logits = storage.nbytes(), tensor.ndim > 0 and tensor.shape[-1] == self.vocab_size

        def remove(_: weakref.ref) -> None:
            del self.storages[number]
            self.live -= num_bytes
            self.live_logits -= num_bytes * is_logits

        self.storages[number] = weakref.ref(storage, remove)
        self.live += num_bytes
        self.live_logits += num_bytes * is_logits
        if self.live > self.peak:
            self.peak, self.peak_logits = self.live, self.live_logits


def read_settings(path: str | Path, **settings) -> tuple[VitaAudioScriptArguments, VitaAudioSFTConfig]:
    """Those of a run, on whatever machine this is."""
    more = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    arguments = ["--config", str(path), "--use_cpu", "true", "--attn_implementation", "sdpa", *more]
    return parse_settings((VitaAudioScriptArguments, VitaAudioSFTConfig), PROG, arguments)


def build(
    config: VitaAudioConfig, script_args: VitaAudioScriptArguments, args: VitaAudioSFTConfig
) -> VitaAudioForConditionalGeneration | PeftModel:
    """The model of a stage as the trainer has it, frozen where the stage does not train it, with its adapters."""
    num_modules = num_modules_of_stage(args.stage, args.num_mctp_modules)
    config = VitaAudioConfig.from_dict(config.to_dict() | {"num_mctp_modules": num_modules})
    dtype = getattr(torch, script_args.dtype)
    model = VitaAudioForConditionalGeneration._from_config(
        config, dtype=dtype, attn_implementation="causal_without_mask"
    )
    model.train()
    peft_config = get_peft_config(script_args)
    if peft_config is None:
        prepare_model_for_stage(model, args.stage, args.num_mctp_modules)
    else:
        num_before = MODULES_BEFORE.get(args.stage, num_modules)
        new_modules_whole = args.train_new_modules_whole
        peft_config = adapt_to_stage(peft_config, model, args.stage, num_before, num_modules, new_modules_whole)
        model = get_peft_model(model, peft_config)
        if args.peft_float32:
            train_in_float32(model)
        elif get_quantization_config(script_args) is not None:
            # as TRL does beside quantised weights
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(torch.bfloat16)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        if peft_config is not None and STAGES[args.stage].trains_language_model:
            model.enable_input_require_grads()
    return model


def forward_and_backward(
    model: VitaAudioForConditionalGeneration | PeftModel, args: VitaAudioSFTConfig, input_ids: torch.Tensor
) -> None:
    """
    Adds the gradients of one batch. The losses are those of all columns, which is the most that there can be; which
    columns have a target cannot be asked of tensors without values, so the model's own `forward` cannot run here.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
        outputs = base.model(
            input_ids=input_ids,
            use_cache=False,
            output_mctp_hidden_states=base.config.num_mctp_modules > 0,
            mctp_detach=args.mctp_detach,
        )
        states = list(enumerate((outputs.last_hidden_state, *(outputs.mctp_hidden_states or ()))))
        if not STAGES[args.stage].trains_language_model:
            del states[0]
        losses = [
            base._summed_cross_entropy(of_head[:, : -k - 1].flatten(0, 1), input_ids[:, k + 1 :].flatten())
            for k, of_head in states
        ]
        loss = torch.stack(losses).sum()
    loss.backward()


def fill_with_fakes(model: nn.Module) -> None:
    """
    Replaces parameters and buffers on the device `meta` by such on the CPU, whose operators are chosen as on a GPU;
    inside of a [`FakeTensorMode`] they have no values either.
    """
    made = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                # tied weights stay tied
                if tensor is not None and id(tensor) not in made:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    if isinstance(tensor, nn.Parameter):
                        fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                    made[id(tensor)] = (tensor, fake)
                if tensor is not None:
                    tensors[name] = made[id(tensor)][1]


def quantised_layers(
    model: VitaAudioForConditionalGeneration | PeftModel,
    script_args: VitaAudioScriptArguments,
    args: VitaAudioSFTConfig,
) -> Iterator[nn.Parameter]:
    """
    The weights that bitsandbytes would have: those of all linear layers but the head, adapters and, where the stage
    adds modules, these and those that they are copies of.
    """
    if get_quantization_config(script_args) is None:
        return
    left_out = (".lora_", "lm_head", *(["mctp_modules"] if args.stage == 3 else []))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not any(part in name for part in left_out):
            yield module.weight


def compute_memory(config: VitaAudioConfig, script_args: VitaAudioScriptArguments, args: VitaAudioSFTConfig) -> Memory:
    """
    The memory at the peak of a step of a run.

    Args:
        config ([`VitaAudioConfig`]): sizes of the model.
        script_args, args: the settings of the run; rows have `max_length` tokens.

    Raises:
        ValueError: the run has an optimizer that is not known here.
    """
    optim = getattr(args.optim, "value", args.optim)
    if optim not in OPTIMIZERS:
        raise ValueError(f"`optim` must be one of {', '.join(OPTIMIZERS)}, got {optim!r}.")
    with torch.device("meta"):
        model = build(config, script_args, args)
    with FakeTensorMode(allow_non_fake_inputs=True), LiveTensors(config.text_config.vocab_size) as tensors:
        fill_with_fakes(model)
        weights = sum(parameter.untyped_storage().nbytes() for parameter in model.parameters())
        input_ids = torch.zeros(args.per_device_train_batch_size, args.max_length, dtype=torch.long)
        # Gradients of earlier batches are there already where they accumulate
        for _ in range(min(args.gradient_accumulation_steps, 2)):
            forward_and_backward(model, args, input_ids)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = sum(parameter.grad.nbytes for parameter in trained)
        activations = tensors.peak - tensors.live
        quantised = list(quantised_layers(model, script_args, args))
        if quantised:
            bytes_each = BYTES_OF_4_BITS[script_args.use_bnb_nested_quant]
            if script_args.load_in_8bit:
                bytes_each = BYTES_OF_8_BITS
            weights += int(sum(weight.numel() * bytes_each - weight.nbytes for weight in quantised))
            # A layer's weights are made again whenever it computes
            activations += max(weight.nbytes for weight in quantised)
    factor = OPTIMIZERS[optim]
    optimizer = sum(
        parameter.numel() * (2 if factor is None else factor * parameter.itemsize) for parameter in trained
    )
    return Memory(weights, gradients, optimizer, activations, tensors.peak_logits)


@dataclass(frozen=True)
class Shape:
    """
    A small model, and settings of a run that differ from [`SMALL_RUN`].

    Args:
        text_config: sizes of the language model that differ from those of the shipped one.
        settings: of the run.
    """

    name: str
    text_config: dict
    settings: dict


SMALL_RUN = {
    "stage": 4,
    "num_mctp_modules": 4,
    "max_length": 512,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": 2,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "lr_scheduler_type": "constant",
}
CHECKED = [
    Shape("all weights", {}, {}),
    Shape(
        "adapters, bfloat16, gradient checkpointing",
        {"vocab_size": 16384, "hidden_size": 512, "intermediate_size": 1536},
        {"use_peft": True, "dtype": "bfloat16", "bf16": True, "gradient_checkpointing": True, "lora_r": 16},
    ),
    Shape(
        "adapters, 4 bits, gradient checkpointing",
        {"vocab_size": 8192, "hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12},
        {
            "use_peft": True,
            "load_in_4bit": True,
            "dtype": "bfloat16",
            "bf16": True,
            "gradient_checkpointing": True,
            "per_device_train_batch_size": 1,
        },
    ),
]


def settings_of(shape: Shape, folder: str) -> tuple[VitaAudioScriptArguments, VitaAudioSFTConfig]:
    settings = (
        SMALL_RUN | shape.settings | {"output_dir": folder, "dataset_name": folder, "model_name_or_path": folder}
    )
    path = Path(folder, "run.yaml")
    path.write_text(json.dumps(settings), encoding="utf-8")
    return read_settings(path)


def config_of(shape: Shape, model: str) -> VitaAudioConfig:
    config = VitaAudioConfig.from_pretrained(model)
    number = (SMALL_RUN | shape.settings)["num_mctp_modules"]
    changes = {"num_mctp_modules": number, "storage_dtype": None}
    return VitaAudioConfig.from_dict(
        {**config.to_dict(), **changes, "text_config": config.text_config.to_dict() | shape.text_config}
    )


def measure_peak(shape: Shape, model: str) -> int:
    """
    Trains a model of random weights for two steps, and returns the most bytes that torch had allocated meanwhile. Its
    profiler is told of every allocation, also of those inside of operators, which tensors do not show.

    Args:
        shape ([`Shape`]): the model and the run.
        model: folder of a model whose processor the trainer gets; it has no part in the training.
    """
    processor = VitaAudioProcessor.from_pretrained(model)
    with tempfile.TemporaryDirectory() as folder:
        script_args, args = settings_of(shape, folder)
        VitaAudioForConditionalGeneration(config_of(shape, model)).save_pretrained(f"{folder}/model")
        processor.interleave_pattern = args.interleave_pattern or processor.interleave_pattern
        ids = torch.randint(20, 1000, (8, args.max_length)).tolist()
        dataset = Dataset.from_dict({"input_ids": ids, "labels": ids})
        loading = {"dtype": getattr(torch, script_args.dtype), "attn_implementation": "sdpa"}
        network = VitaAudioForConditionalGeneration.from_pretrained(
            f"{folder}/model", quantization_config=get_quantization_config(script_args), **loading
        )
        # Weights are loaded by threads, of which the profiler is told nothing, so they are counted here
        loaded = bytes_of(network)
        # What an earlier run has left would be freed meanwhile, and that would count
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            trainer = VitaAudioSFTTrainer(
                network,
                args,
                train_dataset=dataset,
                processing_class=processor,
                peft_config=get_peft_config(script_args),
            )
            trainer.train()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return loaded + peak


def bytes_of(model: nn.Module) -> int:
    """Bytes of the weights, with the scales of those that bitsandbytes has quantised."""
    tensors = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        if (state := getattr(parameter, "quant_state", None)) is not None:
            tensors += [value for value in state.as_dict(packed=False).values() if isinstance(value, torch.Tensor)]
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def check(model: str) -> list[dict]:
    """Computed and measured peaks of the shapes of `CHECKED`, in bytes."""
    rows = []
    for shape in CHECKED:
        with tempfile.TemporaryDirectory() as folder:
            computed = compute_memory(config_of(shape, model), *settings_of(shape, folder))
        measured = measure_peak(shape, model)
        rows.append({"shape": shape.name, "measured": measured, "computed": computed.total, **asdict(computed)})
    return rows


def compute_recipes() -> list[dict]:
    """What the runs of `training/configs/lora_7b` need, and full training in their place, with the released sizes."""
    rows = []
    for path in sorted(CONFIGS.rglob("stage*.yaml")):
        script_args, args = read_settings(path)
        memory = compute_memory(VitaAudioConfig(), script_args, args)
        rows.append({"run": path.relative_to(CONFIGS.parent).as_posix(), "max_length": args.max_length})
        rows[-1] |= {"total": memory.total, **asdict(memory)}
    path = CONFIGS.parent / "paper_7b" / "stage4.yaml"
    memory = compute_memory(VitaAudioConfig(), *read_settings(path))
    rows.append({"run": path.relative_to(CONFIGS.parent).as_posix(), "max_length": 2048, "total": memory.total})
    rows[-1] |= asdict(memory)
    return rows


def recipe_table(results: dict) -> str:
    """README's table, Markdown."""
    lines = [
        "| run | tokens in a row | weights | gradients | optimizer | activations | in all | fits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["runs"]:
        cells = [f"{row[name] / 1e9:.1f} GB" for name in ("weights", "gradients", "optimizer", "activations", "total")]
        sizes = [size for size in GPUS if row["total"] + OTHER_BYTES <= size * 1e9]
        fits = f"{sizes[0]} GB" if sizes else "no single GPU here"
        lines.append(f"| `{row['run']}` | {row['max_length']} | {' | '.join(cells)} | {fits} |")
    ratios = [row["computed"] / row["measured"] - 1 for row in results["checked"]]
    lines += [
        "",
        f"Measured peaks of {len(ratios)} small runs differ by {max(map(abs, ratios)):.1%} or less from the computed.",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return run_command(run, PROG, sys.argv[1:] if argv is None else argv)


def run(argv: list[str]) -> int:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", help="YAML files of runs")
    parser.add_argument("--model", help="folder or Hub id (default: the sizes of the released 7B models)")
    parser.add_argument("--check", action="store_true", help="compare with measured peaks of small runs")
    parser.add_argument(
        "--write", action="store_true", help="write results and README, all of training/configs/lora_7b"
    )
    parser.add_argument("--readme", type=Path, help="README whose section on memory is filled in")
    args = parser.parse_args(argv)
    if not (args.configs or args.check or args.write):
        parser.error("give a YAML file of a run, --check or --write")
    if args.readme is not None and not args.write:
        parser.error("--readme has an effect with --write alone")
    config = VitaAudioConfig() if args.model is None else VitaAudioConfig.from_pretrained(args.model)
    for path in args.configs:
        memory = compute_memory(config, *read_settings(path))
        parts = ", ".join(f"{name} {value / 1e9:.2f} GB" for name, value in asdict(memory).items())
        print(f"{path}: {memory.total / 1e9:.2f} GB ({parts})")
    if args.check or args.write:
        checked = check(str(SHIPPED))
        for row in checked:
            print(f"{row['shape']}: computed {row['computed'] / row['measured']:.3f} of measured")
    if args.write:
        results = {"torch": torch.__version__, "checked": checked, "runs": compute_recipes()}
        write_atomically(RESULTS, json.dumps(results, indent=2) + "\n")
        print(recipe_table(results))
        if args.readme is not None:
            fill_section(args.readme, "training memory", recipe_table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
