// Copyright 2026 The vita-audio authors.
// SPDX-License-Identifier: Apache-2.0
//
// The waveforms of both sides, one bar per 40 ms, on one clock: what was said at once stands one above the other.

const BAR_MS = 40;
const BAR_WIDTH = 3; // CSS pixels, with the gap to the next
const HOLD_MS = 60; // levels come every 25 ms, though not evenly; one that is older is over
const FLOOR_DB = -50; // quieter than that is drawn as silence

export class Waveforms {
  // `sides` has a canvas and a level bar for each side, `{name: {canvas, meter}}`.
  constructor(sides) {
    this.sides = Object.entries(sides).map(([name, elements]) => ({ name, ...elements, bars: [], level: 0, time: 0 }));
    this.isStill = matchMedia("(prefers-reduced-motion: reduce)");
    this.isRunning = false;
    addEventListener("resize", () => this.draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.draw();
  }

  // A peak from 0 to 1 of what is heard now.
  add(name, peak) {
    const side = this.sides.find((side) => side.name === name);
    const height = peak === 0 ? 0 : Math.max(0, 1 - (20 * Math.log10(peak)) / FLOOR_DB);
    side.level = height;
    side.time = performance.now();
    if (!this.isRunning) {
      this.isRunning = true;
      this.last = performance.now();
      requestAnimationFrame(() => this.tick());
    }
  }

  tick() {
    const due = Math.floor((performance.now() - this.last) / BAR_MS);
    if (due > 0) {
      this.last += due * BAR_MS;
      for (const side of this.sides) {
        if (performance.now() - side.time > HOLD_MS) side.level = 0;
        for (let bar = 0; bar < due; bar++) side.bars.push(side.level);
        side.bars.splice(0, side.bars.length - this.numBars(side.canvas));
        side.meter.value = side.level;
      }
      this.draw();
    }
    // with nothing left to be seen the page rests
    this.isRunning = this.sides.some(({ bars, level }) => level > 0 || bars.some((height) => height > 0));
    if (this.isRunning) requestAnimationFrame(() => this.tick());
  }

  numBars(canvas) {
    return Math.max(1, Math.floor(canvas.clientWidth / BAR_WIDTH));
  }

  draw() {
    // who wants no motion gets the level bars, which the style sheet shows instead
    if (this.isStill.matches) return;
    for (const { canvas, bars } of this.sides) {
      const width = canvas.clientWidth;
      const height = canvas.clientHeight;
      canvas.width = width * devicePixelRatio;
      canvas.height = height * devicePixelRatio;
      const pen = canvas.getContext("2d");
      pen.scale(devicePixelRatio, devicePixelRatio);
      pen.fillStyle = getComputedStyle(canvas).color;
      for (let index = 0; index < this.numBars(canvas); index++) {
        const level = bars.at(-1 - index) ?? 0;
        const bar = Math.max(1.5, level * (height - 2));
        pen.globalAlpha = level === 0 ? 0.3 : 1;
        pen.beginPath();
        pen.roundRect(width - (index + 1) * BAR_WIDTH, (height - bar) / 2, BAR_WIDTH - 1, bar, 1);
        pen.fill();
      }
    }
  }
}
