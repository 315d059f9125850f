# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Writes the card of a model, from the files in its folder alone:

- `config.json` and the headers of the weights say what the model is;
- `training_args.json` and `trainer_state.json`, which training writes, say how it was trained;
- `results.json` and `results.png`, which evaluation writes, and `benchmarks.json`, a copy of the `results.json` of
  `training.evaluation.evaluate_benchmarks`, say how good it is;
- `codec_results.json`, which `training.evaluation.evaluate_codec` writes, says what the codec takes from speech;
- `reproduction.json` and `training_logs.png`, which `training.reproduce` writes, say how all of it was made;
- the card that is there has licence and languages and, where no training was recorded, the origin.

If a file is missing, the card says so.
"""

import json
import math
import re
from pathlib import Path

import jsonschema
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from . import WRITTEN_BY_US
from .plots import plot_losses
from .results import (
    benchmark_results,
    benchmark_table,
    codec_table,
    eval_results,
    is_hub_id,
    loss_table,
    results_table,
    tolerance_table,
)
from .schemas import (
    ADAPTER,
    CODEC_RESULTS,
    CONFIG,
    INDEX,
    REPRODUCTION,
    RESULTS,
    TRAINER_STATE,
    TRAINING_RECORD,
    check_fields,
)
from .stages import STAGES


CARD_FILE = "README.md"
# What PEFT calls the files of an adapter
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
# What transformers calls weights in one file, and the index of those in several
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
PROCESSOR_FILE = "processor_config.json"
TRAINING_RECORD_FILE = "training_args.json"
TRAINER_STATE_FILE = "trainer_state.json"
RESULTS_FILE = "results.json"
RESULTS_PICTURE = "results.png"
BENCHMARKS_FILE = "benchmarks.json"
CODEC_RESULTS_FILE = "codec_results.json"
LOSSES_PICTURE = "losses.png"
SAMPLE_QUESTION = "sample_question.wav"
REPRODUCTION_FILE = "reproduction.json"
LOGS_FILE, LOGS_PICTURE = "training_logs.json", "training_logs.png"
# What was measured with the weights as they are. The codec's results are none of it.
MEASURED_FILES = (RESULTS_FILE, RESULTS_PICTURE, BENCHMARKS_FILE)
# `copied_card` takes these along. The picture of the losses is not among them, because it is drawn with every card.
FILES_OF_THE_CARD = (
    TRAINING_RECORD_FILE,
    TRAINER_STATE_FILE,
    *MEASURED_FILES,
    CODEC_RESULTS_FILE,
    SAMPLE_QUESTION,
    REPRODUCTION_FILE,
    LOGS_FILE,
    LOGS_PICTURE,
)

# People edit these files. Without a check, the template would fail at a wrong entry and not name the file.
SCHEMAS = {
    "config.json": CONFIG,
    PROCESSOR_FILE: {"type": "object"},
    TRAINING_RECORD_FILE: TRAINING_RECORD,
    TRAINER_STATE_FILE: TRAINER_STATE,
    RESULTS_FILE: RESULTS,
    BENCHMARKS_FILE: RESULTS,
    CODEC_RESULTS_FILE: CODEC_RESULTS,
    ADAPTER_CONFIG_FILE: ADAPTER,
    REPRODUCTION_FILE: REPRODUCTION,
    INDEX_FILE: INDEX,
}

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.jinja"

# The releases of transformers that the code of a repository was tested with, as in `setup.py`
TESTED_RELEASES = ">=5.19,<5.25"
# The releases of torchao that quantised weights were tested with, as in the extra `quantization` of `setup.py`
TESTED_TORCHAO = ">=0.18,<0.19"

DEFAULT_LICENSE, DEFAULT_LANGUAGE = "apache-2.0", ["en"]
TAGS = ["vita-audio", "speech-language-model", "automatic-speech-recognition", "text-to-speech"]
REQUIRED_METADATA = ("license", "language", "library_name", "pipeline_tag", "tags")
# https://huggingface.co/docs/hub/model-cards#specifying-a-base-model
BASE_MODEL_RELATIONS = ("adapter", "finetune", "merge", "quantized")
# The Hub has no relation of its own for the same weights in another format: such models go by this one.
CONVERTED = "quantized"


def render_model_card(
    folder: str | Path,
    repo_id: str | None = None,
    revision: str | None = None,
    license: str | None = None,
    language: list[str] | None = None,
    converted_from: str | None = None,
) -> ModelCard:
    """
    Args:
        folder: folder of a complete model, as `vita-audio export` and training write it.
        repo_id: Hub id of the model, now or later; by default the one that training pushes to, if it does.
        revision: branch of `repo_id`, for the example that loads the model.
        license: the Hub's identifier of the licence; by default that of the card that is there or of the training run.
        language: codes of the languages; by default those of the card that is there or of the training run.
        converted_from: Hub id of the released checkpoint that the model was converted from.

    Raises:
        FileNotFoundError: there is no model in the folder.
        ValueError: a file in the folder is malformed, its model is of another type, or the Hub does not accept
            `repo_id`, `license` or `language`.
    """
    folder = Path(folder)
    config = read_model_config(folder)
    record = read_json(folder / TRAINING_RECORD_FILE) or {}
    state = read_json(folder / TRAINER_STATE_FILE) or {}
    results = read_json(folder / RESULTS_FILE)
    metadata = metadata_of(folder / CARD_FILE)
    quantization = describe_quantization(config)
    # Training writes no quantised models: what it has pushed are the weights that these were made of.
    if repo_id is None and quantization is None:
        # A recorded branch is one of the recorded repository, so it counts only together with that.
        repo_id, revision = record.get("repo_id"), revision or record.get("revision")
    if repo_id is not None:
        validate_repo_id(repo_id)
    check_fields({key: value for key, value in (("license", license), ("language", language)) if value}, "the card")
    stage = record.get("stage")
    model_id = repo_id or folder.resolve().name
    name = model_id.rpartition("/")[2]
    log_history = state.get("log_history", [])
    # A training record means that the weights have changed since what the card says of their origin.
    bases, relation = ([], None) if record else (metadata.get("base_model"), metadata.get("base_model_relation"))
    # The Hub takes a list as well
    origin = next(iter(bases), None) if isinstance(bases, list) else bases
    if converted_from is None and relation == CONVERTED:
        converted_from = origin
    base_model = converted_from or base_model_of(record, repo_id)
    if base_model is None and isinstance(origin, str) and is_hub_id(origin):
        base_model = origin
    relation = CONVERTED if converted_from else "merge" if relation == "merge" else "finetune"
    adapter = read_json(folder / ADAPTER_CONFIG_FILE)
    if adapter is not None:
        base_model, relation = adapter.get("base_model_name_or_path"), "adapter"
        if not is_hub_id(base_model or ""):
            base_model = None
    dataset = record.get("dataset", {})
    benchmarks = (read_json(folder / BENCHMARKS_FILE) or {}).get("benchmarks", {})
    codec_results = read_json(folder / CODEC_RESULTS_FILE)
    evaluations = benchmark_results(benchmarks)
    if results and "modes" not in results:
        raise ValueError(f"{folder / RESULTS_FILE} has no `modes`; `vita-audio evaluate` writes a file that has.")
    second = None
    if results:
        evaluations += eval_results(results, dataset.get("repo_id"))
        second = results.get("second_recognizer")
    # What the card had before counts more than what the run was told: `--license` may have changed it.
    license = license or metadata.get("license") or record.get("license") or DEFAULT_LICENSE
    data = ModelCardData(
        license=license,
        **details_of_license(license, metadata),
        language=language or metadata.get("language") or record.get("language") or DEFAULT_LANGUAGE,
        library_name="transformers" if adapter is None else "peft",
        pipeline_tag="audio-to-audio",
        tags=TAGS
        + (["lora", "transformers"] if adapter else [])
        + (["generated_from_trainer", "trl", "sft", f"stage-{stage}"] if stage else []),
        base_model=base_model,
        base_model_relation=relation if base_model else None,
        datasets=[dataset["repo_id"]] if "repo_id" in dataset else None,
        metrics=sorted({evaluation.metric_type for evaluation in evaluations}) or None,
        # `huggingface_hub` asks for this name where there are figures, and makes the model-index of both.
        model_name=name if evaluations else None,
        eval_results=evaluations or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        written_by_us=WRITTEN_BY_US,
        name=name,
        model_id=model_id,
        revision=revision if repo_id else None,
        is_on_hub=repo_id is not None,
        stage=stage,
        stages=STAGES,
        converted_from=converted_from,
        config=config,
        has_processor=(folder / PROCESSOR_FILE).is_file(),
        tested_releases=TESTED_RELEASES,
        tested_torchao=TESTED_TORCHAO,
        # Quantised weights are packed, several to a number, and have scales beside them.
        num_parameters=None if quantization else count_parameters(folder, "model*.safetensors"),
        quantization=quantization,
        adapter=adapter,
        base_model=base_model,
        num_adapter_parameters=count_parameters(folder, ADAPTER_WEIGHTS_FILE),
        record=record,
        reproduction=read_json(folder / REPRODUCTION_FILE),
        logs_picture=LOGS_PICTURE if (folder / LOGS_PICTURE).is_file() else None,
        losses=loss_table(log_history),
        losses_picture=LOSSES_PICTURE,
        steps=state.get("global_step"),
        results=results,
        # A model may have been scored at several tolerances and in no mode by itself
        results_table=results_table(results["modes"]) if results and results["modes"] else None,
        second_table=results_table(second["modes"]) if second else None,
        tolerance_table=tolerance_table(results["tolerance"]) if results and "tolerance" in results else None,
        benchmark_table=benchmark_table(benchmarks) if benchmarks else None,
        codec_results=codec_results,
        codec_table=codec_table(codec_results["results"]) if codec_results else None,
        results_picture=RESULTS_PICTURE if (folder / RESULTS_PICTURE).is_file() else None,
        sample_question=SAMPLE_QUESTION if (folder / SAMPLE_QUESTION).is_file() else None,
    )


def write_model_card(folder: str | Path, overwrite: bool = False, **kwargs) -> Path:
    """
    Writes the card, and the picture of the losses where a training run has left them.

    Args:
        folder: folder of a complete model.
        overwrite: whether a card that was edited by hand is replaced, too.
        kwargs: arguments of [`render_model_card`].

    Raises:
        ValueError: the card that is there was edited by hand.
    """
    folder = Path(folder)
    path = folder / CARD_FILE
    if not (overwrite or is_ours(path)):
        raise ValueError(f"{path} was edited by hand; it is only written anew with --overwrite.")
    card = render_model_card(folder, **kwargs)
    state = read_json(folder / TRAINER_STATE_FILE)
    # A run that ended before its first log has no losses to draw.
    if state and loss_table(state["log_history"]) is not None:
        plot_losses(state["log_history"], folder / LOSSES_PICTURE)
    # Not by `replaced_whole`: this lowest floor imports no `modeling_vita_audio`. The next card overwrites what a kill
    # leaves
    unfinished = folder / f".{CARD_FILE}.unfinished"
    card.save(unfinished)
    unfinished.replace(path)
    return path


def add_benchmarks(folder: str | Path, results_file: str | Path) -> None:
    """
    Copies the figures of `training.evaluation.evaluate_benchmarks` into the folder of a model, without paths of this
    machine.

    Raises:
        ValueError: the file has no figures of benchmarks.
    """
    benchmarks = (read_json(Path(results_file)) or {}).get("benchmarks")
    if not benchmarks:
        raise ValueError(
            f"{results_file} has no benchmarks; `python -m training.evaluation.evaluate_benchmarks` writes a file "
            "that has."
        )
    for figures in (figures for modes in benchmarks.values() for figures in modes.values()):
        if not is_hub_id(figures["dataset"]):
            figures["dataset"] = Path(figures["dataset"]).name
    content = json.dumps({"benchmarks": benchmarks}, indent=2) + "\n"
    (Path(folder) / BENCHMARKS_FILE).write_text(content, encoding="utf-8")


def is_ours(path: Path) -> bool:
    """Whether a card can be written anew: there is none, or it was not edited by hand."""
    return not path.exists() or WRITTEN_BY_US in path.read_text(encoding="utf-8")


def check_metadata(card: ModelCard, path: str | Path = CARD_FILE) -> None:
    """
    Raises:
        ValueError: the card lacks metadata that the Hub needs to show and find a model, or some of it is wrong.
    """
    missing = [f"`{key}`" for key in REQUIRED_METADATA if not card.data.get(key)]
    if missing:
        raise ValueError(
            f"{path} lacks the metadata {', '.join(missing)}; `vita-audio card --overwrite` writes a card with it."
        )
    check_fields(card.data.to_dict(), str(path))
    for key in ("base_model", "datasets"):
        names = card.data.get(key) or []
        for name in [names] if isinstance(names, str) else names:
            try:
                validate_repo_id(name)
            except HFValidationError:
                raise ValueError(f"{path}: `{key}` must be ids of the Hub, got {name!r}.") from None
    relation = card.data.get("base_model_relation")
    if relation is not None and relation not in BASE_MODEL_RELATIONS:
        raise ValueError(f"{path}: `base_model_relation` must be one of {BASE_MODEL_RELATIONS}, got {relation!r}.")


def base_model_of(record: dict, repo_id: str | None) -> str | None:
    """The Hub id that a run started from or, if that is a stage in the same repository, the base model of it."""
    starts_from = (record.get("starts_from") or {}).get("repo_id")
    return record.get("base_model") if starts_from in (None, repo_id) else starts_from


def details_of_license(license: str | None, metadata: dict) -> dict:
    """The name and the link that a card has of the licence `other`, as long as it keeps its licence."""
    names = ("license_name", "license_link") if license == metadata.get("license") else ()
    return {name: metadata[name] for name in names if name in metadata}


def describe_quantization(config: dict) -> dict | None:
    """The method by which the weights were quantised and, of torchao, their bits; None where they are as trained."""
    quantization = config.get("quantization_config")
    if quantization is None:
        return None
    # torchao writes the class of its configuration, such as Int4WeightOnlyConfig
    bits = re.search(r"Int(\d+)WeightOnlyConfig", json.dumps(quantization))
    return {"method": quantization.get("quant_method"), "bits": bits and bits[1]}


def read_model_config(folder: Path) -> dict:
    config = read_json(folder / "config.json")
    if config is None:
        corpus = (folder / "conversations.jsonl").is_file()
        hint = " A corpus is published by `python -m hub_cards.publish_corpus`." if corpus else ""
        raise FileNotFoundError(f"There is no model in {folder}: it has no config.json.{hint}")
    if config.get("model_type") != "vita_audio":
        raise ValueError(f"{folder} has a model of the type {config.get('model_type')!r}, not 'vita_audio'.")
    return config


def metadata_of(path: Path) -> dict:
    """The metadata of a card; empty if there is no card."""
    return load_card(path, ignore_metadata_errors=True).data.to_dict() if path.is_file() else {}


def load_card(path: Path, **kwargs) -> ModelCard:
    """
    Raises:
        ValueError: the file is no text, or its metadata is malformed.
    """
    try:
        return ModelCard.load(path, **kwargs)
    # huggingface_hub checks nothing, so that wrong metadata can lead to any error.
    except Exception as error:
        raise ValueError(f"{path} is no card with valid metadata: {str(error):.200}") from error


def count_parameters(folder: Path, pattern: str) -> int | None:
    """The number of parameters in the weights of a folder, in files that match `pattern`; None if there are none."""
    from safetensors import SafetensorError, safe_open

    total = 0
    # The codec's weights lie in a subfolder, where this does not look.
    for path in sorted(folder.glob(pattern)):
        try:
            with safe_open(path, framework="numpy") as weights:
                # `get_slice` reads only the header, so large weights cost no time, and bfloat16, which numpy does not
                # have, does no harm.
                total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())
        except SafetensorError as error:
            raise ValueError(f"{path} is broken or not complete: {error}") from error
    return total or None


def read_json(path: Path) -> dict | None:
    """
    Raises:
        ValueError: the file is malformed.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # The empty schema accepts everything, for files that are read under a name of the user's choice.
        jsonschema.validate(content, SCHEMAS.get(path.name, {}))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {str(error):.200}") from error
    # Its message repeats the value that is wrong, which may be the whole file, so it is cut off.
    except jsonschema.ValidationError as error:
        raise ValueError(
            f"{path} is not as our commands write it, at {error.json_path}: {error.message:.200}"
        ) from error
    return content
