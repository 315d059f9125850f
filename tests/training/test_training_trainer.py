# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from full_disk import on_full_disk
from tiny_trainers import TINY_SETTINGS, build_tiny_start
from transformers import set_seed
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from hub_cards import schemas
from hub_cards.stages import STAGES
from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing.export import export_repository
from training.checkpoints import COMPLETE_FILE, last_complete_checkpoint
from training.collator import PackedRowsCollator
from training.data import build_training_dataset
from training.trainer import VitaAudioSFTConfig, VitaAudioSFTTrainer, prepare_model_for_stage


NUM_MODULES = 3


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A model without MCTP modules, its processor, and training examples."""
    folder = tmp_path_factory.mktemp("trainer")
    model, processor, conversations = build_tiny_start(folder)
    return model, processor, build_training_dataset(conversations, processor, folder)


def test_the_processor_is_by_default_that_of_the_model(start, tmp_path):
    model, processor, examples = start
    export_repository(copy.deepcopy(model), processor, tmp_path / "model")
    model = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "model")
    args = VitaAudioSFTConfig(output_dir=str(tmp_path / "run"), **TINY_SETTINGS | {"max_length": 128})
    trainer = VitaAudioSFTTrainer(model, args, train_dataset=examples)
    assert trainer.processing_class.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def make_trainer(start, output_dir, stage, model=None, **settings):
    initial_model, processor, examples = start
    model = copy.deepcopy(initial_model) if model is None else model
    defaults = {
        "stage": stage,
        "num_mctp_modules": NUM_MODULES,
        "max_length": 128,
        "per_device_train_batch_size": 2,
    }
    args = VitaAudioSFTConfig(output_dir=str(output_dir), **(TINY_SETTINGS | defaults | settings))
    return VitaAudioSFTTrainer(model, args, train_dataset=examples, processing_class=processor)


def with_modules(start, num_modules):
    model = copy.deepcopy(start[0])
    set_seed(1)
    model.grow_mctp_modules(num_modules)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, num_modules_before, trained",
    [
        (1, 0, lambda name: True),
        (2, 0, lambda name: name.startswith("model.mctp_modules.0.")),
        (3, 1, lambda name: name.startswith("model.mctp_modules.")),
        (4, NUM_MODULES, lambda name: True),
    ],
)
def test_a_stage_moves_what_it_trains_and_nothing_else(start, tmp_path, stage, num_modules_before, trained):
    trainer = make_trainer(start, tmp_path, stage, with_modules(start, num_modules_before))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    assert after.keys() == before.keys()
    moved = {name for name in after if not after[name].equal(before[name])}
    assert moved == {name for name in after if trained(name)}
    losses = {name for entry in trainer.state.log_history for name in entry if "_loss" in name} - {"train_loss"}
    num_modules = trainer.model.config.num_mctp_modules
    modules = {f"mctp_loss_{k}" for k in range(1, num_modules + 1)}
    assert num_modules == {1: 0, 2: 1, 3: NUM_MODULES, 4: NUM_MODULES}[stage]
    assert losses == modules | ({"lm_loss"} if stage in (1, 4) else set())


def test_new_modules_copy_the_layer_or_module_before(start):
    model = copy.deepcopy(start[0])
    prepare_model_for_stage(model, 2, NUM_MODULES)
    first = model.model.mctp_modules[0]
    for ours, theirs in zip(first.layer.parameters(), model.model.language_model.layers[-1].parameters(), strict=True):
        assert ours.equal(theirs) and ours.data_ptr() != theirs.data_ptr()
    torch.nn.init.normal_(first.proj.weight)
    prepare_model_for_stage(model, 3, NUM_MODULES)
    assert len(model.model.mctp_modules) == NUM_MODULES
    for module in model.model.mctp_modules[1:]:
        for ours, theirs in zip(module.parameters(), first.parameters(), strict=True):
            assert ours.equal(theirs) and ours.data_ptr() != theirs.data_ptr()


def test_a_stage_takes_no_model_of_a_later_one(start):
    with pytest.raises(ValueError, match="has 3 MCTP modules, but stage 2 is for 1"):
        prepare_model_for_stage(with_modules(start, 3), 2, NUM_MODULES)


@pytest.mark.parametrize(
    "name, value",
    [("stage", 5), ("num_mctp_modules", 0), ("mctp_learning_rate_multiplier", 0.0), ("mctp_loss_weight", -0.5)],
)
def test_bad_settings_are_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=name):
        VitaAudioSFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **{name: value})


@pytest.mark.slow
def test_a_new_stage_is_one_entry(start, tmp_path, monkeypatch):
    """One that trains two modules beside a frozen language model."""
    new = dataclasses.replace(
        STAGES[2], name="two MCTP modules", max_modules=2, description="two modules were trained."
    )
    monkeypatch.setitem(STAGES, 5, new)
    monkeypatch.setitem(schemas.STAGE, "enum", list(STAGES))
    # the help of the command says all that there are
    said = VitaAudioSFTConfig.__dataclass_fields__["stage"].metadata["help"]
    assert all(f"{number} {stage.name}" in said for number, stage in STAGES.items() if number != 5)
    trainer = make_trainer(start, tmp_path, 5)
    assert trainer.model.config.num_mctp_modules == 2
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("model.mctp_modules.") for name in trained)
    trainer.train()
    trainer.save_repository()
    assert "**Stage 5 of 5, two MCTP modules**: two modules were trained." in (tmp_path / "README.md").read_text()


def test_learning_rates_and_weight_decay(start, tmp_path):
    trainer = make_trainer(start, tmp_path, 4, mctp_learning_rate_multiplier=10.0, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    settings = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names.pop(id(parameter))
            settings[name] = (round(group["lr"], 12), group["weight_decay"])
    assert not names
    for name, (learning_rate, weight_decay) in settings.items():
        assert learning_rate == (1e-2 if "mctp_modules" in name else 1e-3), name
        assert weight_decay == (0.0 if "norm" in name or name.endswith("bias") else 0.1), name
    trainer.create_scheduler(num_training_steps=4)
    trainer.lr_scheduler.step()
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates[0] == trainer._get_learning_rate() and max(rates) == pytest.approx(10 * min(rates))


def alone_losses(model, samples):
    """
    Sums of the losses of samples, each in a forward of its own, and the number of labels that each head predicts.
    """
    sums, counts = torch.zeros(NUM_MODULES + 1), torch.zeros(NUM_MODULES + 1)
    for input_ids, labels in samples:
        with torch.no_grad():
            outputs = model(torch.tensor([input_ids]), labels=torch.tensor([labels]))
        losses = torch.cat([outputs.lm_loss[None], outputs.mctp_losses])
        for head in range(NUM_MODULES + 1):
            count = sum(label != -100 for label in labels[head + 1 :])
            sums[head] += losses[head] * count
            counts[head] += count
    return sums, counts


def unpack(batch):
    """The samples of a batch of packed rows."""
    for row in range(len(batch["input_ids"])):
        starts = [i for i, position in enumerate(batch["position_ids"][row].tolist()) if position == 0]
        for start, stop in zip(starts, [*starts[1:], batch["input_ids"].shape[1]]):
            yield batch["input_ids"][row, start:stop].tolist(), batch["labels"][row, start:stop].tolist()


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_packed_losses_are_those_of_samples_alone(start, tmp_path, attn_implementation):
    model = with_modules(start, NUM_MODULES)
    model.set_attn_implementation(attn_implementation)
    trainer = make_trainer(start, tmp_path, 4, model, per_device_train_batch_size=3)
    batch = next(iter(trainer.get_train_dataloader()))
    assert "attention_mask" not in batch and batch["input_ids"].shape[0] == 3
    samples = [sample for sample in unpack(batch) if any(label != -100 for label in sample[1])]
    assert len(samples) > 6
    trainer.model.eval()
    sums, counts = alone_losses(trainer.model, samples)
    with torch.no_grad():
        outputs = trainer.model(**batch)
    packed = torch.cat([outputs.lm_loss[None], outputs.mctp_losses])
    torch.testing.assert_close(packed, sums / counts, atol=2e-5, rtol=0)


def test_rows_and_the_flat_batches_of_flash_attention_have_the_same_losses(start, tmp_path):
    trainer = make_trainer(start, tmp_path, 4, with_modules(start, NUM_MODULES))
    rows = [trainer.train_dataset[index] for index in range(3)]
    pad_token_id = start[1].tokenizer.pad_token_id
    flat = DataCollatorForLanguageModeling(pad_token_id=pad_token_id, padding_free=True)(rows)
    assert flat["input_ids"].shape[0] == 1
    trainer.model.eval()
    with torch.no_grad():
        ours, theirs = (trainer.model(**batch, use_cache=False) for batch in (trainer.data_collator(rows), flat))
    torch.testing.assert_close(ours.lm_loss, theirs.lm_loss)
    torch.testing.assert_close(ours.mctp_losses, theirs.mctp_losses)


def train_and_save(start, folder):
    make_trainer(start, folder, 1, save_strategy="steps", save_steps=1).train()


@pytest.mark.slow
def test_a_full_disk_leaves_no_half_checkpoint(start, tmp_path):
    with pytest.raises(Exception, match="(?i)file too large|I/O"):
        on_full_disk(100_000, train_and_save, start, tmp_path)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_nothing_predicts_the_first_token_of_a_sample():
    rows = [[1, 2, 3, 4, 5], [6, 7]]
    lengths = [[2, 3], [2]]
    rows = [{"input_ids": ids, "labels": ids, "seq_lengths": of_row} for ids, of_row in zip(rows, lengths)]
    batch = PackedRowsCollator(pad_token_id=0)(rows)
    assert batch["labels"].tolist() == [[-100, 2, -100, 4, 5], [-100, 7, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 0, 0, 0]]


def test_rows_hold_every_sample_once(start, tmp_path):
    trainer = make_trainer(start, tmp_path, 1)
    packed = [sample for batch in trainer.get_train_dataloader() for sample in unpack(batch)]
    packed = sorted(ids for ids, labels in packed if any(label != -100 for label in labels))
    assert packed == sorted(start[2]["input_ids"])


@pytest.mark.slow
def test_accumulated_batches_weigh_tokens_as_one_large_batch_does(start, tmp_path):
    # batches differ in their number of labels: a mean of means would differ
    large = make_trainer(start, tmp_path, 4, with_modules(start, 1), per_device_train_batch_size=4, max_steps=1)
    small = make_trainer(
        start,
        tmp_path,
        4,
        with_modules(start, 1),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        max_steps=1,
    )
    logs = []
    for trainer in (large, small):
        trainer.train()
        logs.append(trainer.state.log_history[0])
    for name in ("loss", "grad_norm", "lm_loss", "mctp_loss_1"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-5), name
    assert logs[0]["loss"] == pytest.approx(
        logs[0]["lm_loss"] + sum(logs[0][f"mctp_loss_{k}"] for k in (1, 2, 3)) / 3, rel=1e-5
    )


@pytest.mark.slow
def test_logged_losses_are_those_of_the_batches(start, tmp_path):
    trainer = make_trainer(
        start,
        tmp_path,
        4,
        with_modules(start, NUM_MODULES),
        gradient_accumulation_steps=2,
        max_steps=1,
        mctp_loss_weight=0.5,
    )
    batches = [batch for batch, _ in zip(trainer.get_train_dataloader(), range(2))]
    samples = [sample for batch in batches for sample in unpack(batch) if any(label != -100 for label in sample[1])]
    sums, counts = alone_losses(trainer.model.eval(), samples)
    trainer.train()
    entry = trainer.state.log_history[0]
    expected = (sums / counts[0]).tolist()
    assert [entry["lm_loss"], *(entry[f"mctp_loss_{k}"] for k in (1, 2, 3))] == pytest.approx(expected, rel=1e-4)
    assert entry["loss"] == pytest.approx(expected[0] + 0.5 * sum(expected[1:]) / 3, rel=1e-4)


def test_evaluation_logs_the_losses(start, tmp_path):
    trainer = make_trainer(start, tmp_path, 4, with_modules(start, 1))
    metrics = trainer.evaluate(start[2].select(range(8)))
    names = {"eval_loss", "eval_lm_loss", "eval_mctp_loss_1", "eval_mctp_loss_2", "eval_mctp_loss_3"}
    assert names <= metrics.keys() | trainer.state.log_history[-1].keys()
    assert math.isfinite(metrics["eval_loss"])


@pytest.mark.slow
def test_a_stage_learns(start, tmp_path):
    trainer = make_trainer(start, tmp_path, 4, learning_rate=1e-2, max_steps=40, logging_steps=10)
    trainer.train()
    first, last = trainer.state.log_history[0], trainer.state.log_history[3]
    for name in ("lm_loss", "mctp_loss_1", "mctp_loss_2", "mctp_loss_3"):
        assert last[name] < first[name] - 0.5, name


@pytest.mark.parametrize("layout, mode", [([1, 10, 4, 10], "vanilla"), ([1, 3], [1, 3])])
def test_a_model_knows_its_layout_and_decodes_by_it_once_it_can(start, tmp_path, layout, mode):
    processor = copy.copy(start[1])
    processor.interleave_pattern = layout
    trainer = make_trainer((start[0], processor, start[2]), tmp_path, 4)
    assert trainer.model.config.interleave_pattern == layout
    assert trainer.model.generation_config.mctp_mode == mode


def test_another_layout_has_to_be_asked_for(start, tmp_path):
    model, processor = copy.deepcopy(start[0]), copy.copy(start[1])
    model.config.interleave_pattern, processor.interleave_pattern = [2, 4], [1, 3]
    with pytest.raises(
        ValueError, match="trained with the `interleave_pattern` .2, 4., but the processor.* has .1, 3."
    ):
        make_trainer((start[0], processor, start[2]), tmp_path, 4, copy.deepcopy(model))
    trainer = make_trainer((start[0], processor, start[2]), tmp_path, 4, model, interleave_pattern=[1, 3])
    assert trainer.model.config.interleave_pattern == [1, 3]


def test_boost_is_the_default_mode_of_ten_modules(start, tmp_path):
    trainer = make_trainer(start, tmp_path, 3, num_mctp_modules=10)
    trainer.save_model(str(tmp_path / "saved"))
    assert type(trainer.model).from_pretrained(tmp_path / "saved").generation_config.mctp_mode == "boost"


def test_only_complete_checkpoints_count(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11", "checkpoint-12-old"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-9" / COMPLETE_FILE).touch()
    (tmp_path / "checkpoint-10" / COMPLETE_FILE).touch()
    (tmp_path / "checkpoint-12-old" / COMPLETE_FILE).touch()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


@pytest.mark.slow
def test_the_only_checkpoint_stays_until_the_next_one_is_whole(start, tmp_path, monkeypatch):
    touch = Path.touch

    def fail_at_the_second(path):
        if path.parent.name == "checkpoint-2":
            raise OSError(28, "No space left on device")
        touch(path)

    monkeypatch.setattr(Path, "touch", fail_at_the_second)
    trainer = make_trainer(start, tmp_path, 1, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=1)
    with pytest.raises(OSError, match="No space"):
        trainer.train()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    monkeypatch.undo()
    trainer = make_trainer(start, tmp_path, 1, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=1)
    trainer.train(resume_from_checkpoint=True)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
