// The chat: a conversation whose answers unmask before one's eyes.

import { stream } from "./api.js";
import { element, find, numberOf, pictureOf, problem, scrubber, takePictures, tell } from "./page.js";
import { Settings } from "./settings.js";
import { spansOf, splitDraft, textOf } from "./tokens.js";

const EXAMPLES = [
  { text: "Tom has 8 coins. Tom finds 5 more. How many coins does Tom have now?", think: true },
  { text: "how many cats?", picture: "cats.png", think: true },
  { text: "What colour is the background?", picture: "cats.png", think: false },
  { text: "What is 4 * 3?", think: true },
];

export class Chat {
  constructor(studio) {
    this.studio = studio;
    this.messages = [];
    this.picture = null;
    this.abort = null;
    this.last = null;
    this.settings = new Settings(find("chat-settings"), "chat");
    takePictures(find("panel-chat"), find("chat-file"), (file) => this.attachFile(file));
    find("attachment-remove").addEventListener("click", () => this.attach(null));
    find("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    find("chat-text").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.ask();
    });
    find("chat-stop").addEventListener("click", () => this.abort?.abort());
    find("chat-new").addEventListener("click", () => this.clear());
    find("chat-colors").addEventListener("change", () => this.colour());
    for (const example of EXAMPLES) find("chat-examples").append(this.exampleButton(example));
  }

  /** Begin with what suits a checkpoint. */
  setDefaults(facts) {
    this.settings.show(facts.text_settings);
    find("chat-history").checked = facts.context >= 2048; // a small context belongs to a model of single turns
  }

  exampleButton(example) {
    const button = element("button", { type: "button" }, example.text + (example.think ? " (thinking)" : ""));
    if (example.picture) button.prepend(element("img", { src: example.picture, alt: "with a picture: ", className: "pixels" }));
    button.addEventListener("click", async () => {
      if (this.abort) return;
      this.clear();
      find("chat-think").checked = example.think;
      find("chat-text").value = example.text;
      if (example.picture) await this.attachFile(await (await fetch(example.picture)).blob());
      this.ask();
    });
    return button;
  }

  async attachFile(file) {
    try {
      this.attach(await pictureOf(file));
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

  clear() {
    this.abort?.abort();
    this.messages = [];
    find("dialogue").replaceChildren();
    this.attach(null);
  }

  colour() {
    find("dialogue").classList.toggle("plain", !find("chat-colors").checked);
  }

  ask() {
    const text = find("chat-text").value.trim();
    if (this.abort || !this.studio.isReady || (!text && !this.picture)) return;
    const parts = [];
    if (text) parts.push({ type: "text", text });
    if (this.picture) parts.push({ type: "image_url", image_url: { url: this.picture } });
    const message = { role: "user", content: this.picture ? parts : text };
    const turn = element("div", { className: "turn user" });
    if (this.picture) turn.append(element("img", { src: this.picture, alt: "Your picture", className: "pixels" }));
    turn.append(text);
    find("dialogue").append(turn);
    find("chat-text").value = "";
    this.attach(null);
    this.answer(message);
  }

  request(message) {
    const body = { model: this.studio.model, messages: [...(find("chat-history").checked ? this.messages : []), message] };
    if (find("chat-think").checked) body.reasoning_effort = "low";
    Object.assign(body, this.settings.values());
    const seed = numberOf(find("chat-seed"));
    if (seed !== undefined) body.seed = seed;
    return body;
  }

  async answer(message) {
    if (this.abort) return;
    const reply = new Reply();
    find("dialogue").append(reply.box);
    reply.box.scrollIntoView({ block: "nearest" });
    const body = this.request(message);
    this.last = { path: "/v1/chat/completions", body };
    this.working(true);
    try {
      const options = { stream: true, stream_options: { include_usage: true, include_drafts: true } };
      for await (const chunk of stream(this.last.path, { ...body, ...options }, this.abort.signal)) {
        this.last.seed = chunk.seed;
        reply.take(chunk);
      }
      reply.finish();
      if (reply.answer.trim()) this.messages.push(message, { role: "assistant", content: reply.answer });
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
      }
    } finally {
      this.working(false);
    }
  }

  working(isWorking) {
    this.abort = isWorking ? new AbortController() : null;
    find("chat-stop").hidden = !isWorking;
    find("chat-send").disabled = isWorking;
    find("dialogue").setAttribute("aria-busy", isWorking);
    if (isWorking) tell("Answering …");
  }
}

/** One answer on the page. */
class Reply {
  constructor() {
    this.began = performance.now();
    this.drafts = [];
    this.answer = "";
    this.thoughts = "";
    this.thinkingText = element("div", { className: "thinking-text" });
    this.thinking = element("details", { className: "thinking", open: true, hidden: true }, element("summary", {}, "Thinking"), this.thinkingText);
    this.answerText = element("div", { className: "answer" });
    this.steps = scrubber("Steps of the answer", (index) => this.show(index));
    this.facts = element("div", { className: "facts" });
    this.box = element("div", { className: "turn assistant", "aria-live": "off" }, this.thinking, this.answerText, this.steps.box, this.facts);
  }

  take(chunk) {
    const delta = chunk.choices[0]?.delta;
    this.answer += delta?.content ?? "";
    this.thoughts += delta?.reasoning_content ?? "";
    this.seed = chunk.seed;
    this.usage = chunk.usage ?? this.usage;
    this.reason = chunk.choices[0]?.finish_reason ?? this.reason;
    if (!chunk.mmada) return;
    this.drafts.push(chunk.mmada.draft);
    this.steps.grow(this.drafts.length);
    this.show(this.drafts.length - 1);
  }

  show(index) {
    const now = splitDraft(this.drafts[index]);
    const before = index ? splitDraft(this.drafts[index - 1]) : { thinking: null, answer: [] };
    this.thinking.hidden = now.thinking === null;
    if (now.thinking) this.thinkingText.replaceChildren(...spansOf(now.thinking, before.thinking ?? []));
    this.answerText.replaceChildren(...spansOf(now.answer, before.answer));
    if (index === this.drafts.length - 1 && this.isFinished) this.settle();
  }

  /** What the server says is the answer counts, should the tokens show another one (a stop string, bytes of half a character). */
  settle() {
    const now = splitDraft((this.drafts.at(-1) ?? []).filter((piece) => piece.confidence !== null)); // an answer may end before its room
    this.answerText.replaceChildren(...spansOf(now.answer));
    this.thinkingText.replaceChildren(...spansOf(now.thinking ?? []));
    if (textOf(now.answer) !== this.answer.trim()) this.answerText.textContent = this.answer;
    if (this.thoughts && textOf(now.thinking ?? []) !== this.thoughts.trim()) this.thinkingText.textContent = this.thoughts;
    this.thinking.hidden = !this.thoughts;
  }

  finish(note) {
    this.isFinished = !note;
    if (this.isFinished) {
      this.settle();
      if (!this.answer.trim()) this.answerText.replaceChildren(element("em", {}, "(no answer)"));
    }
    const facts = [`${((performance.now() - this.began) / 1000).toFixed(1)} s`];
    if (this.usage) {
      facts.push(`${this.usage.completion_tokens} tokens in ${this.usage.nfe} evaluations`, `${this.usage.tokens_per_forward.toFixed(1)} tokens each`);
    }
    if (this.seed !== undefined) facts.push(`seed ${this.seed}`);
    if (note) facts.push(note);
    if (this.reason === "length") facts.push("cut at its length");
    this.facts.textContent = facts.join(" · ");
    this.box.scrollIntoView({ block: "nearest" });
  }

  fail(box) {
    this.box.append(box);
    box.scrollIntoView({ block: "nearest" });
  }
}
