// The chat: a conversation whose answers unmask before one's eyes. "draw …" goes to the drawer, and the picture is the answer.

import { ServerError, stream } from "./api.js";
import { Card } from "./card.js";
import { Controls } from "./controls.js";
import { draw, drawingOf } from "./drawing.js";
import { NUM_ALTERNATIVES } from "./inspector.js";
import { button, element, find, folded, hint, isValid, keep, kept, numberOf, problem, sendsWithEnter, setValue, swap, tell } from "./page.js";
import { blobOf, download, pictureOf, takeFiles } from "./pictures.js";
import { Reply } from "./reply.js";
import { Settings } from "./settings.js";
import { fromFile, toFile, wordsOf } from "./share.js";
import * as store from "./store.js";

const BENDS = ["temperature", "guidance_scale", "repetition_penalty", "frequency_penalty", "presence_penalty"];
const MOST_TURN = 600; // characters of a message that are shown at first
const POLITE = String.raw`(?:please,?\s+|(?:can|could|would|will)\s+you\s+(?:please\s+)?|(?:now|then)\s+|i(?:\s+want|\s+would\s+like|'d\s+like)\s+you\s+to\s+)*`;
const VERB = String.raw`(?:draw|paint|sketch|(?:show|make|give|generate|create)\s+(?:me\s+)?an?\s+(?:picture|drawing|image|sketch)\s+of)`;
const ASKS_FOR_PICTURE = new RegExp(String.raw`^${POLITE}${VERB}(?:\s+me\b)?\s*[:\s]\s*(.+?)(?:,?\s+please)?\s*[.!?]*$`, "is");

export class Chat {
  constructor(studio) {
    Object.assign(this, { studio, messages: [], picture: null, abort: null, last: null });
    this.settings = new Settings(find("chat-settings"), "chat");
    this.controls = new Controls(find("chat-form"));
    takeFiles(find("panel-chat"), find("chat-file"), (file) => this.attachFile(file));
    find("attachment-remove").addEventListener("click", () => this.attach(null));
    find("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    keep(find("chat-text"));
    sendsWithEnter(find("chat-text"));
    find("chat-text").addEventListener("input", () => find("chat-hint").replaceChildren());
    find("chat-stop").addEventListener("click", () => this.abort?.abort());
    find("chat-new").addEventListener("click", () => this.clear());
    find("chat-colors").addEventListener("change", () => find("dialogue").classList.toggle("plain", !find("chat-colors").checked));
    this.restore();
  }

  /** Begin with what suits a checkpoint. */
  setDefaults(facts) {
    find("chat-text").placeholder = this.studio.can("draw") ? "Ask, or say “draw a cat”" : "Ask something";
    this.controls.begin(this.studio.model, () => {
      this.settings.show(facts.text_settings);
      find("chat-think").checked = facts.thinks_before_answering;
      find("chat-history").checked = facts.context >= 2048; // a small context belongs to a model of single turns
    });
  }

  /** The conversation of this tab, or else the last one. */
  async restore() {
    const exchanges = await store.all("exchanges");
    this.conversation = kept.get("conversation") ?? exchanges.at(-1)?.conversation ?? store.newId();
    kept.set("conversation", this.conversation);
    const earlier = exchanges.filter((exchange) => exchange.conversation === this.conversation);
    if (this.abort || this.messages.length) return;
    this.showAll(earlier);
  }

  showAll(exchanges) {
    store.showEach(exchanges, (exchange) => this.showExchange(exchange));
    this.latest();
  }

  showExchange(exchange) {
    const { message, answer, drawing, refusal } = exchange;
    if (refusal) {
      const card = new Card({ title: refusal.prompt, pictures: [], thoughts: [] }, this.cardOptions());
      card.fail(new Error(refusal.message));
      find("dialogue").append(this.turn(message), card.box);
    } else if (drawing) {
      const card = Card.of(drawing, this.cardOptions());
      find("dialogue").append(this.turn(message), card.box);
    } else if (answer) {
      const reply = Reply.of(answer, answer);
      find("dialogue").append(this.turn(message), reply.box);
      this.settled(reply, message);
    } else {
      const place = element("div", { className: "turn assistant" }, element("p", { className: "hint" }, "Not answered. ", button("Try again", () => {
        if (this.studio.isFree(this)) this.reply(exchange, place);
      })));
      find("dialogue").append(this.turn(message), place);
    }
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
      hint(problem(error));
    }
  }

  attach(url) {
    this.picture = url;
    find("attachment").hidden = !url;
    if (url) find("attachment-picture").src = url;
    else find("attachment-picture").removeAttribute("src");
    find("chat-text").focus();
  }

  /** Begin anew; what was said is forgotten, unless one takes that back at once. */
  async clear() {
    this.abort?.abort();
    const { conversation } = this;
    this.begin(store.newId());
    this.attach(null);
    const said = await store.removeConversation(conversation);
    if (said.length) hint("The conversation is forgotten. ", button("Undo", () => {
      if (!this.studio.isFree(this)) return;
      for (const exchange of said) store.put("exchanges", exchange);
      this.begin(conversation);
      this.showAll(said);
      find("chat-text").focus();
    }));
  }

  begin(conversation) {
    this.messages = [];
    this.conversation = conversation;
    kept.set("conversation", conversation);
    find("dialogue").replaceChildren();
    find("chat-hint").replaceChildren();
  }

  /** One click on an example. */
  async example({ text, picture, think }) {
    if (!this.studio.isFree(this)) return;
    find("chat-think").checked = think ?? find("chat-think").checked;
    setValue(find("chat-text"), text);
    if (picture) await this.attachFile(picture.startsWith("data:") ? blobOf(picture) : await (await fetch(picture)).blob());
    this.ask();
  }

  ask() {
    const text = find("chat-text").value.trim();
    if (!this.studio.isFree(this)) return;
    if (!text && !this.picture) {
      const ways = [this.studio.can("look") && "add a picture", this.studio.can("draw") && "say “draw a cat”"].filter(Boolean);
      hint(`${new Intl.ListFormat("en", { type: "disjunction" }).format(["Ask something", ...ways])}.`);
      find("chat-text").focus();
      return;
    }
    if (!isValid(find("chat-form"))) return;
    const message = { role: "user", content: this.picture ? [{ type: "text", text }, { type: "image_url", image_url: { url: this.picture } }].slice(text ? 0 : 1) : text };
    const exchange = { id: store.newId(), at: Date.now(), conversation: this.conversation, message };
    const place = element("div", { className: "turn assistant" });
    find("dialogue").append(this.turn(message), place);
    setValue(find("chat-text"), "");
    this.attach(null);
    store.put("exchanges", exchange); // so that a reload does not lose what was asked
    this.reply(exchange, place);
  }

  /** Answer a message, with words or with a picture, in the place of an element. */
  reply(exchange, place) {
    const { content } = exchange.message;
    const wanted = typeof content === "string" && this.studio.can("draw") ? ASKS_FOR_PICTURE.exec(content)?.[1] : undefined;
    if (wanted) this.draw(exchange, wanted, place);
    else this.answer(exchange, place);
  }

  /** What the user said, as an element. */
  turn({ content }) {
    const turn = element("div", { className: "turn user", dir: "auto" });
    for (const part of typeof content === "string" ? [{ type: "text", text: content }] : content) {
      if (part.type === "text") turn.append(folded(part.text, MOST_TURN));
      else turn.prepend(element("img", { src: part.image_url.url, alt: "Your picture", className: "pixels" }));
    }
    return turn;
  }

  request(message) {
    const body = { model: this.studio.model, messages: [...(find("chat-history").checked ? this.messages : []), message] };
    if (find("chat-think").checked) body.reasoning_effort = "low";
    else if (this.studio.facts.thinks_before_answering) body.reasoning_effort = "none"; // or it would think all the same
    Object.assign(body, this.settings.values());
    const seed = numberOf(find("chat-seed"));
    return seed === undefined ? body : { ...body, seed };
  }

  async answer(exchange, place) {
    const { message } = exchange;
    const body = this.request(message);
    const reply = new Reply(isCertain(body));
    place.replaceWith(reply.box);
    this.inView(reply.box);
    this.last = { path: "/v1/chat/completions", body };
    this.working(true);
    const { content } = message;
    let asksForPicture = false; // in words that ASKS_FOR_PICTURE does not know
    try {
      await fill(reply, this.last, this.abort.signal);
      asksForPicture = reply.record.wantsPicture && typeof content === "string" && this.studio.can("draw");
      this.inView(reply.box);
      if (!asksForPicture) this.settled(reply, message);
      tell("Answered.");
    } catch (error) {
      if (error.name === "AbortError") {
        reply.finish("stopped");
        tell("Stopped.");
      } else {
        this.failed(exchange, reply, error);
      }
    } finally {
      this.working(false);
    }
    if (asksForPicture) return this.draw(exchange, content, reply.box);
    if (reply.record.ms !== undefined) this.save({ ...exchange, answer: { ...reply.record, ...isCertain(body), request: this.last, model: body.model } });
  }

  /** What went wrong, a way on, and the words where they can be changed. */
  failed(exchange, reply, error) {
    const text = wordsOf({ request: { body: { messages: [exchange.message] } } });
    reply.fail(problem(error, () => {
      if (!this.studio.isFree(this)) return false;
      if (find("chat-text").value === text) setValue(find("chat-text"), "");
      return this.answer(exchange, reply.box);
    }));
    if (!find("chat-text").value && !this.picture) setValue(find("chat-text"), text);
    tell("Not answered.");
  }

  /** An answer that is all there is part of what the model is told next. */
  settled(reply, message) {
    if (reply.record.note || reply.record.badge) return; // stopped, or somebody else's
    if (reply.record.answer.trim()) this.messages.push(message, { role: "assistant", content: reply.record.answer });
    addFile(reply, this.last, message);
  }

  async draw(exchange, prompt, place) {
    const body = { model: this.studio.model, prompt, ...this.studio.parts.draw.thinking(this.studio.facts.thinks_before_drawing) };
    const seed = numberOf(find("chat-seed"));
    if (seed !== undefined) body.seed = seed;
    const card = new Card(drawingOf(prompt, { path: "/v1/images/generations", body }), this.cardOptions());
    card.begin(1);
    place.replaceWith(card.box);
    this.inView(card.box);
    this.last = card.result.request;
    this.working(true);
    try {
      const isWhole = await draw(card, { prompt, facts: this.studio.facts, signal: this.abort.signal });
      if (isWhole) this.save({ ...exchange, drawing: store.lighter(card.result) });
    } catch (error) {
      card.fail(error, () => this.studio.isFree(this) && this.draw(exchange, prompt, card.box));
      if (card.isRefused) this.save({ ...exchange, refusal: { prompt, message: error.message } });
      tell("Not drawn.");
    } finally {
      this.working(false);
      this.inView(card.box);
    }
  }

  /** An answer from a file. */
  open(result) {
    const message = { role: "user", content: wordsOf(result) };
    const answer = { ...result, ...isCertain(result.request?.body ?? {}), badge: "From a file" };
    const exchange = { id: store.newId(), at: Date.now(), conversation: this.conversation, message, answer };
    this.showExchange(exchange);
    this.save(exchange);
    this.latest();
  }

  /** Keep an exchange, unless its conversation was forgotten meanwhile. */
  save(exchange) {
    if (exchange.conversation === this.conversation) store.put("exchanges", exchange);
  }

  /** The end of the conversation is in view. */
  latest() {
    this.inView(find("dialogue").lastElementChild);
  }

  inView(box) {
    box?.scrollIntoView({ block: "nearest" });
  }

  working(isWorking) {
    this.abort = isWorking ? new AbortController() : null;
    swap(find("chat-send"), find("chat-stop"), isWorking);
    find("dialogue").setAttribute("aria-busy", isWorking);
    if (isWorking) find("chat-hint").replaceChildren();
    if (isWorking) tell("Answering …");
  }
}

/** Confidence is a probability of the model only where the likeliest token is always taken, and nothing bends the logits. */
export function isCertain(body) {
  return { certain: !BENDS.some((name) => body[name]) };
}

/** Stream an answer into a reply. */
export async function fill(reply, request, signal) {
  const options = { stream: true, stream_options: { include_usage: true, include_drafts: true, top_logprobs: NUM_ALTERNATIVES } };
  for await (const chunk of stream(request.path, { ...request.body, ...options }, signal)) {
    request.seed = chunk.seed;
    reply.take(chunk);
  }
  if (!reply.record.reason) throw new ServerError("The answer ended before it was complete.", 0);
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
