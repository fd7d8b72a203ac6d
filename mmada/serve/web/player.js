// Plays the steps of an answer at a speed that eyes can follow: while they arrive, and again whenever one likes.

import { button, element, icon } from "./page.js";

const SPEEDS = [0.25, 0.5, 1, 2, 4];
const CALM = 500; // milliseconds between pictures for who asked for less motion

let speed = 1;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * Steps of one answer. name: what is played, for screen readers; pace: milliseconds of a step at speed 1;
 * show(index) draws a step, last is true when the answer is all there and this is its end.
 */
export class Player {
  constructor(name, pace, show) {
    Object.assign(this, { pace, show, count: 0, at: -1, isComplete: false, isPlaying: true, timer: 0 });
    this.toggle = button("", () => (this.isPlaying ? this.pause() : this.play()), { className: "round" });
    const back = button(icon("back"), () => this.go(this.at - 1), { className: "round", "aria-label": "One step back" });
    const forward = button(icon("forward"), () => this.go(this.at + 1), { className: "round", "aria-label": "One step on" });
    this.range = element("input", { type: "range", min: 0, max: 0, step: 1, value: 0, "aria-label": name });
    this.range.addEventListener("input", () => this.go(Number(this.range.value)));
    this.output = element("output", { className: "step" });
    this.speeds = element("select", { "aria-label": "Speed" }, ...SPEEDS.map((value) => new Option(`${value}×`, value, false, value === speed)));
    this.speeds.addEventListener("change", () => {
      speed = Number(this.speeds.value);
      for (const other of document.querySelectorAll(".player select")) other.value = speed; // one speed for all
    });
    this.box = element("div", { className: "player", hidden: true }, this.toggle, back, this.range, forward, this.output, this.speeds);
    this.mark();
  }

  /** There are `count` steps now. */
  grow(count) {
    this.count = count;
    this.range.max = count - 1;
    this.box.hidden = count < 2;
    if (this.at < 0) this.move(0);
    this.tick();
  }

  /** No more come. hurry: go to the end at once, as for an answer of yesterday. */
  finish(hurry = false) {
    this.isComplete = true;
    if (hurry || calm.matches) {
      this.isPlaying = false;
      clearTimeout(this.timer);
      this.timer = 0;
      if (this.count) this.move(this.count - 1);
      return;
    }
    if (this.at >= 0) this.move(this.at); // which may be the end
    this.tick();
  }

  play() {
    this.isPlaying = true;
    if (this.isComplete && this.at >= this.count - 1) this.move(0);
    this.mark();
    this.tick();
  }

  pause() {
    this.isPlaying = false;
    this.mark();
  }

  /** To a step, where it stays. */
  go(index) {
    this.pause();
    this.move(Math.min(this.count - 1, Math.max(0, index)));
  }

  tick() {
    if (this.timer || !this.isPlaying) return;
    const isAsked = this.isComplete && calm.matches; // playing again is motion that was asked for
    this.timer = setTimeout(() => {
      this.timer = 0;
      if (!this.isPlaying) return;
      if (this.at < this.count - 1) this.move(calm.matches && !isAsked ? this.count - 1 : this.at + 1);
      if (this.at < this.count - 1) this.tick();
    }, calm.matches && !isAsked ? CALM : this.pace / speed);
  }

  move(index) {
    this.at = index;
    const isEnd = this.isComplete && index === this.count - 1;
    if (isEnd) this.isPlaying = false;
    this.show(index, isEnd);
    this.mark();
  }

  mark() {
    const isOn = this.isPlaying && !(this.isComplete && this.at >= this.count - 1);
    this.toggle.replaceChildren(icon(isOn ? "pause" : "play"));
    this.toggle.setAttribute("aria-label", isOn ? "Pause" : "Play");
    this.range.value = Math.max(0, this.at);
    this.output.textContent = `${this.at + 1}/${this.count}`;
    this.range.setAttribute("aria-valuetext", `step ${this.at + 1} of ${this.count}`);
  }
}
