# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, whose microphone hears spoken questions, with a real server of the shipped model."""

import os
import re
import shutil
from importlib.util import find_spec
from urllib.parse import urlsplit

import numpy as np
import pytest
from places import MINI

from training.evaluation.recognition import load_recognizer
from training.evaluation.scoring import answer_is_right, word_error_rate


pytestmark = pytest.mark.slow
# what is missing on a machine may be skipped there, but not where everything is checked
if "CI" not in os.environ:
    if find_spec("playwright") is None:
        pytest.skip("playwright is not installed: pip install playwright", allow_module_level=True)
    if shutil.which("chromium") is None:
        pytest.skip("there is no chromium: apt-get install chromium", allow_module_level=True)

from browsers import PAGE_RATE, OpenPage, browser, write_recording  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402


QUESTION = str(MINI / "sample_question.wav")
# The browser resamples, so now and then "seven" is heard as "eleven"
ANSWER = r"The sum of \w+ and six is \w+\."


@pytest.fixture(scope="module")
def playwright():
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture
def open_page(playwright, http_server, tmp_path):
    """Opens the page of the server in a browser whose microphone hears these silences and files."""
    browsers = []

    def open(*recording, url=http_server.url, script=None, allowed=True, hands_free=False, **options):
        path = write_recording(tmp_path / f"{len(browsers)}.wav", *recording) if recording else None
        browsers.append(browser(playwright, path, allowed))
        page = browsers[-1].__enter__().new_page(**options)
        if script is not None:
            page.add_init_script(script)
        talk = OpenPage(page, url)
        talk.page.get_by_role("switch", name="Hands-free").set_checked(hands_free)
        # so that the space bar does not switch it back
        talk.page.evaluate("document.activeElement.blur()")
        return talk

    yield open
    for opened in browsers:
        opened.__exit__(None, None, None)


def spoken(samples: np.ndarray) -> np.ndarray:
    """The samples from the first to the last that are no silence."""
    (loud,) = np.nonzero(np.abs(samples) > 0.01)
    return samples[loud[0] : loud[-1] + 1]


def test_a_spoken_question_is_answered_with_text_and_speech(open_page, http_server):
    talk = open_page(1.5, QUESTION, 4.0, hands_free=True)
    talk.page.get_by_role("button", name="Start listening").click()
    talk.wait_activity("Speaking")
    talk.wait_activity("Ready")
    transcript = talk.wait_received("conversation.item.input_audio_transcription.completed")["transcript"]
    talk.page.wait_for_timeout(200)
    # the text of both sides
    (question,), (answer,) = talk.texts("user"), talk.texts("answer")
    assert question == transcript and answer_is_right(question, "and six")
    assert re.fullmatch(ANSWER, answer)
    assert talk.page.locator(".unspoken").count() == 0
    assert talk.page.locator("#announcer").text_content() in (f"You: {question}", f"Answer: {answer}")
    # what was played
    heard = load_recognizer()(spoken(talk.take_played()), PAGE_RATE)
    assert word_error_rate([answer], [heard]) <= 0.2, heard
    # both times, and the page's has the way to the loudspeaker in it
    times = r"Sound after (\d+) ms · server (\d+) ms"
    page_ms, server_ms = map(int, re.fullmatch(times, talk.page.locator(".times").text_content()).groups())
    measured = talk.wait_received("response.done")["response"]["vita_audio"]["time_to_first_audio_ms"]
    assert server_ms == round(measured) and page_ms >= server_ms
    # nobody else was asked for anything, and nothing went wrong
    assert {urlsplit(url).netloc for url in talk.requests} == {urlsplit(http_server.url).netloc}
    assert talk.problems == []


def test_who_speaks_into_an_answer_stops_it(open_page):
    # the answer takes two seconds, and begins about half a second after the question's end
    talk = open_page(1.0, QUESTION, 1.4, QUESTION, 5.0, hands_free=True)
    talk.page.get_by_role("button", name="Start listening").click()
    talk.wait_received("input_audio_buffer.speech_started", 2)
    talk.page.wait_for_timeout(100)
    talk.take_played()
    talk.page.wait_for_timeout(300)
    assert np.abs(talk.take_played()).max() == 0
    first = talk.received[[event["type"] for event in talk.received].index("response.done")]["response"]
    (truncation,) = talk.events_sent("conversation.item.truncate")
    assert truncation["item_id"] == first["output"][0]["id"]
    assert 100 < truncation["audio_end_ms"] < 2000
    assert talk.wait_received("conversation.item.truncated")["audio_end_ms"] == truncation["audio_end_ms"]
    interrupted = talk.page.locator(".message.answer.interrupted")
    assert interrupted.count() == 1 and "interrupted" in interrupted.locator(".times").text_content()
    # and the second question is answered to its end
    talk.wait_received("response.done", 2)
    talk.wait_activity("Ready")
    assert talk.texts("answer")[1].endswith(".")
    assert talk.page.locator(".message.answer").nth(1).locator(".unspoken").count() == 0
    assert talk.problems == []


def test_by_keyboard_alone(open_page):
    talk = open_page(0.2, QUESTION, 4.0)
    keyboard = talk.page.keyboard
    # the space bar talks as long as it is held, wherever the focus is not on something that has a use for it
    keyboard.down("Space")
    talk.page.wait_for_timeout(2700)
    keyboard.up("Space")
    talk.wait_activity("Speaking")
    keyboard.press("Escape")
    talk.wait_activity("Ready")
    (truncation,) = talk.events_sent("conversation.item.truncate")
    assert truncation["audio_end_ms"] < 2000
    # everything is reached by the tabulator, and shows that it is
    shown = set()
    for _ in range(12):
        keyboard.press("Tab")
        name, *outlines = talk.page.evaluate("""() => {
          const node = document.activeElement;
          const outline = (node) => node && getComputedStyle(node).outlineStyle;
          return [node.id || node.value, outline(node), outline(node.closest("label"))];
        }""")
        if "solid" in outlines:
            shown.add(name)
    assert shown >= {"restart", "log", "vanilla", "talk", "hands-free", "text"}
    assert talk.page.locator("[name=mode]:checked").count() == 0  # the model's own
    talk.page.locator("[name=mode][value=boost]").focus()
    keyboard.press("ArrowRight")
    # the first was of the connection, the second of the switch for hands-free talking
    changed = talk.wait_received("session.updated", 3)["session"]
    assert changed["vita_audio"]["mctp_mode"] == "turbo"
    assert talk.page.locator("[name=mode]:checked").get_attribute("value") == "turbo"
    talk.page.locator("#text").focus()
    keyboard.type("What is two plus five?")
    keyboard.press("Enter")
    talk.wait_received("response.done", 2)
    talk.wait_activity("Ready")
    assert talk.texts("user")[1] == "What is two plus five?"
    assert talk.problems == []


def test_an_answer_is_stopped_before_it_is_heard(open_page):
    talk = open_page()
    for question in ("Which month comes after June?", "What is two plus five?"):
        talk.page.get_by_role("textbox").fill(question)
        talk.page.keyboard.press("Enter")
    # the second question stops the first one's answer, and waits for its end
    talk.wait_received("response.done", 2)
    talk.page.keyboard.press("Escape")
    talk.page.get_by_role("textbox").fill("Which month comes after May?")
    talk.page.keyboard.press("Enter")
    talk.page.keyboard.press("Escape")
    talk.wait_received("response.done", 3)
    talk.wait_activity("Ready")
    done = [event["response"] for event in talk.received if event["type"] == "response.done"]
    assert [response["status"] for response in done] == ["cancelled", "completed", "cancelled"]
    assert done[0]["status_details"]["reason"] == "client_cancelled"
    assert "error" not in {event["type"] for event in talk.received}
    assert talk.problems == []


def test_a_browser_that_records_only_at_the_rate_of_its_device(open_page):
    # Firefox refuses what Chromium takes
    talk = open_page(
        0.2,
        QUESTION,
        4.0,
        script="""
          const create = AudioContext.prototype.createMediaStreamSource;
          AudioContext.prototype.createMediaStreamSource = function (stream) {
            if (this.sampleRate === 24000) throw new DOMException("other rates", "NotSupportedError");
            return create.call(this, stream);
          };
        """,
    )
    talk.page.get_by_role("button", name="Hold to talk").click()
    talk.page.wait_for_timeout(2700)
    talk.page.get_by_role("button", name="Send").first.click()
    talk.wait_received("response.done")
    (answer,) = talk.texts("answer")
    assert re.fullmatch(ANSWER, answer)
    assert talk.problems == []


def answers_in_writing(talk: OpenPage) -> bool:
    """Whether the page answers a question that is written."""
    talk.page.get_by_role("textbox").fill("Which month comes after June?")
    talk.page.keyboard.press("Enter")
    talk.wait_received("response.done")
    return answer_is_right(talk.texts("answer")[0], "July")


def test_what_keeps_one_from_talking_is_said(open_page, http_servers):
    refused = open_page(1.0, allowed=False)
    refused.page.get_by_role("button", name="Hold to talk").click()
    assert "was refused" in refused.page.get_by_role("alert").text_content(timeout=5000)
    without = open_page()
    without.page.get_by_role("button", name="Hold to talk").click()
    without.page.wait_for_selector("#notice:visible")
    assert "No microphone was found" in without.page.get_by_role("alert").text_content()
    # writing is still possible
    assert answers_in_writing(without)


def test_an_answer_can_be_read_where_there_is_no_sound(open_page):
    # what pages over plain HTTP of another machine have
    talk = open_page(script="Object.defineProperty(window, 'isSecureContext', { value: false })")
    talk.page.get_by_role("button", name="Hold to talk").click()
    talk.page.wait_for_selector("#notice:visible")
    assert "or over HTTPS" in talk.page.get_by_role("alert").text_content()
    assert answers_in_writing(talk)
    assert talk.problems == []


def test_sound_that_failed_once_opens_at_the_next_try(open_page):
    talk = open_page(
        1.0,
        script="""
          const add = Worklet.prototype.addModule;
          Worklet.prototype.addModule = function () {
            Worklet.prototype.addModule = add;
            throw new DOMException("The module was not loaded", "AbortError");
          };
        """,
    )
    talk.page.get_by_role("button", name="Hold to talk").click()
    talk.page.wait_for_selector("#notice:visible")
    assert "The browser opens no sound" in talk.page.get_by_role("alert").text_content()
    talk.page.get_by_role("button", name="Hold to talk").click()
    talk.page.get_by_role("button", name="Send").first.wait_for()
    assert not talk.page.locator("#notice").is_visible()


def test_a_press_that_ends_before_the_microphone_is_open_says_nothing(open_page):
    talk = open_page(
        0.2,
        QUESTION,
        9.0,
        hands_free=True,
        script="""
          const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = async (options) => {
            await new Promise((resolve) => setTimeout(resolve, 600));
            return open(options);
          };
        """,
    )
    talk.page.get_by_role("button", name="Start listening").click()
    talk.wait_received("response.done")
    # Hands-free closes the microphone when it is switched off
    talk.page.get_by_role("switch", name="Hands-free").click()
    talk.page.get_by_role("button", name="Hold to talk").wait_for()
    talk.page.evaluate("document.activeElement.blur()")
    talk.page.keyboard.down(" ")
    talk.page.wait_for_timeout(400)
    talk.page.keyboard.up(" ")
    talk.page.wait_for_timeout(1000)
    assert talk.events_sent("input_audio_buffer.commit") == []
    assert "Too short" in talk.page.locator("#activity").text_content()


# The worklet's processor on the page's own thread, where a test can call it block by block
WORKLET = """async (numBlocks) => {
  const source = await (await fetch("audio-worklet.js")).text();
  const processors = {}, posted = [];
  class AudioWorkletProcessor {
    constructor() { this.port = { postMessage: (message) => posted.push(message) }; }
  }
  const names = ["AudioWorkletProcessor", "registerProcessor", "sampleRate", "currentTime"];
  new Function(...names, source)(AudioWorkletProcessor, (name, kind) => (processors[name] = kind), 24000, 0);
  const playback = new processors.playback();
  const send = (data) => playback.port.onmessage({ data });
  send({ type: "push", item: "a", samples: new Float32Array(1000).fill(0.1) });
  send({ type: "end", item: "a" });
  for (let block = 0; block < numBlocks; block++) playback.process([], [[new Float32Array(128)]]);
  send({ type: "stop" });
  return posted.at(-1);
}"""


def test_an_answer_stopped_at_its_end_was_heard(open_page):
    # the page itself takes no code from elsewhere
    talk = open_page(bypass_csp=True)
    # 1000 samples are 7 blocks and a part of one
    expected = {0: 0, 3: 384, 7: 896, 8: 1000, 9: 1000}
    for num_blocks, played in expected.items():
        stopped = talk.page.evaluate(WORKLET, num_blocks)
        assert stopped == {"type": "stopped", "item": "a", "played": played}


def test_only_the_newest_connection_stays(open_page):
    talk, sockets = open_page(), []
    talk.page.on("websocket", lambda socket: sockets.append(socket))
    talk.page.get_by_role("button", name="New conversation").dblclick()
    talk.page.wait_for_timeout(1000)
    talk.wait_connected()
    assert sum(not socket.is_closed() for socket in sockets) == 1


def test_a_full_server_and_a_lost_connection(open_page, http_servers):
    server = http_servers.start(max_sessions=1)
    first = open_page(url=server.url)
    second = OpenPage(first.page.context.browser.new_page(), server.url, wait=False)
    second.page.wait_for_selector('#connection[data-state="waiting"]')
    assert "may be full" in second.page.get_by_role("alert").text_content()
    assert second.page.get_by_role("button", name="Start listening").is_disabled()
    first.page.close()
    # it tries again by itself
    second.wait_connected()
    assert not second.page.locator("#notice").is_visible()


def test_a_lost_connection_comes_back(open_page, http_server):
    connections = []
    talk = open_page()
    # the real server, behind something that can be torn
    talk.page.route_web_socket("**/v1/realtime", lambda route: connections.append(route) or route.connect_to_server())
    talk.page.reload()
    talk.wait_connected()
    talk.page.get_by_role("textbox").fill("What is two plus five?")
    talk.page.keyboard.press("Enter")
    talk.wait_activity("Speaking")
    connections[0].close(code=1011, reason="The session failed.")
    talk.page.wait_for_selector('#connection[data-state="waiting"]')
    assert "The session failed." in talk.page.get_by_role("alert").text_content()
    # what was being said is over, and the model will not know of it
    assert talk.page.locator(".message.answer.interrupted").count() == 1
    talk.wait_connected()
    assert len(connections) == 2
    assert "forgotten" in talk.page.locator(".divider").text_content()
    talk.page.get_by_role("textbox").fill("What is two plus five?")
    talk.page.keyboard.press("Enter")
    talk.wait_activity("Speaking")
    talk.wait_activity("Ready")
    assert answer_is_right(talk.texts("answer")[1], "seven")


def test_a_server_with_a_key_asks_for_it(open_page, http_servers):
    server = http_servers.start(api_key="open-sesame")
    talk = OpenPage(open_page().page.context.browser.new_page(), server.url, wait=False)
    dialog = talk.page.get_by_role("dialog")
    dialog.get_by_label("API key").fill("wrong")
    talk.page.keyboard.press("Enter")
    talk.page.wait_for_selector("#key-refused:visible")
    # what no browser can send
    dialog.get_by_label("API key").fill("open sésame")
    talk.page.keyboard.press("Enter")
    talk.page.wait_for_selector("#key-refused:visible")
    dialog.get_by_label("API key").fill(" open-sesame ")
    talk.page.keyboard.press("Enter")
    talk.wait_connected()
    assert not dialog.is_visible()
    assert "open-sesame" not in "".join(talk.requests)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_in_colours_that_can_be_read(open_page, scheme):
    talk = open_page(viewport={"width": 360, "height": 640}, color_scheme=scheme)
    talk.page.get_by_role("textbox").fill("Which month comes after June?")
    talk.page.keyboard.press("Enter")
    talk.wait_received("response.done")
    talk.wait_activity("Ready")
    page = talk.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for control in page.locator("button:visible, input:visible, canvas").all():
        box = control.bounding_box()
        assert 0 <= box["x"] and box["x"] + box["width"] <= 360, control
        assert box["y"] + box["height"] <= 640, control
    # WCAG AA: 4.5 to 1 between text and what is behind it
    contrasts = page.evaluate("""() => {
      const channels = (color) => color.match(/[\\d.]+/g).map(Number);
      const luminance = (color) => {
        const [r, g, b] = channels(color).map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const behind = (node) => {
        for (; node; node = node.parentElement) {
          const color = getComputedStyle(node).backgroundColor;
          if (channels(color)[3] !== 0) return color;
        }
      };
      const nodes = [...document.querySelectorAll("body *")].filter((node) =>
        [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) && node.checkVisibility());
      return nodes.map((node) => {
        const [a, b] = [luminance(getComputedStyle(node).color), luminance(behind(node))].sort((x, y) => y - x);
        return [node.textContent.trim().slice(0, 40), (a + 0.05) / (b + 0.05)];
      });
    }""")
    assert len(contrasts) > 10
    assert [found for found in contrasts if found[1] < 4.5] == []
