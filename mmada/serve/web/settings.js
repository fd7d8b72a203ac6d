// Controls for a request's settings, made of what the server says of them: a new setting there is a new control here.

import { element, find, setValue } from "./page.js";

/** The controls of one tab. `values()` has what differs from the server's defaults, under the names of a request's fields. */
export class Settings {
  constructor(box, prefix) {
    this.box = box;
    this.prefix = prefix;
    this.list = [];
  }

  show(list) {
    this.list = list;
    this.box.replaceChildren(...list.map((setting) => this.control(setting)));
  }

  id(name) {
    return `${this.prefix}-${name.replaceAll("_", "-")}`;
  }

  control(setting) {
    const input = inputOf(setting, this.id(setting.name));
    const label = element("label", { title: setting.help }, titleOf(setting.name), " ");
    if (setting.kind === "string" && !setting.choices.length) label.className = "wide";
    if (input.type === "range") label.append(shown(input, setting), " ");
    label.append(input);
    return label;
  }

  values() {
    const found = {};
    for (const setting of this.list) {
      const value = valueOf(find(this.id(setting.name)), setting);
      if (value !== undefined && value !== setting.default) found[setting.name] = value;
    }
    return found;
  }

  /** Take over values by name; what is not named has its default again. */
  set(values) {
    for (const setting of this.list) {
      const input = find(this.id(setting.name));
      const usual = setting.default ?? (setting.slider ? rest(setting) : "");
      setValue(input, values[setting.name] ?? usual);
      if (input.selectedIndex === -1) setValue(input, usual); // a file may name a choice that is none
    }
  }

  /** What a setting is now: its own value, or else the server's default. */
  value(name) {
    return this.values()[name] ?? this.list.find((setting) => setting.name === name).default;
  }
}

function titleOf(name) {
  const words = name.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

function inputOf(setting, id) {
  if (setting.choices.length) {
    const select = element("select", { id }, ...setting.choices.map((choice) => new Option(choice, choice)));
    if (setting.default !== null) select.value = setting.default;
    return select;
  }
  if (setting.kind === "string") return element("input", { id, type: "text", value: setting.default ?? "" });
  if (setting.slider) {
    const [min, max, step] = setting.slider;
    const range = element("input", { id, type: "range", min, max, step });
    range.value = setting.default ?? rest(setting);
    return range;
  }
  const number = element("input", { id, type: "number", step: setting.kind === "integer" ? 1 : "any", placeholder: "the model's" });
  if (setting.minimum !== null) number.min = setting.minimum;
  if (setting.maximum !== null) number.max = setting.maximum;
  if (setting.default !== null) number.value = setting.default;
  return number;
}

/** Where a slider stands that has no default: where it changes nothing, which is 1 for what must be above 0, and else 0. */
function rest(setting) {
  return setting.exclusive_minimum === 0 ? 1 : 0;
}

function shown(range, setting) {
  const output = element("output", { htmlFor: range.id });
  const show = () => (output.textContent = valueOf(range, setting) ?? (setting.minimum === 0 ? "0" : "off"));
  range.addEventListener("input", show);
  show();
  return output;
}

/** The value of a control; undefined where it says nothing. */
function valueOf(input, setting) {
  if (setting.kind === "string") return input.value.trim();
  if (input.value === "") return undefined;
  const value = Number(input.value);
  return input.type === "range" && setting.default === null && value === Number(rest(setting)) ? undefined : value;
}
