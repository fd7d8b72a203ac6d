// The page: tabs, the checkpoint, the key and the examples. chat.js, draw.js and compare.js do the rest.

import { getKey, getModels, setKey } from "./api.js";
import { Chat } from "./chat.js";
import { Compare } from "./compare.js";
import { Draw } from "./draw.js";
import { showExamples } from "./examples.js";
import { element, find, flash, guardDoubleClicks, hint, problem, showValues, tell } from "./page.js";
import { asCurl, asPython, copy } from "./snippets.js";

const TABS = ["draw", "chat", "compare"];
const PATIENCE = 3000; // milliseconds without an answer of the server before the page says that it waits
const SMALL = 128; // a picture with fewer pixels shows them as squares instead of a blur

document.addEventListener(
  "load",
  ({ target }) => target.classList?.contains("pixels") && target.classList.toggle("small", target.naturalWidth < SMALL),
  true,
);

class Studio {
  constructor() {
    this.cards = [];
    this.tabs = TABS;
    this.addTabs();
    this.parts = {};
    for (const [name, Part] of Object.entries({ draw: Draw, chat: Chat, compare: Compare })) this.parts[name] = new Part(this);
    showValues();
    find("key").value = getKey();
    find("key").addEventListener("change", () => {
      setKey(find("key").value);
      this.load();
    });
    find("model").addEventListener("change", () => this.choose());
    addEventListener("click", (event) => find("access").contains(event.target) || (find("access").open = false));
    find("access").addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      find("access").open = false;
      find("access").firstElementChild.focus();
    });
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", () => this.copyLast(button));
    }
    for (const button of document.querySelectorAll("[data-reset]")) button.addEventListener("click", () => this.reset(button));
    this.load();
  }

  /** Whether a checkpoint is known; says so where it is not. */
  get isReady() {
    if (!this.card) hint("The server has not said yet which model it has.");
    return Boolean(this.card);
  }

  /** Whether a tab can begin something; says so where it cannot. */
  isFree(part) {
    if (part.abort) hint("One at a time: wait for this one, or stop it.");
    return !part.abort && this.isReady;
  }

  get model() {
    return this.card.id;
  }

  get facts() {
    return this.card.mmada;
  }

  /** Whether the model has an ability: draw, look, edit, ... */
  can(ability) {
    return this.facts.abilities.includes(ability);
  }

  /** Ask for the checkpoints; nothing can be sent before they are known. */
  async load() {
    const sends = [...document.querySelectorAll("#draw-send, #chat-send, #compare-send, #draw-file, .example")];
    for (const button of sends) button.disabled = true;
    find("server-problem").replaceChildren();
    tell("Connecting …");
    const waiting = setTimeout(() => find("server-problem").replaceChildren(element("p", { className: "hint" }, "Waiting for the server …")), PATIENCE);
    try {
      this.cards = await getModels();
      find("server-problem").replaceChildren();
      find("model").replaceChildren(...this.cards.map((card) => new Option(card.id, card.id)));
      this.choose();
      hint();
      for (const button of sends) button.disabled = false;
      tell("Ready.");
    } catch (error) {
      find("server-problem").replaceChildren(problem(error, () => this.load()));
      tell("");
    } finally {
      clearTimeout(waiting);
    }
  }

  choose() {
    this.card = this.cards.find((card) => card.id === find("model").value);
    find("model-name").textContent = this.model;
    find("model-name").hidden = this.cards.length > 1;
    find("model-choice").hidden = this.cards.length < 2;
    this.tabs = this.can("draw") ? TABS : TABS.filter((name) => name !== "draw");
    find("tab-draw").hidden = !this.can("draw");
    this.open();
    for (const part of Object.values(this.parts)) part.setDefaults(this.facts);
    showExamples(this.facts, (example) => this.runExample(example));
  }

  runExample(example) {
    this.show({ chat: "chat", compare: "compare" }[example.kind] ?? "draw");
    if (example.kind === "compare") this.parts.compare.example(example);
    else if (example.kind === "chat") this.parts.chat.example(example);
    else if (example.kind === "edit") this.parts.draw.redoExample(example);
    else this.parts.draw.drawThis(example.text, example.think);
  }

  addTabs() {
    for (const name of TABS) {
      find(`tab-${name}`).addEventListener("click", () => this.show(name));
      find(`tab-${name}`).addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        const at = this.tabs.indexOf(name);
        const next = this.tabs[(at + step + this.tabs.length) % this.tabs.length];
        this.show(next);
        find(`tab-${next}`).focus();
      });
    }
    addEventListener("hashchange", () => this.open());
    this.open();
  }

  /** Go to a tab; the back button returns. */
  show(name) {
    location.hash = name;
    this.open();
  }

  /** Open the tab that the address names. */
  open() {
    const wanted = location.hash.slice(1);
    const name = this.tabs.includes(wanted) ? wanted : this.tabs[0];
    if (find(`panel-${name}`).hidden && find("editor").open) find("editor").close(); // as the back button may do
    for (const other of TABS) {
      find(`tab-${other}`).setAttribute("aria-selected", other === name);
      find(`tab-${other}`).tabIndex = other === name ? 0 : -1;
      find(`panel-${other}`).hidden = other !== name;
    }
  }

  askAbout(url) {
    this.show("chat");
    this.parts.chat.attach(url);
  }

  /** A result from a file, where it belongs. */
  showResult(result) {
    this.show(result.kind === "drawing" ? "draw" : "chat");
    if (result.kind === "drawing") this.parts.draw.keep({ ...result, badge: "From a file" });
    else this.parts.chat.open(result);
    tell("Opened.");
  }

  /** Set the controls of a tab back, and say so on the button for a moment. */
  reset(button) {
    this.parts[button.dataset.reset].controls.reset();
    tell("The settings are the defaults again.");
    flash(button, "Reset");
  }

  /** Copy the last request of a tab, and say so on the button for a moment. */
  async copyLast(button) {
    const { of: part, copy: kind } = button.dataset;
    const request = this.parts[part].last;
    if (!request) {
      tell(`Nothing was sent yet; ${part === "chat" ? "ask" : "draw"} something first.`);
      flash(button, "Nothing yet");
      return;
    }
    try {
      await copy(kind === "curl" ? asCurl(request) : asPython(request));
      const needs = request.files ? ` Save the ${Object.keys(request.files).join(" and the ")} as ${Object.keys(request.files).map((name) => `${name}.png`).join(" and ")} first.` : "";
      tell(`Copied as ${kind === "curl" ? "curl" : "Python"}.${needs}`);
      flash(button, "Copied");
    } catch (error) {
      tell(error.message);
      flash(button, "Not allowed");
    }
  }
}

guardDoubleClicks();
new Studio();
