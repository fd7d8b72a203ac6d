// Two settings, or two models, side by side: the same words and the same seed, so that nothing else differs.

import { Card } from "./card.js";
import { addFile, fill } from "./chat.js";
import { draw, drawingOf } from "./drawing.js";
import { element, find, keep, numberOf, problem, sendsWithEnter, swap, tell } from "./page.js";
import { Reply } from "./reply.js";
import { Settings } from "./settings.js";

const SIDES = ["a", "b"];
const KINDS = { drawing: "image_settings", answer: "text_settings" };

export class Compare {
  constructor(studio) {
    Object.assign(this, { studio, abort: null });
    this.settings = Object.fromEntries(SIDES.map((side) => [side, new Settings(find(`compare-settings-${side}`), `compare-${side}`)]));
    find("compare-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.compare();
    });
    for (const box of document.querySelectorAll(".sides details")) box.open = !matchMedia("(max-width: 860px)").matches;
    keep(find("compare-prompt"));
    sendsWithEnter(find("compare-prompt"));
    find("compare-prompt").addEventListener("input", () => (find("compare-hint").textContent = ""));
    find("compare-stop").addEventListener("click", () => this.abort?.abort());
    for (const radio of document.querySelectorAll("[name=compare-kind]")) radio.addEventListener("change", () => this.studio.card && this.setDefaults(this.studio.facts));
  }

  get kind() {
    return document.querySelector("[name=compare-kind]:checked").value;
  }

  setDefaults(facts) {
    for (const side of SIDES) {
      this.settings[side].show(facts[KINDS[this.kind]]);
      const models = this.studio.cards.map((card) => new Option(card.id, card.id, false, card.id === this.studio.model));
      find(`compare-model-${side}`).replaceChildren(...models);
      find(`compare-model-${side}`).parentElement.hidden = models.length < 2;
    }
    // Something to see at once: the second is quicker.
    this.settings.b.set(this.kind === "drawing" ? { steps: Math.max(1, Math.round(facts.image_steps / 4)) } : { threshold: 0.3 });
  }

  async compare() {
    const prompt = find("compare-prompt").value.trim();
    if (this.abort || !this.studio.isReady) return;
    if (!prompt) {
      find("compare-hint").textContent = this.kind === "drawing" ? "Say what to draw." : "Ask something.";
      find("compare-prompt").focus();
      return;
    }
    if (!find("compare-form").reportValidity()) return;
    const seed = numberOf(find("compare-seed")) ?? Math.floor(Math.random() * 2 ** 31);
    const row = element("div", { className: "pair" });
    const title = element("h3", {}, `${prompt} · seed ${seed}`);
    find("comparisons").prepend(element("article", { className: "comparison" }, title, row));
    this.working(true);
    const sides = SIDES.map((side) => {
      const box = element("section", { "aria-label": side.toUpperCase() }, element("p", { className: "badge" }, `${side.toUpperCase()}: ${this.described(side)}`));
      row.append(box);
      const body = { model: find(`compare-model-${side}`).value, ...this.settings[side].values(), seed };
      return this.kind === "drawing" ? this.drawing(box, prompt, body) : this.answer(box, prompt, body);
    });
    row.scrollIntoView({ block: "nearest" });
    await Promise.all(sides);
    this.working(false);
    tell("Compared.");
  }

  /** What is not as usual. */
  described(side) {
    const values = Object.entries(this.settings[side].values()).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`);
    const model = this.studio.cards.length > 1 ? [find(`compare-model-${side}`).value] : [];
    return [...model, ...values].join(", ") || "the model's own settings";
  }

  async drawing(box, prompt, body) {
    const { facts, parts } = this.studio;
    const request = { path: "/v1/images/generations", body: { ...body, prompt, ...parts.draw.thinking(facts.thinks_before_drawing) } };
    const card = new Card(drawingOf(prompt, request), { facts, acts: {} });
    card.begin(1);
    box.append(card.box);
    try {
      await draw(card, { prompt, facts, signal: this.abort.signal });
    } catch (error) {
      card.fail(error);
    }
  }

  async answer(box, prompt, body) {
    const message = { role: "user", content: prompt };
    const request = { path: "/v1/chat/completions", body: { ...body, messages: [message] } };
    if (this.studio.facts.thinks_before_answering) request.body.reasoning_effort = "low";
    const reply = new Reply({ certain: !body.temperature && !body.guidance_scale });
    box.append(reply.box);
    try {
      await fill(reply, request, this.abort.signal);
      addFile(reply, request, message);
    } catch (error) {
      if (error.name === "AbortError") reply.finish("stopped");
      else reply.fail(problem(error));
    }
  }

  working(isWorking) {
    this.abort = isWorking ? new AbortController() : null;
    swap(find("compare-send"), find("compare-stop"), isWorking);
    if (isWorking) tell("Comparing …");
  }
}
