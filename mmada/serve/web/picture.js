// One picture, with the steps that it came by, what it was before an edit, and what is known of its tokens.

import { element } from "./page.js";
import { aboutCell, hush, tellOf } from "./inspector.js";
import { Player } from "./player.js";

const SWEEP = 1400; // milliseconds in which an edit is uncovered
const PACE = 85; // milliseconds of a step: a drawing of 24 steps is seen in two seconds

export class Picture {
  /** record: {frames, prompt, seed, warning, trace}; shape: "WIDTHxHEIGHT"; before: what an edit began with. */
  constructor(record, { shape, before }) {
    Object.assign(this, { record, before });
    this.image = element("img", { className: "pixels", alt: "", hidden: true });
    this.frame = element("div", { className: "frame waiting" }, this.image);
    this.frame.style.setProperty("--shape", shape.replace("x", " / "));
    this.player = new Player("Steps of the picture", PACE, (index, isEnd) => this.show(index, isEnd));
    this.box = element("figure", {}, this.frame, this.player.box);
    if (before) this.addReveal(before);
    if (record.frames.length) this.player.grow(record.frames.length);
  }

  get url() {
    return this.record.frames.at(-1);
  }

  get isWhole() {
    return this.record.seed !== undefined;
  }

  take(url) {
    this.record.frames.push(url);
    this.player.grow(this.record.frames.length);
  }

  show(index, isEnd) {
    this.image.src = this.record.frames[index];
    this.image.hidden = false;
    this.frame.classList.remove("waiting");
    this.image.alt = isEnd ? this.record.prompt || "A picture" : `Step ${index + 1} on the way`;
    if (isEnd && this.isNew) this.sweep?.();
  }

  /** Nothing more comes. */
  finish(hurry) {
    const { record } = this;
    this.isNew = !hurry;
    this.player.finish(hurry);
    if (record.seed !== undefined) this.image.title = `seed ${record.seed}`;
    const shape = () => {
      this.frame.style.setProperty("--shape", `${this.image.naturalWidth} / ${this.image.naturalHeight}`);
      if (record.trace && !this.cells) this.addCells();
    };
    if (this.image.complete && this.image.naturalWidth) shape();
    else this.image.addEventListener("load", shape, { once: true });
  }

  /** A slider between what was and what is. */
  addReveal(before) {
    const old = element("img", { className: "pixels before", src: before, alt: "", "aria-hidden": "true" });
    const range = element("input", { type: "range", min: 0, max: 100, step: 1, value: 0, "aria-label": "Before and after" });
    const show = () => {
      this.frame.style.setProperty("--cut", `${range.value}%`);
      this.frame.classList.toggle("cut", Number(range.value) > 0);
      range.setAttribute("aria-valuetext", `${range.value} % of the picture before`);
    };
    range.addEventListener("input", show);
    const names = ["Before", "After"].map((name) => element("span", { className: "side-name", "aria-hidden": "true" }, name));
    this.frame.append(old, ...names);
    this.frame.after(element("div", { className: "reveal" }, range));
    show();
    this.sweep = () => {
      this.isNew = false;
      if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
      const began = performance.now();
      const move = (now) => {
        const share = Math.min(1, (now - began) / SWEEP);
        range.value = 100 * (1 - share) ** 2;
        show();
        if (share < 1) requestAnimationFrame(move);
      };
      requestAnimationFrame(move);
    };
  }

  /** Squares to hover, or to walk with the arrow keys. */
  addCells() {
    const factor = Math.sqrt((this.image.naturalWidth * this.image.naturalHeight) / this.record.trace.steps.length); // pixels of a token
    const columns = Math.round(this.image.naturalWidth / factor);
    const rows = Math.round(this.image.naturalHeight / factor);
    if (columns * rows !== this.record.trace.steps.length) return; // a file may say anything
    const cursor = element("div", { className: "cursor", hidden: true });
    this.cells = element("div", { className: "cells", tabIndex: 0, role: "group", "aria-label": "Tokens of the picture: arrow keys tell of each", "aria-describedby": "inspector" }, cursor);
    this.frame.append(this.cells);
    let at = [0, 0];
    const show = () => {
      cursor.hidden = false;
      Object.assign(cursor.style, { left: `${(100 * at[0]) / columns}%`, top: `${(100 * at[1]) / rows}%`, width: `${100 / columns}%`, height: `${100 / rows}%` });
      tellOf(cursor, aboutCell(this.record.trace, at[0], at[1], columns));
    };
    const leave = () => {
      cursor.hidden = true;
      hush();
    };
    const limit = (value, count) => Math.min(count - 1, Math.max(0, value));
    const follow = (event) => {
      const box = this.cells.getBoundingClientRect();
      at = [limit(Math.floor(((event.clientX - box.left) / box.width) * columns), columns), limit(Math.floor(((event.clientY - box.top) / box.height) * rows), rows)];
      show();
    };
    this.cells.addEventListener("pointermove", follow);
    this.cells.addEventListener("pointerdown", follow);
    this.cells.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave()); // a finger that is lifted has tapped
    this.cells.addEventListener("pointercancel", leave); // it scrolls
    this.cells.addEventListener("focus", () => this.cells.matches(":focus-visible") && show());
    this.cells.addEventListener("blur", leave);
    this.cells.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!move) return;
      event.preventDefault();
      at = [limit(at[0] + move[0], columns), limit(at[1] + move[1], rows)];
      show();
    });
  }
}
