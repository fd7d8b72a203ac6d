// What the controls of a form are set to comes back after a reload of this tab, for the model that it was meant for. Keys are no part of a form.

import { kept, setValue } from "./page.js";

const VERSION = 1; // one more whenever a control comes to mean something else

/** The controls of a form that have an id: those of the page, and those that are made for a model. Texts and files are kept elsewhere, or not. */
export class Controls {
  constructor(form) {
    Object.assign(this, { form, model: null, name: "", usual: {} });
    this.plain = this.values();
    for (const event of ["input", "change"]) form.addEventListener(event, () => this.save());
  }

  get list() {
    return [...this.form.querySelectorAll("input[id]:not([type=file]), select[id]")];
  }

  /** Begin with defaults, which `set` sets, and with what differed from them before. of(): what they are for, beside a model. */
  begin(model, set, of = () => "") {
    this.model = null; // what is set here is not kept
    this.put(this.plain);
    set();
    this.usual = this.values();
    this.name = `settings-${this.form.id}${of()}`;
    const found = read(this.name, model);
    this.put(found);
    // A field makes "" of what is no number, and a slider the nearest of what is too large.
    for (const input of this.list) if (!input.validity.valid || isOther(input, found[input.id])) put(input, this.usual[input.id]);
    this.model = model;
  }

  /** Back to the defaults. */
  reset() {
    this.put(this.usual);
    this.save();
  }

  values() {
    return Object.fromEntries(this.list.map((input) => [input.id, input.type === "checkbox" ? input.checked : input.value]));
  }

  put(values) {
    for (const input of this.list) if (Object.hasOwn(values, input.id)) put(input, values[input.id]);
  }

  save() {
    if (!this.model) return;
    const changed = Object.entries(this.values()).filter(([id, value]) => value !== this.usual[id]);
    kept.set(this.name, JSON.stringify({ version: VERSION, model: this.model, values: Object.fromEntries(changed) }));
  }
}

/** Whether a control took something else than it was given. */
function isOther(input, given) {
  return typeof given === "string" && given !== input.value;
}

/** What was kept for a model; nothing where it is another version's, another model's, or no object. */
function read(name, model) {
  try {
    const found = JSON.parse(kept.get(name));
    return found?.version === VERSION && found.model === model && found.values instanceof Object ? found.values : {};
  } catch {
    return {};
  }
}

/** Set a control, unless the value is none that it can have. */
function put(input, value) {
  if (input.type === "checkbox") {
    if (typeof value !== "boolean" || value === input.checked) return;
    input.checked = value;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  } else if (typeof value === "string" && (!input.options || [...input.options].some((option) => option.value === value))) {
    setValue(input, value);
  }
}
