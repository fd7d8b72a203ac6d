// The tab that draws: prompts, their pictures in a gallery that is kept, variations and edits.

import { Card } from "./card.js";
import { Controls } from "./controls.js";
import { draw, drawingOf, drawUnlike } from "./drawing.js";
import { Editor, maskOfObject } from "./editor.js";
import { find, hint, isValid, keep, numberOf, problem, sendsWithEnter, settleRemoved, setValue, swap, takeAway, tell } from "./page.js";
import { croppedPictureOf, fitted, takeFiles } from "./pictures.js";
import { Settings } from "./settings.js";
import { fromData, fromFile } from "./share.js";
import * as store from "./store.js";

const MOST_CARDS = 30;
const NUM_VARIATIONS = 3;
const MOST_FILES = 8; // that are opened at once
const MOST_PLANS = 9; // that are given up, of a prompt that leaves little to plan
const RECORDED = { image_size: "64x64" };

export class Draw {
  constructor(studio) {
    Object.assign(this, { studio, abort: null, last: null, recorded: null, cards: new Map() });
    this.settings = new Settings(find("draw-settings"), "draw");
    this.controls = new Controls(find("draw-form"));
    this.editor = new Editor();
    this.acts = {
      edit: (view) => this.edit(view),
      vary: (view, card) => this.vary(view, card),
      ask: (url) => studio.askAbout(url),
      use: (result) => this.use(result),
      draw: (prompt) => this.drawThis(prompt),
      forget: (card) => this.forget(card),
    };
    find("draw-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.draw();
    });
    keep(find("draw-prompt"));
    sendsWithEnter(find("draw-prompt"));
    find("draw-prompt").addEventListener("input", () => find("draw-hint").replaceChildren());
    find("draw-dice").addEventListener("click", () => setValue(find("draw-seed"), newSeed()));
    find("draw-stop").addEventListener("click", () => this.abort?.abort());
    takeFiles(find("panel-draw"), find("draw-file"), (file) => this.open(file), { most: MOST_FILES });
    this.channel = new BroadcastChannel("mmada-drawings");
    this.channel.addEventListener("message", ({ data }) => this.hear(data));
    this.restore();
  }

  /** What was drawn before; for a first visit, a recording. */
  async restore() {
    const earlier = (await store.all("drawings")).slice(-MOST_CARDS);
    store.showEach(earlier, (result) => this.showKept(result));
    if (!this.cards.size) await this.showRecording().catch((error) => console.warn("no recording", error)); // a server that has gone since
  }

  async showRecording() {
    const result = fromData(await (await fetch("recorded.json")).json(), "The recording");
    if (this.cards.size || this.abort) return;
    const { edit, vary, ask, draw: again } = this.acts;
    const badge = "Recorded – yours is drawn live";
    this.recorded = Card.of(result, { facts: RECORDED, acts: { edit, vary, ask, draw: again }, badge }, { plays: true });
    find("gallery").append(this.recorded.box);
  }

  /** What another tab drew or removed. */
  async hear({ added, removed }) {
    if (removed) this.cards.get(removed)?.box.remove();
    this.cards.delete(removed);
    const result = added && (await store.get("drawings", added));
    if (result) this.showKept(result);
  }

  showKept(result) {
    if (this.cards.has(result.id)) return;
    const card = Card.of(result, this.options(result));
    card.kept = result;
    this.add(card);
  }

  options({ badge } = {}) {
    return { facts: this.studio.card ? this.studio.facts : RECORDED, acts: this.acts, badge };
  }

  setDefaults(facts) {
    this.controls.begin(this.studio.model, () => {
      this.settings.show(facts.image_settings);
      find("draw-count").max = Math.min(8, facts.max_n);
      setValue(find("draw-count"), 1);
      find("draw-think").checked = facts.thinks_before_drawing;
    });
  }

  /** What every request for pictures has. */
  common() {
    const body = { model: this.studio.model, ...this.settings.values() };
    const seed = numberOf(find("draw-seed"));
    return seed === undefined ? body : { ...body, seed };
  }

  draw() {
    const prompt = find("draw-prompt").value.trim();
    if (!this.studio.isFree(this)) return;
    if (!prompt) {
      hint("Say what to draw, or take an example.");
      find("draw-prompt").focus();
      return;
    }
    if (!isValid(find("draw-form"))) return;
    if (matchMedia("(pointer: coarse)").matches) find("draw-prompt").blur(); // the keyboard would cover the picture
    const body = { ...this.common(), prompt, ...this.thinking(find("draw-think").checked) };
    const count = Number(find("draw-count").value);
    if (count > 1) body.n = count;
    this.run(prompt, { path: "/v1/images/generations", body });
  }

  drawThis(prompt, think) {
    if (!this.studio.isFree(this)) return;
    setValue(find("draw-prompt"), prompt);
    if (think) find("draw-think").checked = true;
    this.studio.show("draw");
    this.draw();
  }

  thinking(thinks) {
    return thinks || this.studio.facts.thinks_before_drawing ? { thinking: thinks } : {};
  }

  /** The same words planned anew with new seeds; a picture without words has a random part of it drawn anew. */
  vary(view, card) {
    if (!this.studio.isFree(this)) return;
    const { request } = card.result;
    const prompt = request?.path === "/v1/images/generations" ? request.body.prompt : view.record.prompt;
    const most = this.studio.facts.max_n;
    const count = Math.min(NUM_VARIATIONS, most);
    if (!prompt) {
      const body = { ...this.common(), n: count, strength: Number(find("draw-strength").value) };
      this.run("Variations of a picture", { path: "/v1/images/variations", body, files: { image: view.url } }, { count });
      return;
    }
    const body = { ...this.common(), prompt, ...this.thinking(this.studio.facts.thinks_before_drawing), seed: newSeed() };
    const plan = body.thinking ? card.result.thoughts[card.views.indexOf(view)] ?? null : undefined;
    if (plan === undefined) body.n = count;
    this.run(`Variations: ${prompt}`, { path: "/v1/images/generations", body }, { count, plan, prompt });
  }

  async edit(view) {
    if (!this.studio.isFree(this)) return;
    const { facts } = this.studio;
    const { url } = await fitted(view.url, facts);
    if (find("editor").open) return;
    const wanted = await this.editor.open({ url, record: view.record }, facts.image_factor, facts.edits_by_instruction, facts.edit_orders);
    if (wanted) this.redo(url, wanted);
  }

  /** mask: what is drawn anew; without one, the prompt says what is to be changed. */
  redo(image, { prompt, mask, order, title = `${mask ? "Redrawn" : "Edited"}: ${prompt}` }) {
    const body = { ...this.common(), prompt, ...(order && { order }) };
    const files = mask ? { image, mask } : { image };
    this.run(title, { path: "/v1/images/edits", body, files }, { prompt });
  }

  /** Redraw one thing of an example's picture. */
  async redoExample({ text, prompt, picture, at }) {
    if (!this.studio.isFree(this)) return;
    const { facts } = this.studio;
    const { url, scale } = await fitted(picture, facts);
    const mask = await maskOfObject(url, facts.image_factor, at.map((place) => scale * place));
    this.redo(url, { title: text, prompt, mask });
  }

  /** A picture to edit or vary, or a result that a studio saved. */
  async open(file) {
    if (!this.studio.isReady) return;
    try {
      if (!file.type.startsWith("image/")) {
        this.studio.showResult(await fromFile(file));
        return;
      }
      const [width, height] = this.studio.facts.image_size.split("x").map(Number);
      const frame = await croppedPictureOf(file, width, height);
      const badge = `Your picture, as ${width} × ${height}`;
      this.keep({ id: store.newId(), at: Date.now(), kind: "drawing", title: file.name || "A picture", badge, pictures: [{ frames: [frame] }], thoughts: [] });
    } catch (error) {
      hint(problem(error));
    }
  }

  /** Show a finished result, and keep it. */
  keep(result) {
    this.add(Card.of(result, this.options(result), { plays: true }));
    this.save(result);
  }

  save(result) {
    this.cards.get(result.id).kept = result;
    store.put("drawings", store.lighter(result)).then(() => this.channel.postMessage({ added: result.id }));
  }

  /** Take a result away, and leave a way back where it stood. */
  forget(card) {
    const { id } = card.result;
    this.cards.delete(id);
    store.remove("drawings", id).then(() => this.channel.postMessage({ removed: id }));
    takeAway(card.box, () => {
      this.cards.set(id, card);
      if (card.kept) this.save(card.kept);
    });
  }

  add(card) {
    this.recorded?.box.remove();
    settleRemoved(find("gallery"));
    this.cards.set(card.result.id, card);
    find("gallery").prepend(card.box);
    while (find("gallery").children.length > MOST_CARDS) find("gallery").lastElementChild.remove();
  }

  /** Take over prompt, seed and settings of a result. */
  use(result) {
    const { prompt, model, n, thinking, ...settings } = result.request.body;
    setValue(find("draw-prompt"), prompt);
    this.settings.set(settings);
    setValue(find("draw-count"), n ?? 1);
    if (thinking !== undefined) find("draw-think").checked = thinking;
    setValue(find("draw-seed"), result.seed ?? "");
    find("draw-prompt").focus();
    tell("Prompt, seed and settings are those of this result.");
  }

  /** plan: of pictures that are to be planned otherwise than this, and otherwise than each other. */
  async run(title, request, { count = request.body.n ?? 1, plan, prompt = request.body.prompt } = {}) {
    if (this.abort) return;
    const card = new Card(drawingOf(title, request), this.options());
    card.begin(count);
    this.add(card);
    reveal(card.box);
    this.last = request;
    this.working(true);
    let isWhole = false;
    try {
      const how = { prompt, facts: this.studio.facts, signal: this.abort.signal };
      isWhole = await (plan === undefined ? draw(card, how) : drawUnlike(card, { ...how, plan, tries: MOST_PLANS }));
    } catch (error) {
      const again = () => {
        if (!this.studio.isFree(this)) return false;
        card.box.remove();
        return this.run(title, request, { count, plan, prompt });
      };
      card.fail(error, again);
      tell("Not drawn.");
    } finally {
      this.working(false);
      const kept = isWhole ? card.result : card.wholePart;
      if (kept && card.box.isConnected) this.save(kept);
    }
  }

  working(isWorking) {
    this.abort = isWorking ? new AbortController() : null;
    swap(find("draw-send"), find("draw-stop"), isWorking);
    find("gallery").setAttribute("aria-busy", isWorking);
    find("draw-hint").replaceChildren();
    if (isWorking) tell("Drawing …");
  }
}

/** Scroll no more than is needed to see where a picture begins. */
function reveal(box) {
  const { top, bottom } = box.getBoundingClientRect();
  if (top < 0 || Math.min(bottom, top + 300) > innerHeight) box.scrollIntoView({ block: top < 0 ? "start" : "nearest" });
}

function newSeed() {
  return Math.floor(Math.random() * 2 ** 31);
}
