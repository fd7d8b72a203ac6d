// One answer on the page: the thinking, the answer, its steps to be played, and the facts.

import { element } from "./page.js";
import { aboutToken, inspects, reachable } from "./inspector.js";
import { Player } from "./player.js";
import { numbered, spansOf, splitDraft, textOf } from "./tokens.js";

const PACE = 140; // milliseconds of a step: a sentence of ten steps is seen in one and a half seconds

export class Reply {
  /** certain: whether confidence means something, which it does where the likeliest token is always taken. */
  constructor({ certain = true } = {}) {
    this.record = { drafts: [], answer: "", thoughts: "" };
    this.began = performance.now();
    this.thinkingText = element("div", { className: "thinking-text", dir: "auto" });
    this.thinking = element("details", { className: "thinking", open: true, hidden: true }, element("summary", {}, "Thinking"), this.thinkingText);
    this.answerText = element("div", { className: "answer", dir: "auto" });
    this.player = new Player("Steps of the answer", PACE, (index, isEnd) => this.show(index, isEnd));
    this.legend = element("p", { className: "legend", hidden: true },
      "How sure: ", element("span", { className: "token unsure" }, "60–90 %"), " ", element("span", { className: "token doubtful" }, "below 60 %"));
    this.warning = element("p", { className: "lack", hidden: true });
    this.facts = element("p", { className: "facts" });
    this.actions = element("div", { className: "row actions" });
    this.box = element("div", { className: `turn assistant${certain ? "" : " plain"}` },
      this.thinking, this.answerText, this.warning, this.player.box, this.legend, element("div", { className: "foot" }, this.facts, this.actions));
    for (const box of [this.thinkingText, this.answerText]) inspects(box, (slot) => aboutToken(this.record.drafts, slot));
  }

  /** An answer of earlier, or of somebody else. */
  static of(record, options) {
    const reply = new Reply(options);
    reply.record = record;
    if (record.drafts.length) reply.player.grow(record.drafts.length);
    reply.end(true);
    return reply;
  }

  take(chunk) {
    const { record } = this;
    const delta = chunk.choices[0]?.delta;
    record.answer += delta?.content ?? "";
    record.thoughts += delta?.reasoning_content ?? "";
    record.seed = chunk.seed;
    record.usage = chunk.usage ?? record.usage;
    record.reason = chunk.choices[0]?.finish_reason ?? record.reason;
    record.warning = chunk.warning ?? record.warning;
    record.wantsPicture = chunk.wants_picture ?? record.wantsPicture;
    if (!chunk.mmada) return;
    record.drafts.push(chunk.mmada.draft);
    this.player.grow(record.drafts.length);
  }

  show(index, isEnd) {
    const { drafts } = this.record;
    if (isEnd) {
      this.settle();
      return;
    }
    const now = splitDraft(numbered(drafts[index]));
    const isNew = (piece) => index > 0 && drafts[index - 1][piece.slot]?.confidence === null;
    this.thinking.hidden = now.thinking === null;
    this.thinkingText.replaceChildren(...spansOf(now.thinking ?? [], isNew));
    this.answerText.replaceChildren(...spansOf(now.answer, isNew));
    this.explain();
  }

  /** What the server says is the answer counts, should the tokens show another one (a stop string, bytes of half a character). */
  settle() {
    const { drafts, answer, thoughts } = this.record;
    const now = splitDraft(numbered(drafts.at(-1) ?? []).filter((piece) => piece.confidence !== null)); // an answer may end before its room
    this.answerText.replaceChildren(...spansOf(now.answer));
    this.thinkingText.replaceChildren(...spansOf(now.thinking ?? []));
    if (textOf(now.answer) !== answer.trim()) this.answerText.textContent = answer;
    if (thoughts && textOf(now.thinking ?? []) !== thoughts.trim()) this.thinkingText.textContent = thoughts;
    this.thinking.hidden = !thoughts;
    if (!answer.trim()) this.answerText.replaceChildren(element("em", {}, "(no answer)"));
    for (const box of [this.thinkingText, this.answerText]) reachable(box);
    this.explain();
  }

  explain() {
    this.legend.hidden = !this.box.querySelector(".thinking:not([hidden]) :is(.unsure, .doubtful), .answer :is(.unsure, .doubtful)");
  }

  finish(note) {
    this.record.ms = Math.round(performance.now() - this.began);
    if (note) this.record.note = note;
    this.end(false);
  }

  end(hurry) {
    const { record } = this;
    if (record.note && record.drafts.length) this.player.go(hurry ? record.drafts.length - 1 : this.player.at);
    else if (record.drafts.length) this.player.finish(hurry);
    else this.settle();
    this.warning.textContent = record.warning ?? "";
    this.warning.hidden = !record.warning;
    const facts = record.badge ? [record.badge] : [];
    if (record.ms !== undefined) facts.push(`${(record.ms / 1000).toFixed(1)} s`);
    if (record.usage) {
      facts.push(`${record.usage.completion_tokens} tokens in ${record.usage.nfe} evaluations`, `${record.usage.tokens_per_forward.toFixed(1)} tokens each`);
    }
    if (record.seed !== undefined) facts.push(`seed ${record.seed}`);
    if (record.note) facts.push(record.note);
    if (record.reason === "length") facts.push("cut at its length");
    this.facts.textContent = facts.join(" · ");
  }

  fail(box) {
    this.player.pause();
    this.answerText.hidden = !this.record.drafts.length;
    this.box.append(box);
    box.scrollIntoView({ block: "nearest" });
  }
}
