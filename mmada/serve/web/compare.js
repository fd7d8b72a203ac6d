// Two settings, or two models, side by side: the same words and the same seed, so that nothing else differs.
// A server holds one model. What another one made comes as a file that its studio saved, and takes the place of B.

import { Card } from "./card.js";
import { addFile, fill, isCertain } from "./chat.js";
import { Controls } from "./controls.js";
import { draw, drawingOf } from "./drawing.js";
import { button, element, find, folded, hint, isValid, keep, kept, numberOf, problem, sendsWithEnter, settleRemoved, setValue, swap, takeAway, tell } from "./page.js";
import { takeFiles } from "./pictures.js";
import { Reply } from "./reply.js";
import { Settings } from "./settings.js";
import { fromFile, wordsOf } from "./share.js";
import * as store from "./store.js";

const SIDES = ["a", "b"];
const MOST_TITLE = 160; // characters that are shown at first
const KINDS = { drawing: "image_settings", answer: "text_settings" };
const FACTS = { image_size: "64x64" }; // until the server has said its own; pictures have a size of their own

export class Compare {
  constructor(studio) {
    Object.assign(this, { studio, abort: null, file: null });
    this.settings = Object.fromEntries(SIDES.map((side) => [side, new Settings(find(`compare-settings-${side}`), `compare-${side}`)]));
    this.controls = new Controls(find("compare-form"));
    for (const radio of document.querySelectorAll("[name=compare-kind]")) if (radio.value === kept.get("compare-kind")) radio.checked = true;
    find("compare-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.compare();
    });
    for (const box of document.querySelectorAll(".sides details")) box.open = !matchMedia("(max-width: 860px)").matches;
    keep(find("compare-prompt"));
    sendsWithEnter(find("compare-prompt"));
    find("compare-prompt").addEventListener("input", () => find("compare-hint").replaceChildren());
    find("compare-stop").addEventListener("click", () => this.abort?.abort());
    for (const radio of document.querySelectorAll("[name=compare-kind]")) radio.addEventListener("change", () => this.studio.card && this.setDefaults(this.studio.facts));
    takeFiles(find("panel-compare"), find("compare-file"), (file) => this.open(file), { kinds: /json$/, wanted: "a saved result" });
    find("compare-settings-again").addEventListener("click", () => this.use(null));
    this.restore();
  }

  /** What was compared before. */
  async restore() {
    store.showEach(await store.all("comparisons"), (record) => {
      const boxes = record.sides.map((side) => boxOf(side, this.facts));
      const row = this.place(record);
      for (const [i, side] of record.sides.entries()) this.section(row, i, side.label).append(boxes[i]);
    });
  }

  get kind() {
    return document.querySelector("[name=compare-kind]:checked").value;
  }

  get facts() {
    return this.studio.card ? this.studio.facts : FACTS;
  }

  setDefaults(facts) {
    this.use(null);
    const [drawings, answers] = document.querySelectorAll("[name=compare-kind]");
    drawings.disabled = !facts.abilities.includes("draw");
    if (drawings.disabled) answers.checked = true;
    kept.set("compare-kind", this.kind);
    find("compare-prompt").placeholder = this.kind === "drawing" ? "What to draw with both settings" : "What to ask with both settings";
    this.controls.begin(this.studio.model, () => this.setSides(facts), () => `-${this.kind}`);
  }

  setSides(facts) {
    for (const side of SIDES) {
      this.settings[side].show(facts[KINDS[this.kind]]);
      const models = this.studio.cards.map((card) => new Option(card.id, card.id, false, card.id === this.studio.model));
      find(`compare-model-${side}`).replaceChildren(...models);
      find(`compare-model-${side}`).parentElement.hidden = models.length < 2;
    }
    // Something to see at once: the second is quicker.
    this.settings.b.set(this.kind === "drawing" ? { steps: Math.max(1, Math.round(facts.image_steps / 4)) } : { threshold: 0.3 });
  }

  /** One click on an example. */
  example({ text, of }) {
    if (!this.studio.isFree(this)) return;
    this.choose(of === "chat" ? "answer" : "drawing");
    setValue(find("compare-prompt"), text);
    this.compare();
  }

  /** What kind is compared, with the settings that it has. */
  choose(kind) {
    const radio = document.querySelector(`[name=compare-kind][value=${kind}]`);
    if (radio.checked && !this.file) return;
    radio.checked = true;
    this.setDefaults(this.studio.facts);
  }

  /** A result that a studio saved, in the place of B; A gets its words, its seed and its settings. */
  async open(file) {
    if (!this.studio.isFree(this)) return;
    try {
      const result = await fromFile(file);
      this.choose(result.kind);
      setValue(find("compare-prompt"), wordsOf(result));
      setValue(find("compare-seed"), result.seed ?? "");
      this.settings.a.set(result.request?.body ?? {});
      this.use({ name: file.name, result });
    } catch (error) {
      hint(problem(error));
    }
  }

  /** file: {name, result}, or null for settings. */
  use(file) {
    this.file = file;
    find("compare-settings-b").hidden = Boolean(file);
    find("compare-settings-again").hidden = !file;
    const others = this.studio.cards.length > 1 ? "" : "To compare with another model, save a result in its studio and open the file here.";
    find("compare-file-said").textContent = file ? `B is ${file.name}, made by ${file.result.model}.` : others;
  }

  async compare() {
    const prompt = find("compare-prompt").value.trim();
    if (!this.studio.isFree(this)) return;
    if (!prompt) {
      hint(this.kind === "drawing" ? "Say what to draw." : "Ask something.");
      find("compare-prompt").focus();
      return;
    }
    if (!isValid(find("compare-form"))) return;
    const { file, kind } = this;
    const seed = numberOf(find("compare-seed")) ?? Math.floor(Math.random() * 2 ** 31);
    const record = { id: store.newId(), at: Date.now(), title: `${prompt} · seed ${seed}`, sides: [] };
    const row = this.place(record);
    this.working(true);
    const fillSide = async (side, i) => {
      const isFile = side === "b" && file;
      const label = isFile ? describedFile(file) : this.described(side);
      const box = this.section(row, i, label);
      const body = { model: find(`compare-model-${side}`).value, ...this.settings[side].values(), seed };
      const make = isFile ? this.saved : kind === "drawing" ? this.drawing : this.answer;
      const result = await make.call(this, box, prompt, body);
      if (result) record.sides[i] = { label, kind: isFile ? file.result.kind : kind, result };
    };
    const sides = SIDES.map(fillSide);
    row.scrollIntoView({ block: "nearest" });
    await Promise.all(sides);
    const wasStopped = this.abort.signal.aborted;
    this.working(false);
    if (isWhole(record) && row.isConnected) await store.put("comparisons", record);
    tell(isWhole(record) ? "Compared." : wasStopped ? "Stopped." : "Not compared.");
  }

  /** A place for a comparison, the newest first. Returns its row of sides. */
  place(record) {
    const { id, title } = record;
    const row = element("div", { className: "pair" });
    const remove = button("Remove", () => {
      store.remove("comparisons", id);
      takeAway(box, () => isWhole(record) && store.put("comparisons", record));
    }, { className: "quiet", "aria-label": `Remove: ${title.slice(0, MOST_TITLE)}` });
    const box = element("article", { className: "comparison" }, element("div", { className: "row" }, element("h3", { dir: "auto" }, folded(title, MOST_TITLE)), element("span", { className: "spacer" }), remove), row);
    settleRemoved(find("comparisons"));
    find("comparisons").prepend(box);
    return row;
  }

  section(row, i, label) {
    const name = SIDES[i].toUpperCase();
    const box = element("section", { "aria-label": name }, element("p", { className: "badge" }, `${name}: ${label}`));
    row.append(box);
    return box;
  }

  /** What is not as usual. */
  described(side) {
    const values = Object.entries(this.settings[side].values()).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`);
    const model = this.studio.cards.length > 1 || this.file ? [find(`compare-model-${side}`).value] : [];
    return [...model, ...values].join(", ") || "the model's own settings";
  }

  // Each fills a side, and returns what is to be kept of it; nothing if it failed or was stopped.

  async saved(box) {
    const { result } = this.file;
    box.append(boxOf({ kind: result.kind, result }, this.facts));
    return result;
  }

  async drawing(box, prompt, body) {
    const { facts, parts } = this.studio;
    const request = { path: "/v1/images/generations", body: { ...body, prompt, ...parts.draw.thinking(facts.thinks_before_drawing) } };
    const card = new Card(drawingOf(prompt, request), { facts, acts: {} });
    card.begin(1);
    box.append(card.box);
    try {
      const isWhole = await draw(card, { prompt, facts, signal: this.abort.signal });
      return isWhole ? store.lighter(card.result) : null;
    } catch (error) {
      card.fail(error);
      return null;
    }
  }

  async answer(box, prompt, body) {
    const message = { role: "user", content: prompt };
    const request = { path: "/v1/chat/completions", body: { ...body, messages: [message] } };
    if (this.studio.facts.thinks_before_answering) request.body.reasoning_effort = "low";
    const reply = new Reply(isCertain(body));
    box.append(reply.box);
    try {
      await fill(reply, request, this.abort.signal);
      addFile(reply, request, message);
      return { ...reply.record, ...isCertain(body), request, model: body.model };
    } catch (error) {
      if (error.name === "AbortError") reply.finish("stopped");
      else reply.fail(problem(error));
      return null;
    }
  }

  working(isWorking) {
    this.abort = isWorking ? new AbortController() : null;
    swap(find("compare-send"), find("compare-stop"), isWorking);
    for (const control of [find("compare-file"), find("compare-settings-again")]) control.disabled = isWorking;
    find("compare-hint").replaceChildren();
    if (isWorking) tell("Comparing …");
  }
}

/** Whether both sides of a comparison came. */
function isWhole({ sides }) {
  return sides.filter(Boolean).length === SIDES.length;
}

/** A finished side. */
function boxOf({ kind, result }, facts) {
  if (kind === "drawing") return Card.of(result, { facts, acts: {} }).box;
  const reply = Reply.of(result, isCertain(result.request?.body ?? {}));
  if (result.request) addFile(reply, result.request, { content: wordsOf(result) });
  return reply.box;
}

function describedFile({ name, result }) {
  const { steps } = result.request?.body ?? {};
  return [result.model, steps && `steps ${steps}`, name].filter(Boolean).join(", ");
}
