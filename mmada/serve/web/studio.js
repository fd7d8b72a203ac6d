// The page: tabs, the checkpoint and the key. chat.js and draw.js do the rest.

import { getKey, getModels, setKey } from "./api.js";
import { Chat } from "./chat.js";
import { Draw } from "./draw.js";
import { find, problem, showValues, tell } from "./page.js";
import { asCurl, asPython, copy } from "./snippets.js";

const TABS = ["chat", "draw"];

class Studio {
  constructor() {
    this.cards = [];
    this.parts = { chat: new Chat(this), draw: new Draw(this) };
    showValues();
    this.addTabs();
    find("key").value = getKey();
    find("key").addEventListener("change", () => {
      setKey(find("key").value);
      this.load();
    });
    find("model").addEventListener("change", () => this.choose());
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", () => this.copyLast(button));
    }
    this.load();
  }

  /** Whether a checkpoint is known; says so where it is not. */
  get isReady() {
    if (!this.card) tell("The server has not said yet which model it has.");
    return Boolean(this.card);
  }

  get model() {
    return this.card.id;
  }

  get facts() {
    return this.card.mmada;
  }

  /** Ask for the checkpoints; nothing can be sent before they are known. */
  async load() {
    const sends = [find("chat-send"), find("draw-send"), find("draw-file"), ...document.querySelectorAll(".examples button")];
    for (const button of sends) button.disabled = true;
    find("server-problem").replaceChildren();
    try {
      this.cards = await getModels();
      find("model").replaceChildren(...this.cards.map((card) => new Option(card.id, card.id)));
      this.choose();
      for (const button of sends) button.disabled = false;
      tell("Ready.");
    } catch (error) {
      find("server-problem").replaceChildren(problem(error, () => this.load()));
    }
  }

  choose() {
    this.card = this.cards.find((card) => card.id === find("model").value);
    for (const part of Object.values(this.parts)) part.setDefaults(this.facts);
  }

  addTabs() {
    for (const [i, name] of TABS.entries()) {
      find(`tab-${name}`).addEventListener("click", () => this.show(name));
      find(`tab-${name}`).addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        const next = TABS[(i + step + TABS.length) % TABS.length];
        this.show(next);
        find(`tab-${next}`).focus();
      });
    }
    if (TABS.includes(location.hash.slice(1))) this.show(location.hash.slice(1));
  }

  show(name) {
    for (const other of TABS) {
      find(`tab-${other}`).setAttribute("aria-selected", other === name);
      find(`tab-${other}`).tabIndex = other === name ? 0 : -1;
      find(`panel-${other}`).hidden = other !== name;
    }
    history.replaceState(null, "", `#${name}`);
  }

  askAbout(url) {
    this.show("chat");
    this.parts.chat.attach(url);
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

function flash(button, text) {
  button.dataset.name ??= button.textContent;
  button.textContent = text;
  setTimeout(() => (button.textContent = button.dataset.name), 1500);
}

new Studio();
