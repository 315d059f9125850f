// Copyright 2026 The vita-audio authors.
// SPDX-License-Identifier: Apache-2.0
//
// A written and a spoken question by OpenAI's client for agents, unmodified. Arguments: the WebSocket URL, the key, and a
// file of 16-bit samples at 24 kHz. Prints JSON: the history's texts, and each answer's audio in base64.

import { readFileSync } from "node:fs";
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession } from "@openai/agents-realtime";

const [url, apiKey, recording] = process.argv.slice(2);
const transport = new OpenAIRealtimeWebSocket({ url });
const session = new RealtimeSession(new RealtimeAgent({ name: "Assistant" }), {
  model: "vita-audio-mini",
  transport,
  config: { audio: { input: { transcription: {}, turnDetection: null } } },
});
const answers = [];
let audio = [];

function fail(error) {
  console.error(JSON.stringify(error));
  process.exit(1);
}

session.on("error", fail);
session.on("audio", ({ data }) => audio.push(Buffer.from(data)));
session.on("transport_event", (event) => {
  if (event.type === "response.done") {
    answers.push({ status: event.response.status, audio: Buffer.concat(audio).toString("base64") });
    audio = [];
    if (answers.length === 1) speak();
  }
  // of the spoken question, and the last event
  if (event.type === "conversation.item.input_audio_transcription.completed") setTimeout(end, 100);
});

function speak() {
  const { buffer, byteOffset, length } = readFileSync(recording);
  session.sendAudio(buffer.slice(byteOffset, byteOffset + length), { commit: true });
  transport.requestResponse();
}

function end() {
  const history = session.history.map(({ role, content }) => ({ role, text: content[0].text ?? content[0].transcript }));
  console.log(JSON.stringify({ history, answers }));
  session.close();
}

await session.connect({ apiKey });
session.sendMessage("What is two plus five?");
