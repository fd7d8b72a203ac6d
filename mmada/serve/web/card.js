// The pictures of one request, what was thought before them, what could not be done, and what can be done next.

import { button, element, folded, problem } from "./page.js";
import { download } from "./pictures.js";
import { Picture } from "./picture.js";
import { toFile } from "./share.js";

const MOST_TITLE = 240; // characters that are shown at first

/** acts: {edit(view, card), vary(view, card), ask(url), use(result), draw(prompt), forget(card)}, of which some may be missing. */
export class Card {
  constructor(result, { facts, acts, badge }) {
    Object.assign(this, { result, studioFacts: facts, acts });
    this.views = [];
    this.list = element("div", { className: "pictures" });
    this.said = element("div", { className: "said" });
    this.note = element("p", { className: "facts" });
    this.more = element("div", { className: "row small actions" });
    this.title = element("h3", { dir: "auto" }, folded(result.title, MOST_TITLE));
    this.side = element("div", { className: "side" }, this.title, this.said, this.note);
    if (badge) this.side.prepend(element("p", { className: "badge" }, badge));
    this.box = element("article", { className: "card" }, this.list, this.side, this.more);
    if (this.acts.forget) this.more.append(button("Remove", () => this.acts.forget(this)));
  }

  /** A result of earlier, or of somebody else. plays: from its first step. */
  static of(result, options, { plays = false } = {}) {
    const card = new Card(result, options);
    card.begin(result.pictures.length);
    card.views.forEach((_, index) => card.complete(index, !plays));
    card.end();
    return card;
  }

  /** Places for `count` pictures. */
  begin(count) {
    this.box.classList.toggle("single", count === 1);
    const shape = this.studioFacts.image_size;
    const before = this.result.request?.path === "/v1/images/edits" ? this.result.request.files?.image : undefined;
    for (let i = 0; i < count; i++) {
      this.result.pictures[i] ??= { frames: [] };
      this.views[i] = new Picture(this.result.pictures[i], { shape, before });
      this.list.append(this.views[i].box);
    }
  }

  think(index, thought) {
    if (!thought) return;
    this.result.thoughts[index] = thought;
    this.say();
  }

  /** What was thought and what could not be done. Pictures that are arranged alike share it; others are numbered. */
  say() {
    const { thoughts, pictures } = this.result;
    const warnings = [...new Set(pictures.map((picture) => picture.warning).filter(Boolean))];
    const parts = warnings.map((warning) => this.lack(warning));
    const told = thoughts.filter(Boolean);
    if (told.length) {
      const isShared = new Set(told).size === 1;
      const text = isShared ? told[0] : thoughts.map((thought, i) => thought && `${i + 1}: ${thought}`).filter(Boolean).join("\n");
      parts.push(element("details", { className: "thinking", open: true }, element("summary", {}, "Plan"), element("div", { className: "thinking-text", dir: "auto" }, text)));
    }
    const texts = pictures.map((picture, i) => picture.text && (pictures.length > 1 ? `${i + 1}: ${picture.text}` : picture.text)).filter(Boolean);
    if (texts.length) parts.push(element("p", { className: "thinking-text", dir: "auto" }, texts.join("\n")));
    this.said.replaceChildren(...parts);
  }

  /** The server's sentence on what it cannot draw, with what is nearest as buttons. */
  lack(sentence) {
    const box = element("div", { className: "lack", dir: "auto" }, element("p", {}, sentence));
    const near = /Nearest that I know: ([^.]+)\./.exec(sentence)?.[1].split(", ") ?? [];
    if (near.length && this.acts.draw) box.append(element("div", { className: "row small" }, ...near.map((name) => button(`Draw ${article(name)}`, () => this.acts.draw(article(name))))));
    return box;
  }

  /** A picture is there. hurry: it needs no playing. */
  complete(index, hurry = false) {
    const view = this.views[index];
    view.finish(hurry);
    const { acts } = this;
    const { prompt, seed } = view.record;
    const row = element("div", { className: "row actions" });
    if (acts.edit) row.append(button("Edit", () => acts.edit(view, this)));
    if (acts.vary) row.append(button("Variations", () => acts.vary(view, this)));
    if (acts.ask) row.append(button("Ask about it", () => acts.ask(view.url)));
    row.append(button("Download", () => download(view.url, `mmada-${seed ?? "picture"}.${/^data:image\/(\w+)/.exec(view.url)[1]}`)));
    for (const one of row.children) if (prompt && this.views.length > 1) one.setAttribute("aria-label", `${one.textContent}: picture ${index + 1}`);
    if (this.views.length === 1) this.side.append(row);
    else view.box.append(row);
    this.say();
  }

  /** Nothing more comes: leave out what never began. note: why not all is there. */
  end(note) {
    const { result } = this;
    if (this.leaveOutEmpty()) {
      this.note.textContent = `${note ?? "ended"} before anything was drawn`;
      return;
    }
    const facts = [];
    if (note) facts.push(note);
    if (result.ms !== undefined) facts.push(`${(result.ms / 1000).toFixed(1)} s`);
    if (result.nfe !== undefined && !note) facts.push(`${result.nfe} evaluations`);
    if (result.seed !== undefined) facts.push(`${result.pictures.length > 1 ? "first seed" : "seed"} ${result.seed}`);
    this.note.textContent = facts.join(" · ");
    if (!result.request || note) return;
    this.more.prepend(button("Save as a file", () => save(result), { title: "Prompt, seed, settings and steps in one JSON file, which any studio opens" }));
    if (this.acts.use && result.request.path === "/v1/images/generations") this.more.prepend(button("Use its settings", () => this.acts.use(result)));
  }

  /** Whether no picture has begun; places of those that have not are taken away. */
  leaveOutEmpty() {
    const empty = this.views.filter((view) => !view.record.frames.length);
    for (const view of empty) view.box.remove();
    const isBare = empty.length === this.views.length;
    this.box.classList.toggle("bare", isBare);
    return isBare;
  }

  /** Whether the model said that it cannot. */
  get isRefused() {
    return this.box.classList.contains("refused");
  }

  /** What of a result is whole; null if nothing is. */
  get wholePart() {
    const { pictures, thoughts } = this.result;
    const whole = pictures.map((picture, i) => (picture.seed === undefined ? -1 : i)).filter((i) => i >= 0);
    return whole.length ? { ...this.result, pictures: whole.map((i) => pictures[i]), thoughts: whole.map((i) => thoughts[i]) } : null;
  }

  /** No picture: the model knows that it cannot, or something went wrong. */
  fail(error, again) {
    for (const view of this.views) view.player.pause();
    this.leaveOutEmpty();
    const refused = /^prompt=.+ cannot be drawn: (.+)$/s.exec(error.message);
    this.box.classList.toggle("refused", Boolean(refused));
    if (!refused) this.side.append(problem(error, again));
    else {
      const why = firstSentence(refused[1]);
      const rest = refused[1].slice(why.length).trim();
      this.said.replaceChildren(element("p", {}, `This cannot be drawn: ${why}`), ...(rest ? [this.lack(rest)] : []));
    }
  }
}

function firstSentence(text) {
  return /^.*?\.(?=\s|$)/s.exec(text)?.[0] ?? text;
}

function article(name) {
  return /^(a|an|the|some|two|three) /.test(name) ? name : `${/^[aeiou]/.test(name) ? "an" : "a"} ${name}`;
}

function save(result) {
  const url = URL.createObjectURL(new Blob([toFile(result)], { type: "application/json" }));
  download(url, `mmada-${result.seed ?? "result"}.json`);
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
