// Copyright 2026 The vita-audio authors.
// SPDX-License-Identifier: Apache-2.0
//
// The page: its buttons, keys and states. For tests, `window.vitaAudio.played = []` before the first button collects
// all that is played from then on, as Int16Array at 24 kHz with the silences between.

import { AudioProblem, Loudspeaker, Microphone, openContext, RATE, toBase64 } from "./audio.js";
import { Connection } from "./connection.js";
import { Conversation } from "./conversation.js";
import { Transcript } from "./transcript.js";
import { Waveforms } from "./waveform.js";

const SHORTEST_TURN = 0.15 * RATE; // samples: less is a slip of the finger
const TAP_MS = 350; // a press that is longer is held, a shorter one is tapped

const ACTIVITIES = {
  idle: "Ready",
  listening: "Listening",
  thinking: "Thinking",
  speaking: "Speaking",
};
const CONNECTIONS = { connecting: "Connecting", connected: "Connected", waiting: "Connection lost", key: "Key needed", closed: "Ended" };

window.vitaAudio = { played: null };

const get = (id) => document.getElementById(id);
const talkButton = get("talk");
const handsFree = get("hands-free");

let context = null; // browsers make no sound before the user has touched the page
let microphone = null;
let isTalking = false; // the button is on
let isSending = false; // what the microphone hears goes to the server
let turnStart = 0; // samples that had been sent when the turn began
let pressedAt = null;
let isKeyHeld = false;
let chosenMode = null; // null leaves it to the server
let countdown;

const waveforms = new Waveforms({
  user: { canvas: get("wave-user"), meter: get("level-user") },
  answer: { canvas: get("wave-answer"), meter: get("level-answer") },
});
const transcript = new Transcript(get("log"), get("announcer"));
const connection = new Connection({ onState: showConnection, onEvent });
const conversation = new Conversation({
  connection,
  transcript,
  onActivity: (activity) => (get("activity").textContent = ACTIVITIES[activity]),
  onProblem: notify,
});

// ---- The connection ----

function onEvent(event) {
  if (event.type === "session.created") {
    conversation.begin();
    transcript.divider("New conversation: what was said above is forgotten");
    updateSession();
    showSession(event.session);
  } else if (event.type === "session.updated") {
    showSession(event.session);
  }
  conversation.onEvent(event);
}

// The shipped model was trained on questions that begin at once, and mishears some after the usual 300 ms
const TURN_DETECTION = { type: "server_vad", prefix_padding_ms: 150 };

function updateSession() {
  const turn_detection = handsFree.checked ? TURN_DETECTION : null;
  const session = { type: "realtime", audio: { input: { transcription: {}, turn_detection } } };
  if (chosenMode !== null) session.vita_audio = { mctp_mode: chosenMode };
  connection.send("session.update", { session });
}

function showSession(session) {
  get("model").textContent = session.model ?? "";
  const mode = session.vita_audio?.mctp_mode;
  for (const radio of document.getElementsByName("mode")) radio.checked = radio.value === mode;
  get("mode-legend").textContent = mode ? "Mode" : "Mode: the model's own";
}

function showConnection(state, { reason, wait, wasRefused } = {}) {
  const isConnected = state === "connected";
  const pill = get("connection");
  pill.dataset.state = state;
  pill.textContent = CONNECTIONS[state];
  clearInterval(countdown);
  for (const control of [talkButton, get("modes"), get("write").querySelector("button")]) control.disabled = !isConnected;
  if (isConnected) {
    hideNotice();
    return;
  }
  conversation.fallSilent();
  if (!handsFree.checked) stopTalking();
  get("activity").textContent = CONNECTIONS[state];
  if (state === "waiting") {
    const until = performance.now() + wait;
    const show = () => (pill.textContent = `Again in ${Math.max(0, Math.ceil((until - performance.now()) / 1000))} s`);
    show();
    countdown = setInterval(show, 500);
    notify(reason, "Try now", () => connection.open());
  } else if (state === "closed") {
    notify(reason ?? "The server has ended the conversation.", "Reconnect", () => connection.open());
  } else if (state === "key") {
    get("key-refused").hidden = !wasRefused;
    get("key-dialog").showModal();
  }
}

get("key-dialog").addEventListener("close", () => connection.useKey(get("key").value));
// without a key there is nothing to go on with
get("key-dialog").addEventListener("cancel", (event) => event.preventDefault());
get("restart").addEventListener("click", () => {
  stopTalking();
  conversation.fallSilent();
  connection.open();
});

// ---- Sound ----

async function openSound() {
  if (context === null) {
    context = openContext();
    // what failed once may succeed at the next try
    context.catch(() => (context = null));
    conversation.loudspeaker = new Loudspeaker(await context, {
      onStarted: (item, time) => conversation.onStarted(item, time),
      onPosition: (item, milliseconds, peak) => {
        waveforms.add("answer", peak);
        conversation.onPosition(item, milliseconds);
      },
      onFinished: (item) => conversation.onFinished(item),
    });
    if (window.vitaAudio.played) conversation.loudspeaker.record((samples) => window.vitaAudio.played.push(samples));
  }
  // a phone suspends it when the page is in the background
  await (await context).resume();
}

async function openMicrophone() {
  await openSound();
  microphone ??= await Microphone.open(await context, {
    onBlock: (samples) => isSending && conversation.appendAudio(samples, toBase64(samples)),
    onLevel: (peak) => {
      waveforms.add("user", isSending ? peak : 0);
      talkButton.style.setProperty("--level", isSending ? peak : 0);
    },
    onEnd: () => {
      closeMicrophone();
      notify("The microphone is gone. Connect it and try again, or write your question.");
    },
  });
}

function closeMicrophone() {
  isTalking = isSending = false;
  microphone?.close();
  microphone = null;
  showTalking();
}

// ---- Talking ----

async function startTalking() {
  if (isTalking || connection.state !== "connected") return;
  isTalking = true;
  // nothing of this turn has been sent, also where it ends before the microphone is open
  turnStart = conversation.numSent;
  showTalking();
  hideNotice();
  try {
    await openMicrophone();
  } catch (error) {
    isTalking = false;
    showTalking();
    if (!(error instanceof AudioProblem)) throw error;
    notify(error.message);
    return;
  }
  // the question for permission may have taken long
  if (!isTalking) return;
  if (!handsFree.checked) {
    await conversation.interrupt();
    connection.send("input_audio_buffer.clear");
    get("activity").textContent = ACTIVITIES.listening;
  }
  turnStart = conversation.numSent;
  isSending = isTalking;
}

// Ends what the user says. Without `isSaid` it is thrown away.
async function stopTalking(isSaid = false) {
  if (!isTalking) return;
  isTalking = false;
  showTalking();
  if (isSending) await microphone.flush();
  isSending = false;
  talkButton.style.setProperty("--level", 0);
  if (handsFree.checked) {
    closeMicrophone();
    connection.send("input_audio_buffer.clear");
  } else if (isSaid && conversation.numSent - turnStart >= SHORTEST_TURN) {
    conversation.commitAudio();
  } else {
    connection.send("input_audio_buffer.clear");
    get("activity").textContent = isSaid ? "Too short: hold the button while you speak" : ACTIVITIES.idle;
  }
}

const toggleTalking = () => (isTalking ? stopTalking(true) : startTalking());

function showTalking() {
  talkButton.setAttribute("aria-pressed", isTalking);
  const [off, on] = handsFree.checked ? ["Start listening", "Stop listening"] : ["Hold to talk", "Send"];
  get("talk-label").textContent = isTalking ? on : off;
}

talkButton.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || handsFree.checked) return;
  talkButton.setPointerCapture(event.pointerId);
  // the second tap ends what the first has begun
  pressedAt = isTalking ? -Infinity : event.timeStamp;
  startTalking();
});
for (const type of ["pointerup", "pointercancel"]) {
  talkButton.addEventListener(type, (event) => {
    if (pressedAt !== null && event.timeStamp - pressedAt > TAP_MS) stopTalking(type === "pointerup");
    pressedAt = null;
  });
}
talkButton.addEventListener("click", (event) => {
  // a click without a pointer comes from a key or a screen reader
  if (handsFree.checked || event.detail === 0) toggleTalking();
});
talkButton.addEventListener("contextmenu", (event) => event.preventDefault());

handsFree.addEventListener("change", async () => {
  // the state before the change decides how it is ended
  handsFree.checked = !handsFree.checked;
  await stopTalking();
  handsFree.checked = !handsFree.checked;
  updateSession();
  showTalking();
});

// ---- Keys ----

// Controls that have a use of their own for the space bar
const takesSpace = (target) => target !== talkButton && target.closest("input, button, dialog");

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !get("key-dialog").open) {
    if (!handsFree.checked) stopTalking();
    conversation.interrupt();
  } else if (event.key === " " && !takesSpace(event.target)) {
    event.preventDefault();
    if (event.repeat) return;
    isKeyHeld = !handsFree.checked && !isTalking;
    toggleTalking();
  }
});
addEventListener("keyup", (event) => {
  if (event.key !== " " || takesSpace(event.target)) return;
  event.preventDefault();
  if (isKeyHeld) stopTalking(true);
  isKeyHeld = false;
});
// the release of a key is not told to a page that is not in front
addEventListener("blur", () => {
  if (isKeyHeld) stopTalking();
  isKeyHeld = false;
});

// ---- Writing, modes and messages ----

let written = Promise.resolve(); // questions keep their order, even if the sound opens slowly

get("write").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = get("text").value.trim();
  if (text === "" || connection.state !== "connected") return;
  get("text").value = "";
  // without a loudspeaker an answer can still be read
  const sound = openSound().catch((error) => notify(error.message));
  written = written.then(() => sound).then(() => conversation.write(text));
});

get("modes").addEventListener("change", (event) => {
  chosenMode = event.target.value;
  connection.send("session.update", { session: { type: "realtime", vita_audio: { mctp_mode: chosenMode } } });
});

function notify(text, label = "Close", action = hideNotice) {
  get("notice-text").textContent = text;
  get("notice-action").textContent = label;
  get("notice-action").onclick = action;
  get("notice").hidden = false;
}

function hideNotice() {
  get("notice").hidden = true;
}

connection.open();
