// Drawings that appear step by step, their variations and edits.

import { stream } from "./api.js";
import { Editor } from "./editor.js";
import { blobOf, croppedPictureOf, download, element, find, numberOf, problem, scrubber, setValue, takePictures, tell } from "./page.js";
import { Settings } from "./settings.js";

const EXAMPLES = [
  { text: "two red hearts above a dog" },
  { text: "a cat to the left of a yellow star" },
  { text: "a picture with a rainbow and one more octopus than rainbows", think: true },
];
const MOST_CARDS = 30;
const NUM_VARIATIONS = 3;

export class Draw {
  constructor(studio) {
    this.studio = studio;
    this.abort = null;
    this.last = null;
    this.settings = new Settings(find("draw-settings"), "draw");
    this.editor = new Editor();
    find("draw-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.draw();
    });
    find("draw-prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      find("draw-form").requestSubmit();
    });
    find("draw-dice").addEventListener("click", () => (find("draw-seed").value = Math.floor(Math.random() * 2 ** 31)));
    find("draw-stop").addEventListener("click", () => this.abort?.abort());
    takePictures(find("panel-draw"), find("draw-file"), (file) => this.open(file));
    for (const example of EXAMPLES) {
      const button = element("button", { type: "button" }, example.text + (example.think ? " (thinking)" : ""));
      button.addEventListener("click", () => {
        find("draw-prompt").value = example.text;
        if (example.think) find("draw-think").checked = true;
        this.draw();
      });
      find("draw-examples").append(button);
    }
  }

  setDefaults(facts) {
    this.settings.show(facts.image_settings);
    find("draw-count").max = Math.min(8, facts.max_n);
    setValue(find("draw-count"), 1);
    find("draw-think").checked = facts.thinks_before_drawing;
  }

  /** What every request for pictures has. */
  options() {
    const options = { model: this.studio.model, ...this.settings.values() };
    const seed = numberOf(find("draw-seed"));
    if (seed !== undefined) options.seed = seed;
    return options;
  }

  draw() {
    const prompt = find("draw-prompt").value.trim();
    if (this.abort || !this.studio.isReady) return;
    const body = { ...this.options(), prompt };
    const count = Number(find("draw-count").value);
    if (count > 1) body.n = count;
    const thinks = find("draw-think").checked;
    if (thinks || this.studio.facts.thinks_before_drawing) body.thinking = thinks;
    this.run(prompt, prompt, { path: "/v1/images/generations", body });
  }

  vary(picture) {
    const body = { ...this.options(), n: Math.min(NUM_VARIATIONS, this.studio.facts.max_n), strength: Number(find("draw-strength").value) };
    if (picture.prompt) body.prompt = picture.prompt;
    const title = picture.prompt ? `Variations: ${picture.prompt}` : "Variations of a picture";
    this.run(title, picture.prompt, { path: "/v1/images/variations", body, files: { image: picture.url } });
  }

  async edit(picture) {
    const wanted = await this.editor.open(picture, this.studio.facts.image_factor);
    if (!wanted) return;
    const body = { ...this.options(), prompt: wanted.prompt };
    const files = { image: picture.url, mask: wanted.mask };
    this.run(`Redone: ${wanted.prompt}`, wanted.prompt, { path: "/v1/images/edits", body, files });
  }

  /** A picture from a file, to edit or vary. */
  async open(file) {
    if (!this.studio.isReady) return;
    const [width, height] = this.studio.facts.image_size.split("x").map(Number);
    const card = new Card(file.name || "A picture");
    this.add(card);
    try {
      const picture = card.picture(0, this);
      picture.show(await croppedPictureOf(file, width, height));
      picture.finish();
    } catch (error) {
      card.box.append(problem(error));
    }
  }

  add(card) {
    find("gallery").prepend(card.box);
    while (find("gallery").children.length > MOST_CARDS) find("gallery").lastElementChild.remove();
    if (card.box.getBoundingClientRect().top > innerHeight - 80) card.box.scrollIntoView({ block: "start" });
  }

  async run(title, prompt, request) {
    if (this.abort) return;
    const card = new Card(title);
    this.add(card);
    const count = request.body.n ?? 1;
    for (let i = 0; i < count; i++) card.picture(i, this);
    card.shape(count);
    this.last = request;
    this.working(true);
    const began = performance.now();
    try {
      for await (const told of stream(request.path, this.bodyOf(request), this.abort.signal)) {
        const picture = card.picture(told.index ?? 0, this);
        if (told.type.endsWith(".thinking")) {
          card.think(told.index ?? 0, told.thinking, told.revised_prompt);
          continue;
        }
        picture.show(`data:image/png;base64,${told.b64_json}`);
        if (!told.type.endsWith(".completed")) continue;
        card.think(told.index ?? 0, told.thinking, told.revised_prompt);
        request.seed = told.seed;
        picture.finish(told.revised_prompt || prompt, told.seed + (told.index ?? 0));
        card.facts(`${((performance.now() - began) / 1000).toFixed(1)} s · ${told.usage.nfe} evaluations · first seed ${told.seed}`);
      }
      tell("Drawn.");
    } catch (error) {
      card.end();
      if (error.name === "AbortError") {
        card.facts("stopped");
        tell("Stopped.");
      } else {
        const again = () => {
          card.box.remove();
          this.run(title, prompt, request);
        };
        card.box.append(problem(error, again));
      }
    } finally {
      this.working(false);
    }
  }

  bodyOf({ body, files }) {
    const [width, height] = this.studio.facts.image_size.split("x").map(Number);
    const most = Math.min(this.studio.facts.max_partial_images, width * height <= 128 * 128 ? 64 : 16); // large pictures are large in memory
    const steps = body.steps ?? this.studio.facts.image_steps;
    // What is chosen at the end has no steps to show.
    const previews = body.best_of ? 0 : Math.max(0, Math.min(most, steps - 1));
    const full = { ...body, stream: true, partial_images: previews };
    if (!files) return full;
    const form = new FormData();
    for (const [name, value] of Object.entries(full)) form.append(name, String(value));
    for (const [name, url] of Object.entries(files)) form.append(name, blobOf(url), `${name}.png`);
    return form;
  }

  working(isWorking) {
    this.abort = isWorking ? new AbortController() : null;
    find("draw-stop").hidden = !isWorking;
    for (const button of document.querySelectorAll("#draw-send, #draw-examples button, #gallery .asks")) button.disabled = isWorking;
    find("gallery").setAttribute("aria-busy", isWorking);
    if (isWorking) tell("Drawing …");
  }
}

/** The pictures of one request. */
class Card {
  constructor(title) {
    this.pictures = [];
    this.thoughts = [];
    this.list = element("div", { className: "pictures" });
    this.note = element("div", { className: "facts" });
    this.box = element("article", { className: "card" }, element("h3", {}, title), this.list, this.note);
    this.shape(1);
  }

  shape(count) {
    this.list.classList.toggle("single", count === 1);
  }

  picture(index, draw) {
    if (!this.pictures[index]) {
      this.pictures[index] = new Picture(draw);
      this.list.append(this.pictures[index].box);
    }
    return this.pictures[index];
  }

  /** What was thought before a picture. Pictures that are arranged alike share it; others are numbered. */
  think(index, thinking, prompt) {
    if (!thinking) return;
    this.thoughts[index] = prompt ? `${thinking}\n→ ${prompt}` : thinking;
    const told = this.thoughts.filter(Boolean);
    const isShared = new Set(told).size === 1;
    const text = isShared ? told[0] : this.thoughts.map((thought, i) => `${i + 1}: ${thought}`).filter(Boolean).join("\n");
    this.thinking?.remove();
    const written = element("div", { className: "thinking-text" }, text);
    this.thinking = element("details", { className: "thinking", open: true }, element("summary", {}, "Thinking"), written);
    this.box.insertBefore(this.thinking, this.list);
  }

  facts(text) {
    this.note.textContent = text;
  }

  /** Nothing more comes: leave out what never began. */
  end() {
    for (const picture of this.pictures) if (!picture.url) picture.box.remove();
  }
}

/** One picture, with the steps that it came by. */
class Picture {
  constructor(draw) {
    this.frames = [];
    this.isBusy = () => draw.abort !== null;
    this.image = element("img", { className: "pixels", alt: "", hidden: true });
    this.frame = element("div", { className: "frame" }, this.image);
    this.frame.style.setProperty("--shape", draw.studio.facts.image_size.replace("x", " / "));
    this.steps = scrubber("Steps of the picture", (index) => (this.image.src = this.frames[index]));
    const button = (name, act, className = "") => {
      const made = element("button", { type: "button", textContent: name, className });
      made.addEventListener("click", act);
      return made;
    };
    this.actions = element(
      "div",
      { className: "row", hidden: true },
      button("Edit", () => draw.edit(this), "asks"),
      button("Variations", () => draw.vary(this), "asks"),
      button("Ask about it", () => draw.studio.askAbout(this.url)),
      button("Download", () => download(this.url, `mmada-${this.seed ?? "picture"}.png`)),
    );
    this.box = element("figure", {}, this.frame, this.steps.box, this.actions);
  }

  show(url) {
    this.url = url;
    this.frames.push(url);
    this.image.src = url;
    this.image.hidden = false;
    this.image.alt = "On the way";
    this.steps.grow(this.frames.length);
  }

  finish(prompt, seed) {
    this.prompt = prompt;
    this.seed = seed;
    this.image.alt = prompt || "A picture";
    if (seed !== undefined) this.image.title = `seed ${seed}`;
    this.actions.hidden = false;
    for (const button of this.actions.querySelectorAll(".asks")) button.disabled = this.isBusy();
    this.image.addEventListener("load", () => {
      this.frame.style.setProperty("--shape", `${this.image.naturalWidth} / ${this.image.naturalHeight}`);
    }, { once: true });
  }
}
