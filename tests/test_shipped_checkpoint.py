# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
import subprocess
import sys

import pytest
import soundfile as sf
import torch
from places import MINI, ROOT
from transformers import AutoModel, AutoProcessor, pipeline
from transformers.dynamic_module_utils import get_imports

from hub_cards.results import codec_table
from modeling_vita_audio import MCTP_MODES
from modeling_vita_audio.saving_vita_audio import code_files
from processing.conversation_vita_audio import spoken_conversation, synthesis_conversation
from serving.cli import main
from training.evaluation.recognition import WhisperRecognizer
from training.evaluation.report import CODEC_TABLE, RESULTS_TABLE, results_table
from training.evaluation.scoring import word_error_rate


MAX_BYTES = 64_000_000


def test_checkpoint_is_small_and_has_all_the_code():
    assert sum(path.stat().st_size for path in MINI.rglob("*") if path.is_file()) <= MAX_BYTES
    # The installation copies the code there, for users of the folder who cannot import the packages.
    files = code_files(["modeling_vita_audio", "processing_vita_audio", "pipeline_vita_audio"])
    assert {path.name for path in MINI.glob("*.py")} == {path.name for path in files.values()}
    for path in files.values():
        is_copy = (MINI / path.name).read_text() == path.read_text()
        assert is_copy, f"{path} has changed since it was copied into {MINI}: `pip install -e .` copies it again"


def test_its_code_imports_only_what_transformers_brings():
    """Also what a function imports: transformers asks for all of it before it loads a file."""
    usual = {"torch", "transformers", "tokenizers", "numpy", "safetensors", "huggingface_hub", "jinja2", "packaging"}
    for path in MINI.glob("*.py"):
        assert set(get_imports(path)) - sys.stdlib_module_names <= usual, path.name


# Clients of the server are run by the tests of serving
SNIPPETS = [
    block
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    if "OpenAI(" not in block
]


@pytest.mark.slow
@pytest.mark.parametrize("block", SNIPPETS)
def test_readme_snippets_run_as_printed(block, tmp_path):
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", block], cwd=ROOT, env=environment, check=True, timeout=300)


def test_readme_names_every_mode():
    (line,) = (line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("`mctp_mode` is"))
    assert re.findall(r'"(\w+)"', line) == list(MCTP_MODES)


def test_readme_shows_the_results_of_the_checkpoint():
    results = json.loads((MINI / "results.json").read_text())
    assert list(results["modes"]) == ["vanilla", "boost"]
    codec_results = json.loads((MINI / "codec_results.json").read_text())["results"]
    readme = (ROOT / "README.md").read_text()
    for name, table in ((RESULTS_TABLE, results_table(results)), (CODEC_TABLE, codec_table(codec_results))):
        assert readme.partition(f"<!-- {name} -->")[2].strip().startswith(table)


@pytest.mark.slow
def test_the_first_command_prints_what_the_readme_shows(tmp_path):
    (shown,) = re.findall(r"```\n(Heard: .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    command = [sys.executable, "-m", "serving.cli", "answer", "--output", str(tmp_path / "answer.wav")]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    printed = done.stdout.replace(f"{tmp_path}/", "")
    # the last line of speech may say how to play it
    pattern = re.escape(shown).replace(re.escape("..."), "[0-9.]+").replace(re.escape("Hz)"), r"Hz\)[^\n]*")
    assert re.fullmatch(pattern, printed), printed


@pytest.mark.slow
def test_the_sample_question_is_answered_in_speech_and_text(tmp_path):
    output = tmp_path / "answer.wav"
    command = [sys.executable, "-m", "serving.cli", "answer", "--json", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    report = json.loads(done.stdout)
    samples, sampling_rate = sf.read(output)
    assert sampling_rate == 16000
    assert len(samples) / sampling_rate == pytest.approx(report["audio_seconds"])
    assert report["audio_seconds"] > 0.5 and abs(samples).max() > 0.05
    assert report["mode"] == "boost"
    assert report["text"] == "The sum of seven and six is thirteen."
    assert report["question"] == "Tell me the sum of seven and six."
    # Whisper tiny.en hears all eight words but "thirteen"
    assert word_error_rate([report["text"]], [WhisperRecognizer()(samples, sampling_rate)]) <= 1 / 8


@pytest.mark.slow
def test_a_written_question_is_answered_aloud(tmp_path, capsys):
    assert main(["ask", "What is two plus three?", "--json", "--output", str(tmp_path / "a.flac")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["text"] == "The sum of two and three is five."
    assert main(["transcribe", str(tmp_path / "a.flac"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == report["text"]


QUESTIONS = {
    f"What is {a} plus {b}?": f"The sum of {a} and {b} is {c}."
    for a, b, c in (
        ("two", "three", "five"),
        ("one", "six", "seven"),
        ("four", "four", "eight"),
        ("nine", "one", "ten"),
        ("five", "zero", "five"),
        ("two", "nine", "eleven"),
    )
}


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_it_answers_right_with_quantized_weights(quantization):
    pytest.importorskip("torchao")
    model = AutoModel.from_pretrained(MINI, quantization_config=quantization)
    pipe = pipeline("audio-to-audio", model=model, processor=AutoProcessor.from_pretrained(MINI))
    assert pipe(str(MINI / "sample_question.wav"))["text"] == "The sum of seven and six is thirteen."
    answers = [pipe(question) for question in QUESTIONS]
    assert [answer["text"] for answer in answers] == list(QUESTIONS.values())
    assert all(len(answer["audio"]) > 8000 for answer in answers)


@pytest.mark.slow
def test_speech_only_head_changes_nothing_about_spoken_answers():
    model, processor = AutoModel.from_pretrained(MINI), AutoProcessor.from_pretrained(MINI)
    conversations = [spoken_conversation(str(MINI / "sample_question.wav"))]
    conversations += [synthesis_conversation(text) for text in ("The cat is black.", "Today is a good day.")]
    for conversation in conversations:
        inputs = processor.apply_chat_template(
            conversation, tokenize=True, return_dict=True, add_generation_prompt=True
        )
        for mode in ("boost", "balance"):
            expected = model.generate(**inputs, mctp_mode=mode, max_new_tokens=128)
            sequences = model.generate(**inputs, mctp_mode=mode, max_new_tokens=128, mctp_speech_only_head=True)
            assert sequences.tolist() == expected.tolist()
            spoken = processor.post_process_generation(expected[:, inputs["input_ids"].shape[1] :])[0]["audio_codes"]
            assert len(spoken) > 8


def test_the_codec_alone_is_loaded_and_understands_its_own_speech():
    codec = AutoModel.from_pretrained(MINI / "audio_tokenizer").eval()
    assert codec.config.voice_names == ["joe"]
    samples, _ = sf.read(MINI / "sample_question.wav", dtype="float32")
    codes = codec.encode(torch.from_numpy(samples)[None, None]).audio_codes
    spoken = codec.decode(codes).audio_values
    assert spoken.shape[-1] == 1280 * codes.shape[-1] and spoken.abs().max() > 0.05
    heard = codec.encode(spoken).audio_codes
    # of the three levels of each of the seven latents
    levels = [code // 3 ** torch.arange(7) % 3 for code in (codes[0, 0, :, None], heard[0, 0, :, None])]
    assert (levels[0] == levels[1]).float().mean() > 0.75


def test_the_codec_hears_the_same_in_parts():
    codec = AutoModel.from_pretrained(MINI / "audio_tokenizer").eval()
    waveform = torch.from_numpy(sf.read(MINI / "sample_question.wav", dtype="float32")[0])[None, None]
    codes = codec.encode(waveform).audio_codes
    assert codes.shape == (1, 1, -(-waveform.shape[-1] // 1280)) and len(codes.unique()) > 12
    state = codec.init_encoder_state()
    for part in waveform.split(7000, dim=-1):
        codec.encode_chunk(part, state)
    # where the user may have ended, and where it really ends
    assert codec.encode_chunk(waveform[..., :0], state.copy(), is_final=True).audio_codes.equal(codes)
    assert codec.encode_chunk(waveform[..., :0], state, is_final=True).audio_codes.equal(codes)
    # louder or quieter, the same is said
    assert (codec.encode(0.3 * waveform).audio_codes == codes).float().mean() > 0.6
