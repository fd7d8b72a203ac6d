// Paint what of a picture is to be drawn anew. The model redraws whole image tokens, so the brush paints whole tokens,
// and whole things if that is wanted. Models that edit by instruction need no paint: the words say what is to change.

import { objectsOf } from "./objects.js";
import { element, find, setValue } from "./page.js";
import { download, loaded } from "./pictures.js";

const PAINT = "Paint what is to be drawn anew.";
const INSTRUCT = "Say what is to be changed. Or paint a part, and only that is drawn anew.";
const ORDERS = { none: "none", together: "with the picture", text_first: "before the picture", image_first: "after the picture" };
const KEYS = matchMedia("(hover: none)").matches ? "" : "Keys: arrows move, space paints, with shift erases.";

export class Editor {
  constructor() {
    this.dialog = find("editor");
    this.canvas = find("editor-canvas");
    this.answer = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.canvas.focus({ focusVisible: false });
      this.canvas.setPointerCapture(event.pointerId);
      this.isPainting = true;
      this.paintAt(event);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      this.at = this.cellOf(event);
      if (this.isPainting) this.paintAt(event);
      else this.show();
    });
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => (this.isPainting = false));
    this.canvas.addEventListener("pointerleave", () => {
      this.at = null;
      this.show();
    });
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    find("editor-clear").addEventListener("click", () => {
      this.cells.clear();
      this.show();
    });
    find("editor-save").addEventListener("click", () => download(this.mask(), "mask.png"));
    find("editor-cancel").addEventListener("click", () => this.dialog.close());
    find("editor-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.dialog.addEventListener("close", () => {
      this.resolve?.(this.answer);
      this.resolve = null;
    });
  }

  /**
   * Edit a picture; the promise brings {prompt, mask}, the mask only if something is painted, or null if nothing is to be done.
   * Without a mask it may bring an `order`, too, in which picture and text are filled. orders: what the model has for it; none is no text.
   */
  async open(picture, factor, byInstruction, orders) {
    this.byInstruction = byInstruction;
    find("editor-order").replaceChildren(...orders.map((order) => new Option(ORDERS[order], order)));
    const image = find("editor-picture");
    image.src = picture.url;
    await image.decode();
    [this.width, this.height, this.factor] = [image.naturalWidth, image.naturalHeight, factor];
    this.objects = objectsOf(image, factor);
    this.columns = Math.max(1, Math.floor(this.width / factor));
    this.rows = Math.max(1, Math.floor(this.height / factor));
    this.cells = new Set();
    this.at = null;
    this.answer = null;
    this.scale = Math.max(1, Math.ceil(512 / this.width));
    this.canvas.width = this.width * this.scale;
    this.canvas.height = this.height * this.scale;
    find("editor-brush").max = Math.max(2, Math.ceil(this.columns / 2));
    const hasObjects = this.objects.some(Boolean);
    setValue(find("editor-brush"), hasObjects ? 1 : Math.max(1, Math.round(this.columns / 4))); // one touch takes a thing and nothing beside it
    find("editor-erase").checked = false;
    find("editor-whole").checked = hasObjects;
    find("editor-title").textContent = byInstruction ? "Edit the picture" : "Redraw a part";
    find("editor-prompt").value = byInstruction ? "" : picture.record.prompt ?? "";
    find("editor-problem").textContent = "";
    this.show();
    this.dialog.showModal();
    (byInstruction ? find("editor-prompt") : this.canvas).focus();
    return new Promise((resolve) => (this.resolve = resolve));
  }

  send() {
    const prompt = find("editor-prompt").value.trim();
    const asked = this.instructs ? "Say what is to be changed." : "Say what the picture shows in the end.";
    const missing = this.cells.size || this.byInstruction ? (prompt ? "" : asked) : "Nothing is painted yet.";
    find("editor-problem").textContent = missing;
    if (missing) return;
    const order = find("editor-order").value;
    this.answer = this.instructs ? { prompt, ...(order && order !== "none" && { order }) } : { prompt, mask: this.mask() };
    this.dialog.close();
  }

  /** Whether the words alone say what is to be done. */
  get instructs() {
    return this.byInstruction && !this.cells.size;
  }

  cellOf(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * (this.width / this.factor));
    const row = Math.floor(((event.clientY - box.top) / box.height) * (this.height / this.factor));
    return [Math.min(this.columns - 1, Math.max(0, column)), Math.min(this.rows - 1, Math.max(0, row))];
  }

  paintAt(event) {
    this.at = this.cellOf(event);
    this.paint(find("editor-erase").checked || event.shiftKey);
  }

  /** The cells under the brush: a square around where it is. */
  brush() {
    if (!this.at) return [];
    const side = Number(find("editor-brush").value);
    const [left, top] = this.at.map((place) => place - Math.floor((side - 1) / 2));
    const cells = [];
    for (let row = Math.max(0, top); row < Math.min(this.rows, top + side); row++) {
      for (let column = Math.max(0, left); column < Math.min(this.columns, left + side); column++) cells.push(row * this.columns + column);
    }
    return cells;
  }

  /** Squares, and with them the things that stand there. */
  grown(cells) {
    return find("editor-whole").checked ? new Set(cells.flatMap((cell) => [cell, ...(this.objects[cell] ?? [])])) : cells;
  }

  paint(erases) {
    for (const cell of this.grown(this.brush())) {
      if (erases) this.cells.delete(cell);
      else this.cells.add(cell);
    }
    this.show();
  }

  press(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    this.at ??= [0, 0];
    if (move) {
      this.at = [Math.min(this.columns - 1, Math.max(0, this.at[0] + move[0])), Math.min(this.rows - 1, Math.max(0, this.at[1] + move[1]))];
      this.show();
    } else {
      this.paint(find("editor-erase").checked || event.shiftKey);
    }
  }

  show() {
    const context = this.canvas.getContext("2d");
    const side = this.factor * this.scale;
    const place = (cell) => [(cell % this.columns) * side, Math.floor(cell / this.columns) * side, side, side];
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const cell of this.cells) {
      context.fillStyle = "rgb(66 80 216 / .6)";
      context.fillRect(...place(cell));
    }
    context.lineWidth = 3;
    for (const cell of this.grown(this.brush())) {
      context.strokeStyle = "rgb(255 255 255 / .9)";
      context.strokeRect(...place(cell));
      context.strokeStyle = "rgb(66 80 216)";
      context.setLineDash([6, 6]);
      context.strokeRect(...place(cell));
      context.setLineDash([]);
    }
    const where = this.at ? `, brush at column ${this.at[0] + 1}, row ${this.at[1] + 1}` : "";
    const label = `Mask: ${this.cells.size} of ${this.columns * this.rows} squares are painted${where}`;
    this.canvas.setAttribute("aria-label", label);
    find("editor-help").textContent = this.byInstruction ? `${INSTRUCT} ${KEYS}` : `${PAINT} ${KEYS}`;
    find("editor-words").textContent = this.instructs ? "What is to be changed" : "What the picture shows in the end";
    find("editor-texts").hidden = !this.instructs || find("editor-order").length < 2;
    find("editor-send").textContent = this.instructs ? "Edit" : "Redraw";
  }

  mask() {
    return maskOf(this.cells, this);
  }
}

/** A PNG that is transparent in some squares. */
function maskOf(cells, { width, height, columns, factor }) {
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, width, height);
  for (const cell of cells) context.clearRect((cell % columns) * factor, Math.floor(cell / columns) * factor, factor, factor);
  return canvas.toDataURL("image/png");
}

/** The mask of the thing that stands at a pixel of a picture, for who does not want to paint. */
export async function maskOfObject(url, factor, [x, y]) {
  const image = await loaded(url);
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const columns = Math.floor(width / factor);
  const cell = Math.floor(y / factor) * columns + Math.floor(x / factor);
  return maskOf(objectsOf(image, factor)[cell] ?? [cell], { width, height, columns, factor });
}
