# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains one stage.

    python -m training.train --config training/configs/mini/stage1.yaml [--learning_rate 1e-3 ...]
    accelerate launch --config_file training/configs/accelerate/fsdp.yaml -m training.train --config ...

A run that was stopped goes on where it was when it is started again. The trained model, its processor and the curves of
its losses are in `output_dir`, from where the next stage takes them.
"""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import torch
from transformers import AutoConfig, AutoModel, set_seed
from trl import TrlParser

from modeling_vita_audio import VitaAudioConfig, VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor
from processing.interleaving_vita_audio import check_interleave_pattern

from .data import build_training_dataset, conversation_texts, load_conversations
from .initialize import build_from_language_model, build_from_nothing
from .trainer import VitaAudioSFTConfig, VitaAudioSFTTrainer, last_complete_checkpoint


UNFINISHED_FOLDER = "unfinished"


@dataclass
class VitaAudioScriptArguments:
    """What is trained, and on what."""

    dataset_name: str = field(
        metadata={
            "help": "Conversations: a JSON-lines file, a folder with `conversations.jsonl`, or a dataset of `datasets` with "
            "the columns `messages` and `audios`."
        }
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str = field(
        default="test", metadata={"help": "Split to evaluate on, if `eval_strategy` is not `no`."}
    )
    tasks: list[str] | None = field(
        default=None,
        metadata={"help": "Tasks to train on, by the field `task`; all by default. One named twice counts twice."},
    )
    code_cache_dir: str = field(
        default="runs/codes",
        metadata={"help": "Folder for speech codes, which are made once for each codec and clip."},
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Model to start from: the `output_dir` of the stage before or, for stage 1, a language model of "
            "transformers such as `Qwen/Qwen2.5-7B-Instruct`. Without it, stage 1 starts from nothing with `text_config`."
        },
    )
    codec_name_or_path: str | None = field(
        default=None, metadata={"help": "Speech codec that stage 1 puts into the processor. Later stages keep theirs."}
    )
    text_config: dict | str | None = field(
        default=None, metadata={"help": "Configuration of the language model, for a start from nothing."}
    )
    text_vocab_size: int = field(
        default=1000,
        metadata={"help": "Size of the tokenizer trained for a start from nothing, without speech tokens."},
    )
    dtype: str = field(default="float32", metadata={"help": "Type of the weights: that of the optimizer's steps."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "`sdpa` (default), `flash_attention_2`, `flash_attention_3` or `eager`."}
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch; all by default."})

    def __post_init__(self):
        if self.model_name_or_path is None and self.text_config is None:
            raise ValueError("Give a `model_name_or_path` to start from, or a `text_config` to start from nothing.")


def load_model_and_processor(
    script_args: VitaAudioScriptArguments, conversations: datasets.Dataset, checkpoint: str | None
) -> tuple[VitaAudioForConditionalGeneration, VitaAudioProcessor]:
    """
    What the stage starts from or, where it can be loaded from there, goes on with: a tokenizer trained once more could be
    another one if the conversations have changed.

    Raises:
        ValueError: a start of stage 1 has no codec.
    """
    model_kwargs = {"dtype": getattr(torch, script_args.dtype)}
    if script_args.attn_implementation is not None:
        model_kwargs["attn_implementation"] = script_args.attn_implementation
    name_or_path = script_args.model_name_or_path
    if checkpoint is not None and any(Path(checkpoint).glob("model*.safetensors")):
        name_or_path = checkpoint
    if name_or_path is not None and isinstance(AutoConfig.from_pretrained(name_or_path), VitaAudioConfig):
        processor = VitaAudioProcessor.from_pretrained(name_or_path)
        return VitaAudioForConditionalGeneration.from_pretrained(name_or_path, **model_kwargs), processor

    if script_args.codec_name_or_path is None:
        raise ValueError("Stage 1 needs a speech codec: give its `codec_name_or_path`.")
    codec = AutoModel.from_pretrained(script_args.codec_name_or_path).eval()
    if name_or_path is not None:
        return build_from_language_model(name_or_path, codec, **model_kwargs)
    model, processor = build_from_nothing(
        script_args.text_config,
        conversation_texts(conversations),
        script_args.text_vocab_size,
        codec,
        script_args.attn_implementation,
    )
    return model.to(model_kwargs["dtype"]), processor


def save_whole(trainer: VitaAudioSFTTrainer, output_dir: str) -> None:
    """Saves model and processor beside `output_dir`'s files and then puts them in place, the weights last."""
    unfinished = Path(output_dir) / UNFINISHED_FOLDER
    try:
        trainer.save_model(str(unfinished))
        if trainer.is_world_process_zero():
            # pickled, and full of this machine's paths
            (unfinished / "training_args.bin").unlink(missing_ok=True)
            for path in sorted(unfinished.iterdir(), key=lambda path: (path.suffix == ".safetensors", path.name)):
                target = Path(output_dir) / path.name
                if path.is_dir():
                    shutil.rmtree(target, ignore_errors=True)
                os.replace(path, target)
    finally:
        if trainer.is_world_process_zero():
            shutil.rmtree(unfinished, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def plot_losses(log_history: list[dict], path: Path) -> None:
    """Draws the losses of a trainer's log over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    names = sorted({name for entry in log_history for name in entry if "loss" in name and name != "train_loss"})
    for name in names:
        points = [(entry["step"], entry[name]) for entry in log_history if name in entry]
        axes.plot(*zip(*points), label=name, linewidth=2 if name == "loss" else 1)
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    """
    Trains one stage.

    Args:
        argv: `--config FILE.yaml` and settings that override it; the process's arguments by default.
    """
    parser = TrlParser((VitaAudioScriptArguments, VitaAudioSFTConfig), prog="training.train")
    script_args, training_args = parser.parse_args_and_config(args=argv)
    if script_args.num_threads is not None:
        torch.set_num_threads(script_args.num_threads)
    set_seed(training_args.seed)
    # what `datasets` makes on the way lies in a temporary folder and is gone at the end
    datasets.disable_caching()

    def load_split(split: str) -> datasets.Dataset:
        with training_args.main_process_first(desc="reading conversations"):
            return load_conversations(script_args.dataset_name, split, script_args.tasks, script_args.code_cache_dir)

    conversations = {"train": load_split(script_args.dataset_train_split)}
    if training_args.eval_strategy != "no":
        conversations["test"] = load_split(script_args.dataset_test_split)
    checkpoint = training_args.resume_from_checkpoint or last_complete_checkpoint(training_args.output_dir)
    model, processor = load_model_and_processor(script_args, conversations["train"], checkpoint)
    if training_args.interleave_pattern is not None:
        check_interleave_pattern(training_args.interleave_pattern)
        processor.interleave_pattern = training_args.interleave_pattern

    processor.audio_tokenizer.to(training_args.device)
    examples = {
        name: build_training_dataset(
            split, processor, script_args.code_cache_dir, training_args.max_length, training_args.dataset_num_proc
        )
        for name, split in conversations.items()
    }
    processor.audio_tokenizer.to("cpu")

    trainer = VitaAudioSFTTrainer(
        model=model,
        args=training_args,
        train_dataset=examples["train"],
        eval_dataset=examples.get("test"),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    save_whole(trainer, training_args.output_dir)
    if trainer.is_world_process_zero():
        trainer.save_state()
        plot_losses(trainer.state.log_history, Path(training_args.output_dir) / "losses.png")
    trainer.accelerator.print(f"The model of stage {training_args.stage} is in {training_args.output_dir}.")
    trainer.end()


if __name__ == "__main__":
    main()
