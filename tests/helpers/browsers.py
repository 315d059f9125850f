# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Debian's Chromium without a window, whose microphone hears a file, and the page in it."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr
from playwright.sync_api import Browser, Page, Playwright


MICROPHONE_RATE = 48000  # Hz, of Chromium's fake device
PAGE_RATE = 24000  # Hz, of what the page plays

# Everything that the page has played since the last call, and empties it
TAKE_PLAYED = """() => {
  let text = "";
  for (const block of vitaAudio.played.splice(0)) text += String.fromCharCode(...new Uint8Array(block.buffer));
  return btoa(text);
}"""


def write_recording(path: Path, *parts: float | str) -> Path:
    """A recording for the fake microphone, of silences in seconds and speech in files, one after the other."""
    samples = []
    for part in parts:
        if isinstance(part, str):
            speech, rate = soundfile.read(part, dtype="float32")
            samples.append(soxr.resample(speech, rate, MICROPHONE_RATE))
        else:
            samples.append(np.zeros(round(part * MICROPHONE_RATE), np.float32))
    soundfile.write(path, np.concatenate(samples), MICROPHONE_RATE, subtype="PCM_16")
    return path


@contextmanager
def browser(playwright: Playwright, recording: Path | None = None, allowed: bool = True) -> Iterator[Browser]:
    """
    Chromium. Its microphone hears `recording` once, from the moment that it is opened; without one there is no
    microphone. With `allowed` the question for permission is answered with yes, otherwise with no.
    """
    options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    if recording is not None:
        options += ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={recording}%noloop"]
    if allowed:
        options.append("--use-fake-ui-for-media-stream")
    # what Debian installs, because playwright's own builds come from elsewhere
    chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
    try:
        yield chromium
    finally:
        chromium.close()


class OpenPage:
    """
    The page of a server, which collects what it plays, what its console says, what it asks for, and its protocol.

    Attributes:
        page (`Page`): of playwright.
        problems (`list[str]`): errors and warnings of the console.
        requests (`list[str]`): the URLs of all requests.
        sent (`list[dict]`), received (`list[dict]`): the events of the Realtime protocol.
    """

    def __init__(self, page: Page, url: str, wait: bool = True):
        self.page, self.problems, self.requests, self.sent, self.received = page, [], [], [], []
        page.on("console", lambda message: message.type in ("error", "warning") and self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", self._watch)
        page.goto(url)
        page.evaluate("vitaAudio.played = []")
        if wait:
            self.wait_connected()

    def _watch(self, websocket) -> None:
        self.requests.append(websocket.url)
        websocket.on("framesent", lambda text: self.sent.append(json.loads(text)))
        websocket.on("framereceived", lambda text: self.received.append(json.loads(text)))

    def wait_connected(self) -> None:
        self.page.wait_for_selector('#connection[data-state="connected"]')

    def wait_received(self, kind: str, count: int = 1) -> dict:
        """The last event of a type, when there are so many of it."""
        for _ in range(600):
            found = [event for event in self.received if event["type"] == kind]
            if len(found) >= count:
                return found[-1]
            self.page.wait_for_timeout(50)
        raise AssertionError(f"No {kind} came; there were {sorted({event['type'] for event in self.received})}.")

    def wait_activity(self, name: str) -> None:
        self.page.wait_for_function("name => document.getElementById('activity').textContent === name", arg=name)

    def events_sent(self, kind: str) -> list[dict]:
        return [event for event in self.sent if event["type"] == kind]

    def texts(self, side: str) -> list[str]:
        """What the page shows of a side, `user` or `answer`."""
        return [text.strip() for text in self.page.locator(f".message.{side} .text").all_text_contents()]

    def take_played(self) -> np.ndarray:
        """Float32 samples at `PAGE_RATE` that were played since the last call, with the silences between."""
        content = base64.b64decode(self.page.evaluate(TAKE_PLAYED))
        return np.frombuffer(content, np.int16).astype(np.float32) / 32768
