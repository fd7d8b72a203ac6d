// The chat: a conversation whose answers unmask before one's eyes. "draw …" goes to the drawer, and the picture is the answer.

import { stream } from "./api.js";
import { Card } from "./card.js";
import { draw, drawingOf } from "./drawing.js";
import { NUM_ALTERNATIVES } from "./inspector.js";
import { button, element, find, keep, kept, numberOf, problem, sendsWithEnter, setValue, swap, tell } from "./page.js";
import { blobOf, download, pictureOf, takeFiles } from "./pictures.js";
import { Reply } from "./reply.js";
import { Settings } from "./settings.js";
import { fromFile, toFile } from "./share.js";
import * as store from "./store.js";

const ASKS_FOR_PICTURE = /^(?:please\s+)?(?:draw|paint|sketch|(?:show|make|give)\s+me\s+a\s+(?:picture|drawing)\s+of)\s+(?:me\s+)?(.+?)(?:,?\s+please)?[.!]?$/is;

export class Chat {
  constructor(studio) {
    Object.assign(this, { studio, messages: [], picture: null, abort: null, last: null });
    this.settings = new Settings(find("chat-settings"), "chat");
    takeFiles(find("panel-chat"), find("chat-file"), (file) => this.attachFile(file), /^image\/|json$/);
    find("attachment-remove").addEventListener("click", () => this.attach(null));
    find("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    keep(find("chat-text"));
    sendsWithEnter(find("chat-text"));
    find("chat-text").addEventListener("input", () => (find("chat-hint").textContent = ""));
    find("chat-stop").addEventListener("click", () => this.abort?.abort());
    find("chat-new").addEventListener("click", () => this.clear());
    find("chat-colors").addEventListener("change", () => find("dialogue").classList.toggle("plain", !find("chat-colors").checked));
    this.restore();
  }

  /** Begin with what suits a checkpoint. */
  setDefaults(facts) {
    this.settings.show(facts.text_settings);
    find("chat-text").placeholder = this.studio.can("draw") ? "Ask, or say “draw a cat”" : "Ask something";
    find("chat-think").checked = facts.thinks_before_answering;
    find("chat-history").checked = facts.context >= 2048; // a small context belongs to a model of single turns
  }

  /** The conversation of this tab, or else the last one. */
  async restore() {
    const exchanges = await store.all("exchanges");
    this.conversation = kept.get("conversation") ?? exchanges.at(-1)?.conversation ?? store.newId();
    kept.set("conversation", this.conversation);
    const earlier = exchanges.filter((exchange) => exchange.conversation === this.conversation);
    if (this.abort || this.messages.length) return;
    for (const exchange of earlier) this.showExchange(exchange);
    this.latest();
  }

  showExchange({ message, answer, drawing }) {
    this.turn(message);
    if (drawing) {
      find("dialogue").append(Card.of(drawing, this.cardOptions()).box);
      return;
    }
    const reply = Reply.of(answer, answer);
    find("dialogue").append(reply.box);
    this.settled(reply, message);
  }

  cardOptions() {
    const { edit, vary, ask, use } = this.studio.parts?.draw.acts ?? {};
    const inDraw = (act) => (...parts) => {
      this.studio.show("draw");
      act(...parts);
    };
    const again = (prompt) => {
      setValue(find("chat-text"), `draw ${prompt}`);
      this.ask();
    };
    const facts = this.studio.card ? this.studio.facts : { image_size: "64x64" };
    return { facts, acts: edit ? { edit: inDraw(edit), vary: inDraw(vary), ask, use: inDraw(use), draw: again } : {} };
  }

  async attachFile(file) {
    try {
      if (file.type.startsWith("image/")) this.attach(await pictureOf(file));
      else this.studio.showResult(await fromFile(file));
    } catch (error) {
      find("dialogue").append(problem(error));
    }
  }

  attach(url) {
    this.picture = url;
    find("attachment").hidden = !url;
    if (url) find("attachment-picture").src = url;
    else find("attachment-picture").removeAttribute("src");
    find("chat-text").focus();
  }

  /** Begin anew; what was said is forgotten. */
  clear() {
    this.abort?.abort();
    store.removeConversation(this.conversation);
    this.messages = [];
    this.conversation = store.newId();
    kept.set("conversation", this.conversation);
    find("dialogue").replaceChildren();
    this.attach(null);
  }

  /** One click on an example. */
  async example({ text, picture, think }) {
    if (this.abort || !this.studio.isReady) return;
    find("chat-think").checked = think ?? find("chat-think").checked;
    setValue(find("chat-text"), text);
    if (picture) await this.attachFile(picture.startsWith("data:") ? blobOf(picture) : await (await fetch(picture)).blob());
    this.ask();
  }

  ask() {
    const text = find("chat-text").value.trim();
    if (this.abort || !this.studio.isReady) return;
    if (!text && !this.picture) {
      find("chat-hint").textContent = this.studio.can("draw") ? "Ask something, add a picture, or say “draw a cat”." : "Ask something.";
      find("chat-text").focus();
      return;
    }
    if (!find("chat-form").reportValidity()) return;
    const message = { role: "user", content: this.picture ? [{ type: "text", text }, { type: "image_url", image_url: { url: this.picture } }].slice(text ? 0 : 1) : text };
    const wanted = this.picture || !this.studio.can("draw") ? null : ASKS_FOR_PICTURE.exec(text)?.[1];
    this.turn(message);
    setValue(find("chat-text"), "");
    this.attach(null);
    if (wanted) this.draw(message, wanted);
    else this.answer(message);
  }

  /** What the user said, on the page. */
  turn({ content }) {
    const turn = element("div", { className: "turn user" });
    for (const part of typeof content === "string" ? [{ type: "text", text: content }] : content) {
      if (part.type === "text") turn.append(part.text);
      else turn.prepend(element("img", { src: part.image_url.url, alt: "Your picture", className: "pixels" }));
    }
    find("dialogue").append(turn);
  }

  request(message) {
    const body = { model: this.studio.model, messages: [...(find("chat-history").checked ? this.messages : []), message] };
    if (find("chat-think").checked) body.reasoning_effort = "low";
    else if (this.studio.facts.thinks_before_answering) body.reasoning_effort = "none"; // or it would think all the same
    Object.assign(body, this.settings.values());
    const seed = numberOf(find("chat-seed"));
    return seed === undefined ? body : { ...body, seed };
  }

  async answer(message) {
    if (this.abort) return;
    const body = this.request(message);
    const reply = new Reply(isCertain(body));
    find("dialogue").append(reply.box);
    this.latest();
    this.last = { path: "/v1/chat/completions", body };
    this.working(true);
    try {
      await fill(reply, this.last, this.abort.signal);
      this.latest();
      this.save({ message, answer: { ...reply.record, ...isCertain(body), request: this.last, model: body.model } });
      this.settled(reply, message);
      tell("Answered.");
    } catch (error) {
      if (error.name === "AbortError") {
        reply.finish("stopped");
        tell("Stopped.");
      } else {
        reply.fail(problem(error, () => {
          if (this.abort) return;
          reply.box.remove();
          this.answer(message);
        }));
        tell("Not answered.");
      }
    } finally {
      this.working(false);
    }
  }

  /** An answer that is all there is part of what the model is told next. */
  settled(reply, message) {
    if (reply.record.answer.trim()) this.messages.push(message, { role: "assistant", content: reply.record.answer });
    addFile(reply, this.last, message);
  }

  async draw(message, prompt) {
    const body = { model: this.studio.model, prompt, ...this.studio.parts.draw.thinking(this.studio.facts.thinks_before_drawing) };
    const seed = numberOf(find("chat-seed"));
    if (seed !== undefined) body.seed = seed;
    const card = new Card(drawingOf(prompt, { path: "/v1/images/generations", body }), this.cardOptions());
    card.begin(1);
    find("dialogue").append(card.box);
    this.latest();
    this.last = card.result.request;
    this.working(true);
    try {
      const isWhole = await draw(card, { prompt, facts: this.studio.facts, signal: this.abort.signal });
      if (isWhole) this.save({ message, drawing: store.lighter(card.result) });
    } catch (error) {
      card.fail(error, () => {
        if (this.abort) return;
        card.box.remove();
        this.draw(message, prompt);
      });
      tell("Not drawn.");
    } finally {
      this.working(false);
      this.latest();
    }
  }

  /** An answer from a file. */
  open(result) {
    const message = result.request?.body.messages?.at(-1);
    const isSaid = typeof message?.content === "string";
    this.turn({ content: isSaid ? message.content : result.title });
    const reply = Reply.of(result, { certain: true });
    reply.facts.prepend("From a file · ");
    find("dialogue").append(reply.box);
    this.latest();
  }

  save(exchange) {
    store.put("exchanges", { id: store.newId(), at: Date.now(), conversation: this.conversation, ...exchange });
  }

  /** The end of the conversation is in view. */
  latest() {
    find("dialogue").lastElementChild?.scrollIntoView({ block: "nearest" });
  }

  working(isWorking) {
    this.abort = isWorking ? new AbortController() : null;
    swap(find("chat-send"), find("chat-stop"), isWorking);
    find("dialogue").setAttribute("aria-busy", isWorking);
    if (isWorking) tell("Answering …");
  }
}

/** Confidence is a probability of the model only where the likeliest token is always taken. */
export function isCertain(body) {
  return { certain: !body.temperature && !body.guidance_scale };
}

/** Stream an answer into a reply. */
export async function fill(reply, request, signal) {
  const options = { stream: true, stream_options: { include_usage: true, include_drafts: true, top_logprobs: NUM_ALTERNATIVES } };
  for await (const chunk of stream(request.path, { ...request.body, ...options }, signal)) {
    request.seed = chunk.seed;
    reply.take(chunk);
  }
  reply.finish();
}

/** A button that saves an answer as a file. */
export function addFile(reply, request, message) {
  const { record } = reply;
  const said = typeof message.content === "string" ? message.content : message.content.find((part) => part.type === "text")?.text ?? "A picture";
  const result = { at: Date.now(), kind: "answer", title: said, model: record.model ?? request.body.model, ...record, request: record.request ?? request };
  reply.actions.replaceChildren(button("Save as a file", () => {
    const url = URL.createObjectURL(new Blob([toFile(result)], { type: "application/json" }));
    download(url, `mmada-${record.seed ?? "answer"}.json`);
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }, { title: "Message, seed, settings and steps in one JSON file, which any studio opens" }));
}
