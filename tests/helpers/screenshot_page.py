# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Takes the README's picture of the page from a real conversation with the shipped model, on a desk in light colours and
on a phone in dark ones:

    python tests/helpers/screenshot_page.py serving/page_screenshot.png
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from browsers import OpenPage, browser, write_recording
from PIL import Image
from places import MINI, ROOT
from playwright.sync_api import Playwright, sync_playwright


HEIGHT = 640  # CSS pixels of both
GAP = 24  # between them, in pixels of the picture
SCALE = 1.5  # pixels of the picture in one of CSS: sharp on most screens, and still a small file
# By then an answer has begun to be heard, and the question is still in the waveform
MILLISECONDS_OF_SPEECH = 1100


DESK = {"viewport": {"width": 1000, "height": HEIGHT}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 360, "height": HEIGHT}, "color_scheme": "dark", "is_mobile": True, "has_touch": True}


def photograph(playwright: Playwright, url: str, recording: Path, screen: dict) -> Image.Image:
    with browser(playwright, recording) as chromium:
        talk = OpenPage(chromium.new_page(**screen, device_scale_factor=SCALE), url)
        # the label, because the radio button itself is not drawn
        talk.page.locator("label", has_text="Boost").click()
        talk.page.locator("#text").fill("Which month comes after June?")
        talk.page.keyboard.press("Enter")
        talk.wait_activity("Speaking")
        talk.wait_activity("Ready")
        talk.page.locator("#hands-free").check()
        talk.page.locator("#talk").click()
        talk.page.mouse.move(0, 0)
        talk.wait_activity("Speaking")
        talk.page.wait_for_timeout(MILLISECONDS_OF_SPEECH)
        talk.wait_received("conversation.item.input_audio_transcription.completed")
        return Image.open(io.BytesIO(talk.page.screenshot()))


def main(output: str) -> None:
    command = [sys.executable, "-m", "serving.cli", "serve", "--port", "0"]
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
    ):
        try:
            # its first line has the page's address
            url = next(word for word in server.stdout.readline().split() if word.startswith("http"))
            recording = write_recording(Path(folder, "question.wav"), 0.7, str(MINI / "sample_question.wav"), 5.0)
            # the desk comes second, because the first answer of a server takes longer
            phone, desk = (photograph(playwright, url, recording, screen) for screen in (PHONE, DESK))
        finally:
            server.terminate()
    picture = Image.new("RGB", (desk.width + GAP + phone.width, desk.height), "white")
    picture.paste(desk)
    picture.paste(phone, (desk.width + GAP, 0))
    picture.save(output, optimize=True)
    print(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
