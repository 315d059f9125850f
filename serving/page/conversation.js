// Copyright 2026 The vita-audio authors.
// SPDX-License-Identifier: Apache-2.0
//
// One conversation in OpenAI's Realtime protocol: what the server tells becomes text and sound, and what was heard of
// an answer is told to the server.

import { fromBase64, RATE } from "./audio.js";

const MARKS = 400; // blocks of 50 ms whose time is kept: longer than any pause at which a turn ends
const REQUEST = "answer"; // the name of the event that asks for an answer, by which an error refers to it

export class Conversation {
  // `onActivity` gets "idle", "listening", "thinking" or "speaking"; `onProblem` a sentence.
  constructor({ connection, transcript, onActivity, onProblem }) {
    Object.assign(this, { connection, transcript, onActivity, onProblem });
    this.loudspeaker = null;
    this.answers = new Map(); // by their item's id
    this.userMessages = new Map();
    this.begin();
  }

  // A session begins without a history.
  begin() {
    this.active = null; // the answer that the server is making
    this.current = null; // the last answer, until it was heard to its end or stopped
    this.numSent = 0; // samples, from the start of the session
    this.marks = []; // when they were sent
    this.endOfTurn = null; // performance.now() at the end of the user's last turn
    this.isAwaited = false; // an answer was asked for, and the server has not begun with it
    this.isUnwanted = false; // and the user has stopped it since
    this.afterActive = null;
    this.onActivity("idle");
  }

  // The samples of the microphone; their times say later when a turn that the server heard had its end.
  appendAudio(samples, base64) {
    this.connection.send("input_audio_buffer.append", { audio: base64 });
    this.numSent += samples.length;
    this.marks.push({ numSent: this.numSent, time: performance.now() });
    if (this.marks.length > MARKS) this.marks.shift();
  }

  timeOfInput(milliseconds) {
    const numSamples = (milliseconds / 1000) * RATE;
    const mark = this.marks.find(({ numSent }) => numSent >= numSamples) ?? this.marks.at(-1);
    return mark ? mark.time - ((mark.numSent - numSamples) / RATE) * 1000 : performance.now();
  }

  commitAudio() {
    this.endOfTurn = performance.now();
    this.ask(() => this.connection.send("input_audio_buffer.commit"));
  }

  async write(text) {
    this.transcript.userMessage(text);
    await this.interrupt();
    this.endOfTurn = performance.now();
    const content = [{ type: "input_text", text }];
    this.ask(() => this.connection.send("conversation.item.create", { item: { type: "message", role: "user", content } }));
  }

  // `addTurn` sends the turn that is to be answered.
  ask(addTurn) {
    this.onActivity("thinking");
    const request = () => {
      addTurn();
      this.isAwaited = true;
      this.connection.send("response.create", { event_id: REQUEST });
    };
    // a session makes one answer at a time, and one that was cancelled takes a moment to end
    if (this.active || this.isAwaited) this.afterActive = request;
    else request();
  }

  goOn() {
    const request = this.afterActive;
    this.afterActive = null;
    request?.();
  }

  // The user stops the answer.
  async interrupt() {
    this.afterActive = null;
    this.isUnwanted = this.isAwaited;
    await this.cancelActive();
  }

  async cancelActive() {
    if (this.active) this.connection.send("response.cancel", { response_id: this.active.responseId });
    await this.fallSilent();
  }

  // Stops the sound, and has the answer end where it was heard.
  async fallSilent() {
    const answer = this.current;
    if (answer === null) return;
    answer.wasInterrupted = true; // what still comes of it is not played
    this.current = null;
    const stopped = await this.loudspeaker?.stop();
    const milliseconds = stopped?.item === answer.itemId ? stopped.milliseconds : 0;
    if (answer.itemId !== null && answer.numSamples > 0) {
      this.connection.send("conversation.item.truncate", {
        item_id: answer.itemId,
        content_index: 0,
        audio_end_ms: Math.min(milliseconds, Math.floor((answer.numSamples / RATE) * 1000)),
      });
    }
    answer.message.reveal(milliseconds);
    this.show(answer);
    this.onActivity("idle");
  }

  onStarted(itemId, time) {
    const answer = this.answers.get(itemId);
    if (!answer || answer.wasInterrupted) return;
    if (answer.endOfTurn !== null) answer.firstSoundMs = time - answer.endOfTurn;
    this.show(answer);
    this.onActivity("speaking");
  }

  onPosition(itemId, milliseconds) {
    this.answers.get(itemId)?.message.reveal(milliseconds);
  }

  onFinished(itemId) {
    const answer = this.answers.get(itemId);
    if (!answer || answer.wasInterrupted) return;
    this.finish(answer);
    this.onActivity("idle");
  }

  finish(answer) {
    answer.isFinished = true;
    this.current = null;
    this.show(answer);
  }

  show(answer) {
    const times = [];
    if (answer.firstSoundMs !== undefined) times.push(`Sound after ${Math.round(answer.firstSoundMs)} ms`);
    if (answer.serverMs != null) times.push(`server ${Math.round(answer.serverMs)} ms`);
    if (answer.wasInterrupted) times.push("interrupted");
    answer.message.times(times.join(" · "));
    if (answer.isFinished || answer.wasInterrupted) answer.message.finish(answer.wasInterrupted);
  }

  onEvent(event) {
    const answer = this.answers.get(event.item_id);
    switch (event.type) {
      case "input_audio_buffer.speech_started":
        this.fallSilent().then(() => this.onActivity("listening"));
        break;
      case "input_audio_buffer.speech_stopped":
        this.endOfTurn = this.timeOfInput(event.audio_end_ms);
        this.onActivity("thinking");
        break;
      case "input_audio_buffer.committed":
        this.userMessages.set(event.item_id, this.transcript.userMessage());
        break;
      case "conversation.item.input_audio_transcription.delta":
        this.userMessages.get(event.item_id)?.append(event.delta);
        break;
      case "conversation.item.input_audio_transcription.completed":
        this.userMessages.get(event.item_id)?.set(event.transcript);
        break;
      case "conversation.item.input_audio_transcription.failed":
        this.userMessages.get(event.item_id)?.set("(could not be written down)");
        break;
      case "response.created":
        this.active = { responseId: event.response.id, itemId: null, numSamples: 0, endOfTurn: this.endOfTurn };
        this.active.message = this.transcript.answer();
        this.current = this.active;
        this.endOfTurn = null;
        this.isAwaited = false;
        this.onActivity("thinking");
        if (this.isUnwanted) this.cancelActive();
        this.isUnwanted = false;
        break;
      case "response.output_item.added":
        this.active.itemId = event.item.id;
        this.answers.set(event.item.id, this.active);
        break;
      case "response.output_audio_transcript.delta":
      case "response.output_text.delta":
        answer.message.append(event.delta, (answer.numSamples / RATE) * 1000);
        break;
      case "response.output_audio.delta":
        if (!answer.wasInterrupted) {
          const samples = fromBase64(event.delta);
          answer.numSamples += samples.length;
          this.loudspeaker?.push(event.item_id, samples);
        }
        break;
      case "response.done":
        this.onDone(event.response);
        break;
      case "error":
        // an answer may end by itself in the moment in which it is stopped
        if (event.error.code !== "response_cancel_not_active") this.onProblem(event.error.message);
        if (event.error.event_id === REQUEST) {
          this.isAwaited = this.isUnwanted = false;
          this.goOn();
        }
        // a turn that the server has found may be lost, too
        if (!this.isAwaited && this.current === null) this.onActivity("idle");
        break;
    }
  }

  onDone(response) {
    const answer = this.active;
    this.active = null;
    answer.serverMs = response.vita_audio?.time_to_first_audio_ms;
    if (response.status === "failed") {
      this.onProblem(response.status_details?.error?.message ?? "The answer failed.");
    }
    answer.message.setLength((answer.numSamples / RATE) * 1000);
    // the sound may go on for long after the server has made it
    if (!answer.wasInterrupted && answer.numSamples > 0 && this.loudspeaker) this.loudspeaker.end(answer.itemId);
    else if (!answer.wasInterrupted) {
      this.finish(answer);
      this.onActivity("idle");
    }
    this.show(answer);
    this.goOn();
  }
}
