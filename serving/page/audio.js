// Copyright 2026 The vita-audio authors.
// SPDX-License-Identifier: Apache-2.0
//
// The microphone and the loudspeaker, as streams of 16-bit mono at 24 kHz.

export const RATE = 24000; // Hz
const BLOCK_SIZE = 1200; // samples of one message: 50 ms

// Why there is no sound, in words for the user.
export class AudioProblem extends Error {}

const PROBLEMS = {
  NotAllowedError:
    "The microphone was refused. Allow it for this page in the browser's address bar, then try again. You can write your question in the meantime.",
  NotFoundError: "No microphone was found. Connect one and try again, or write your question.",
  NotReadableError: "The microphone cannot be used; another program may have it. Close that one and try again, or write your question.",
};

export async function openContext() {
  // browsers have sound like this, and the microphone, for secure pages only, and localhost is one
  if (!isSecureContext) {
    throw new AudioProblem(
      "The browser gives sound and the microphone only to pages of this machine (localhost) or over HTTPS. You can write your question, and read the answer."
    );
  }
  try {
    const context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    await context.audioWorklet.addModule("audio-worklet.js");
    return context;
  } catch (error) {
    throw new AudioProblem(`The browser opens no sound: ${error.message}. You can write your question, and read the answer.`);
  }
}

export class Microphone {
  // `onBlock` gets an Int16Array, `onLevel` a peak from 0 to 1, `onEnd` is called when the device goes away.
  static async open(context, { onBlock, onLevel, onEnd }) {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
      });
    } catch (error) {
      throw new AudioProblem(PROBLEMS[error.name] ?? `The microphone cannot be used: ${error.message}`);
    }
    const microphone = new Microphone();
    let source;
    try {
      source = context.createMediaStreamSource(stream);
    } catch {
      // Firefox records only at the rate of the device; the worklet then resamples
      context = microphone.ownContext = new AudioContext();
      await context.audioWorklet.addModule("audio-worklet.js");
      source = context.createMediaStreamSource(stream);
    }
    const node = new AudioWorkletNode(context, "capture", {
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: "explicit",
      processorOptions: { blockSize: BLOCK_SIZE },
    });
    node.port.onmessage = ({ data }) => {
      if (data.type === "block") onBlock(data.samples);
      else if (data.type === "level") onLevel(data.peak);
      else microphone.onFlushed();
    };
    source.connect(node);
    stream.getAudioTracks()[0].addEventListener("ended", onEnd);
    Object.assign(microphone, { stream, source, node });
    return microphone;
  }

  // Resolves when `onBlock` has got all that was said so far.
  flush() {
    return new Promise((resolve) => {
      this.onFlushed = resolve;
      this.node.port.postMessage("flush");
    });
  }

  close() {
    this.node.port.postMessage("close");
    this.source.disconnect();
    // otherwise the browser goes on showing that the page listens
    this.stream.getTracks().forEach((track) => track.stop());
    this.ownContext?.close();
  }
}

export class Loudspeaker {
  // `onStarted(item, time)` gives the time at which the first sample leaves the loudspeaker, as of performance.now().
  // `onPosition(item, milliseconds, peak)` comes every 25 ms, `onFinished(item)` after an item's end.
  constructor(context, { onStarted, onPosition, onFinished }) {
    this.context = context;
    this.node = new AudioWorkletNode(context, "playback", { numberOfInputs: 0, outputChannelCount: [1] });
    this.node.connect(context.destination);
    this.node.port.onmessage = ({ data }) => {
      if (data.type === "started") onStarted(data.item, this.timeOf(data.time));
      else if (data.type === "position") onPosition(data.item, this.heard(data.played), data.peak);
      else if (data.type === "finished") onFinished(data.item);
      else this.onStopped(data.item === null ? null : { item: data.item, milliseconds: this.heard(data.played) });
    };
  }

  push(item, samples) {
    this.node.port.postMessage({ type: "push", item, samples }, [samples.buffer]);
  }

  end(item) {
    this.node.port.postMessage({ type: "end", item });
  }

  // Falls silent at once; resolves to {item, milliseconds} of what was heard, or to null if nothing was to be played.
  stop() {
    return new Promise((resolve) => {
      this.onStopped = resolve;
      this.node.port.postMessage({ type: "stop" });
    });
  }

  // what has been given to the device is heard only after its latency
  heard(samples) {
    return Math.max(0, Math.floor((samples / RATE - (this.context.outputLatency || 0)) * 1000));
  }

  timeOf(contextTime) {
    const { contextTime: then, performanceTime } = this.context.getOutputTimestamp();
    return performanceTime + (contextTime - then) * 1000;
  }

  // For tests: `onBlock` gets all that is played from now on, silences as well, as Int16Array.
  record(onBlock) {
    const tap = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0, processorOptions: { blockSize: BLOCK_SIZE } });
    tap.port.onmessage = ({ data }) => data.type === "block" && onBlock(data.samples);
    this.node.connect(tap);
  }
}

export function toBase64(samples) {
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  return btoa(String.fromCharCode(...bytes));
}

// 16-bit samples in base64 to floats from -1 to 1
export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return Float32Array.from(new Int16Array(bytes.buffer), (sample) => sample / 32768);
}
