# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`vita-audio talk` with a real server: files in the place of microphone and loudspeaker, and ALSA's null device."""

import asyncio
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
from places import MINI
from websockets.asyncio.client import connect

from processing.audio_vita_audio import load_audio
from serving.audio_formats import to_pcm16
from serving.cli import main
from serving.sound_devices import BLOCK_MS, BYTES_PER_MS, SAMPLING_RATE, AnswerFile
from serving.talk import Conversation
from training.evaluation.recognition import load_recognizer
from training.evaluation.scoring import answer_is_right, word_error_rate


QUESTION = str(MINI / "sample_question.wav")
ANSWER = "The sum of seven and six is thirteen."


def url_of(server) -> str:
    return f"ws://127.0.0.1:{server.port}/v1/realtime"


@pytest.fixture(scope="module")
def recognize():
    return load_recognizer()


@pytest.fixture
def refusal(capsys):
    """Runs a command that must fail, and gives what it says."""

    def run(*arguments):
        assert main(["talk", *arguments]) == 1
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1
        return said.err

    return run


@pytest.mark.slow
def test_each_file_is_a_turn(http_server, recognize, tmp_path, capsys):
    output = tmp_path / "answers.flac"
    arguments = ["--url", url_of(http_server), "--input", QUESTION, QUESTION, "--fast", "--output", str(output)]
    assert main(["talk", *arguments, "--mode", "vanilla"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if line[0] != "("] == ["You", "Answer"] * 2
    assert answer_is_right(lines[0], "seven and six")
    assert lines[1] == f"Answer: {ANSWER}"
    times = r"\(First audio after (\d\.\d{3}) s; (\d\.\d{3}) s in the server\)"
    first, server = re.fullmatch(times, lines[2]).groups()
    # both clocks stop at the same moment, in two processes
    assert 0 < float(server) <= float(first) + 0.05
    speech, rate = soundfile.read(output, dtype="float32")
    assert rate == SAMPLING_RATE
    # the answer of the first turn is at the beginning
    heard = recognize(speech[: 3 * rate], rate)
    assert answer_is_right(heard, "sum of seven and six"), heard


@pytest.mark.slow
def test_without_a_url_a_server_is_started_and_ended(recognize, tmp_path):
    output = tmp_path / "answer.wav"
    # a proxy for other hosts does not stand between
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:1", "all_proxy": "http://127.0.0.1:1"}
    command = [sys.executable, "-m", "serving.cli", "talk", "--input", QUESTION, "--output", str(output)]
    read_end, write_end = os.pipe()
    done = subprocess.run(command, stdin=read_end, capture_output=True, text=True, env=environment, timeout=120)
    os.close(read_end)
    assert done.returncode == 0, done.stderr
    assert f"Answer: {ANSWER}" in done.stdout
    heard = recognize(*soundfile.read(output, dtype="float32"))
    assert word_error_rate([ANSWER], [heard]) <= 0.25, heard
    # a server that still ran would have the other end of its standard input
    with pytest.raises(BrokenPipeError), open(write_end, "wb", buffering=0) as standard_input:
        standard_input.write(b"\n")


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(tmp_path):
    command = [sys.executable, "-m", "serving.cli", "talk", "--model", str(tmp_path / "none"), "--input", QUESTION]
    done = subprocess.run([*command, "--output", str(tmp_path / "a.wav")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert re.search(r"error: The server did not start: .*none", done.stderr.splitlines()[-1])


async def speak_into_the_answer(url: str, output: Path) -> tuple[str, Conversation]:
    """Two questions as a microphone hears them, the second one while the first is answered."""
    question = to_pcm16(load_audio(QUESTION, SAMPLING_RATE))
    printed = io.StringIO()
    loudspeaker = AnswerFile(output)

    async with connect(url) as connection:
        conversation = Conversation(connection, loudspeaker, is_live=True, file=printed)

        async def microphone():
            async def blocks(audio):
                for begin in range(0, len(audio), BLOCK_MS * BYTES_PER_MS):
                    await asyncio.sleep(BLOCK_MS / 1000)
                    yield audio[begin : begin + BLOCK_MS * BYTES_PER_MS]

            silence = bytes(BLOCK_MS * BYTES_PER_MS)
            async for block in blocks(10 * silence + question):
                yield block
            while conversation.answer is None or loudspeaker.played_ms < 600:
                async for block in blocks(silence):
                    yield block
            first = conversation.answer
            async for block in blocks(question):
                yield block
            while conversation.answer is first or not conversation.answer.done.is_set() or loudspeaker.is_playing:
                async for block in blocks(silence):
                    yield block

        await conversation.run(lambda: conversation.listen(microphone()))
    loudspeaker.close()
    return printed.getvalue(), conversation


@pytest.mark.slow
def test_who_speaks_into_an_answer_stops_it(http_server, tmp_path):
    output = tmp_path / "answers.wav"
    printed, conversation = asyncio.run(speak_into_the_answer(url_of(http_server), output))
    milliseconds = 1000 * float(re.search(r"interrupted after (\d\.\d\d) s", printed)[1])
    # it takes the server some of the second question to notice it
    assert 600 <= milliseconds < 1500
    assert printed.count("Answer: ") == 2 and printed.count("interrupted") == 1
    # the file has what was heard of the first answer, and all of the second
    heard = milliseconds * BYTES_PER_MS + conversation.answer.num_bytes
    assert 2 * len(soundfile.read(output)[0]) == pytest.approx(heard, abs=10 * BYTES_PER_MS)


def test_an_answer_file_takes_the_time_of_a_loudspeaker(tmp_path):
    output = AnswerFile(tmp_path / "a.wav")
    output.begin()
    assert not output.is_playing and output.played_ms == 0
    output.put(bytes(60_000 * BYTES_PER_MS))
    time.sleep(0.05)
    assert output.is_playing
    output.stop()
    assert not output.is_playing
    assert 50 <= output.played_ms < 30_000
    output.begin()
    output.put(bytes(100 * BYTES_PER_MS))
    output.close()
    assert 0.15 * SAMPLING_RATE <= len(soundfile.read(tmp_path / "a.wav")[0]) < 30 * SAMPLING_RATE


def test_mistakes_are_said_before_anything_is_loaded(refusal, tmp_path):
    assert "--fast is for files" in refusal("--fast")
    assert "--api_key is for --url" in refusal("--api_key", "a-key")
    url = ["--url", "ws://127.0.0.1:1/v1/realtime"]
    assert "--model, --threads: no effect with --url" in refusal(*url, "--model", str(MINI), "--threads", "1")
    (tmp_path / "there.wav").touch()
    there = ["--input", QUESTION, "--output", str(tmp_path / "there.wav")]
    assert "exists; --force" in refusal(*there)
    assert "must end with .wav" in refusal("--input", QUESTION, "--output", "a.txt")
    assert "no audio file none.wav" in refusal("--input", "none.wav")


def test_a_server_that_refuses_or_is_none(refusal, http_servers, tmp_path):
    files = ["--input", QUESTION, "--output", str(tmp_path / "a.wav"), "--fast", "--url"]
    assert "cannot be reached: Connection refused" in refusal(*files, "ws://127.0.0.1:1/v1/realtime")
    assert "--url must be such as ws://" in refusal(*files, "127.0.0.1:1")
    server = http_servers.start(api_key="a-key", max_sessions=0)
    assert "refuses: The API key is wrong." in refusal(*files, url_of(server), "--api_key", "another")
    assert "refuses: This server needs an API key" in refusal(*files, url_of(server))
    assert "refuses: All 0 sessions" in refusal(*files, url_of(server), "--api_key", "a-key")
    assert "mctp_mode" in refusal(*files, url_of(http_servers.start()), "--mode", "fastest")
    assert not (tmp_path / "a.wav").exists()


def test_the_key_is_read_from_the_environment(refusal, http_servers, tmp_path, monkeypatch):
    server = http_servers.start(api_key="a-key", max_sessions=0)
    monkeypatch.setenv("VITA_AUDIO_API_KEY", "a-key")
    assert "refuses: All 0 sessions" in refusal(
        "--input", QUESTION, "--output", str(tmp_path / "a.wav"), "--url", url_of(server)
    )


@pytest.fixture
def alsa(tmp_path):
    """An environment whose devices are ALSA's null ones."""
    if not sys.platform.startswith("linux"):
        pytest.skip("ALSA is of Linux")
    settings = tmp_path / "asound.conf"
    settings.write_text("pcm.!default { type null }\nctl.!default { type null }\n")
    return {**os.environ, "ALSA_CONFIG_PATH": str(settings)}


def talk_by_devices(environment, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "serving.cli", "talk", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    if "PortAudio (on Debian" in done.stderr and "CI" not in os.environ:
        pytest.skip("PortAudio is not installed: apt-get install libportaudio2")
    return done


@pytest.mark.slow
def test_answers_are_played_by_the_loudspeaker(alsa, http_server):
    done = talk_by_devices(alsa, "--url", url_of(http_server), "--input", QUESTION, "--fast")
    assert done.returncode == 0, done.stderr
    assert f"Answer: {ANSWER}" in done.stdout and "First audio after" in done.stdout


@pytest.mark.slow
def test_a_machine_without_devices_says_so(alsa, http_server, tmp_path):
    (tmp_path / "none.conf").write_text("pcm.!default { type hw card 31 }\nctl.!default { type null }\n")
    without = {**alsa, "ALSA_CONFIG_PATH": str(tmp_path / "none.conf")}
    by_loudspeaker = talk_by_devices(without, "--url", url_of(http_server))
    assert by_loudspeaker.returncode == 1
    assert "The loudspeaker cannot be used" in by_loudspeaker.stderr.splitlines()[-1]
    by_microphone = talk_by_devices(without, "--url", url_of(http_server), "--output", str(tmp_path / "a.wav"))
    assert "The microphone cannot be used" in by_microphone.stderr.splitlines()[-1]
    assert "--input takes a file in its place." in by_microphone.stderr


@pytest.mark.slow
def test_a_microphone_gives_blocks(alsa):
    program = (
        "import asyncio\n"
        "from serving.sound_devices import Microphone\n"
        "async def hear():\n"
        "    microphone = Microphone()\n"
        "    print(len(await anext(microphone)))\n"
        "    microphone.close()\n"
        "asyncio.run(hear())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=alsa, timeout=60)
    if "PortAudio (on Debian" in done.stderr and "CI" not in os.environ:
        pytest.skip("PortAudio is not installed: apt-get install libportaudio2")
    assert done.stdout.strip() == str(BLOCK_MS * BYTES_PER_MS), done.stderr


@pytest.mark.slow
def test_without_its_packages_the_command_says_what_to_install():
    for package, said in (("websockets", "needs the package websockets"), ("sounddevice", "the package sounddevice")):
        program = f"import sys; sys.modules[{package!r}] = None; from serving.cli import main; main(['talk'])"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert said in done.stderr and "pip install" in done.stderr
