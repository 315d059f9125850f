// Copyright 2026 The vita-audio authors.
// SPDX-License-Identifier: Apache-2.0
//
// What runs on the browser's audio thread: `capture` turns what is heard into blocks of 16-bit samples at 24 kHz,
// `playback` plays what it is given and knows to the sample how much was played.

const RATE = 24000; // of the Realtime protocol, in Hz
const LEVEL_FRAMES = 600; // levels are told every 25 ms, more often than the waveform has bars
const RESUME_SAMPLES = 2400; // after a gap 100 ms are collected first, or slow speech would come in crumbs

// Windowed-sinc resampling of a stream. Firefox refuses to record in a context of another rate than the microphone's.
class Resampler {
  constructor(from, to) {
    this.step = from / to;
    this.cutoff = 0.95 * Math.min(1, to / from);
    this.half = Math.ceil(16 / this.cutoff);
    this.held = new Float32Array(2 * this.half);
    this.position = this.half;
  }

  push(samples) {
    const all = new Float32Array(this.held.length + samples.length);
    all.set(this.held);
    all.set(samples, this.held.length);
    const output = [];
    for (; this.position + this.half < all.length; this.position += this.step) {
      let sum = 0;
      const first = Math.ceil(this.position - this.half);
      for (let index = first; index < this.position + this.half; index++) {
        const distance = index - this.position;
        const angle = Math.PI * this.cutoff * distance;
        const window = 0.5 + 0.5 * Math.cos((Math.PI * distance) / this.half);
        sum += all[index] * window * (angle === 0 ? 1 : Math.sin(angle) / angle);
      }
      output.push(sum * this.cutoff);
    }
    const used = Math.max(0, Math.floor(this.position) - this.half);
    this.held = all.slice(used);
    this.position -= used;
    return output;
  }
}

const peakOf = (samples) => samples.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);

class Capture extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.resampler = sampleRate === RATE ? null : new Resampler(sampleRate, RATE);
    this.block = new Int16Array(processorOptions.blockSize);
    this.length = 0;
    this.peak = 0;
    this.frames = 0;
    this.isClosed = false;
    this.port.onmessage = ({ data }) => {
      this.post(); // the rest of a turn must not wait for a full block
      if (data === "close") this.isClosed = true;
      else this.port.postMessage({ type: "flushed" });
    };
  }

  process([[samples]]) {
    // an input that nothing is connected to has no channel
    if (samples === undefined) return !this.isClosed;
    for (const sample of this.resampler ? this.resampler.push(samples) : samples) {
      this.block[this.length++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.length === this.block.length) this.post();
    }
    this.peak = Math.max(this.peak, peakOf(samples));
    this.frames += samples.length;
    if (this.frames >= (LEVEL_FRAMES * sampleRate) / RATE) {
      this.port.postMessage({ type: "level", peak: this.peak });
      this.peak = this.frames = 0;
    }
    return !this.isClosed;
  }

  post() {
    if (this.length > 0) this.port.postMessage({ type: "block", samples: this.block.slice(0, this.length) });
    this.length = 0;
  }
}

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = []; // of {item, samples}, and {item} where an item ends
    this.offset = 0; // in the first one
    this.waiting = 0; // samples in the queue
    this.item = null; // that is being played
    this.played = 0; // samples of it
    this.last = { item: null, played: 0 }; // the item that was played to its end before
    this.isStarved = false;
    this.tail = null;
    this.peak = 0;
    this.frames = 0;
    this.port.onmessage = ({ data }) => {
      if (data.type === "stop") this.stop();
      else {
        this.queue.push(data);
        this.waiting += data.samples?.length ?? 0;
      }
    };
  }

  process(_inputs, [[output]]) {
    if (this.tail) output.set(this.tail.subarray(0, output.length));
    else this.fill(output);
    this.tail = null;
    this.peak = Math.max(this.peak, peakOf(output));
    this.frames += output.length;
    if (this.frames >= LEVEL_FRAMES) {
      if (this.item !== null || this.peak > 0) {
        this.port.postMessage({ type: "position", item: this.item, played: this.played, peak: this.peak });
      }
      this.peak = this.frames = 0;
    }
    return true;
  }

  fill(output) {
    if (this.isStarved && this.waiting < RESUME_SAMPLES && this.queue.at(-1)?.samples) return;
    let filled = 0;
    while (filled < output.length && this.queue.length > 0) {
      const { item, samples } = this.queue[0];
      if (samples === undefined) {
        this.last = { item, played: this.played };
        this.port.postMessage({ type: "finished", ...this.last });
        this.queue.shift();
        this.item = null;
        continue;
      }
      if (item !== this.item) {
        this.item = item;
        this.played = 0;
        this.port.postMessage({ type: "started", item, time: currentTime + filled / sampleRate });
      }
      const part = samples.subarray(this.offset, this.offset + output.length - filled);
      output.set(part, filled);
      filled += part.length;
      this.played += part.length;
      this.waiting -= part.length;
      this.offset += part.length;
      if (this.offset === samples.length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    this.isStarved = this.item !== null && filled < output.length;
  }

  stop() {
    // An item that waits and has not begun was not heard at all; one that has just ended may not be known to have ended
    let heard = this.last;
    if (this.item !== null) heard = { item: this.item, played: this.played };
    else if (this.queue.length > 0) heard = { item: this.queue[0].item, played: 0 };
    if (this.item !== null) {
      // one more block, about 5 ms, is faded out: a cut would click
      this.tail = new Float32Array(128);
      this.fill(this.tail);
      this.tail.forEach((sample, index, tail) => (tail[index] = sample * (1 - index / tail.length)));
    }
    this.port.postMessage({ type: "stopped", ...heard });
    this.queue = [];
    this.item = null;
    this.offset = this.waiting = 0;
    this.isStarved = false;
  }
}

registerProcessor("capture", Capture);
registerProcessor("playback", Playback);
