// Small things that all tabs need: elements, icons, the status line, hints and problems in place.

/** An element with properties and children; a property that begins with "data-", "aria-" or is "role" becomes an attribute. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(data-|aria-|role$)/.test(name)) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

const ICONS = {
  play: "M7 4.5v11l9-5.5z",
  pause: "M6 4.5h3v11H6zM11 4.5h3v11h-3z",
  back: "M12.5 4.5 7 10l5.5 5.5 1.2-1.2L9.4 10l4.3-4.3z",
  forward: "M7.5 4.5 13 10l-5.5 5.5-1.2-1.2L10.6 10 6.3 5.7z",
};

/** A picture for a button whose name is in its label. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 20 20", width: 18, height: 18, "aria-hidden": true, fill: "currentColor" })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

export function button(name, act, properties = {}) {
  const made = element("button", { type: "button", ...properties }, name);
  made.addEventListener("click", act);
  return made;
}

export function find(id) {
  return document.getElementById(id);
}

export function tell(text) {
  find("status").textContent = text;
}

/** Say something beside the prompt of the tab that is open, or show an element there. */
export function hint(...parts) {
  document.querySelector("[role=tabpanel]:not([hidden]) .composer > .hint").replaceChildren(...parts);
}

/** Say in place what went wrong, with a button that tries again. again() is false where it cannot now, and the button stays. */
export function problem(error, again) {
  const box = element("p", { className: "problem", role: "alert" }, sentence(error.message));
  if (again) {
    box.append(" ", button("Try again", () => again() === false || box.remove()));
  }
  if (error.status === 401) {
    find("access").open = true;
    find("key").focus();
  }
  return box;
}

/** With a capital and a full stop, unless it begins with the name of a field. */
function sentence(text) {
  const begun = /^\w+[=.:]/.test(text) ? text : text[0].toUpperCase() + text.slice(1);
  return /[.?!)]$/.test(begun) ? begun : `${begun}.`;
}

/** Sliders show their value in the <output for=...> beside them. */
export function showValues(root = document) {
  for (const output of root.querySelectorAll("output[for]")) {
    const input = find(output.htmlFor.value);
    const show = () => (output.textContent = input.value);
    input.addEventListener("input", show);
    show();
  }
}

export function setValue(input, value) {
  input.value = value;
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

/** A number field's value, or undefined where it is empty. */
export function numberOf(input) {
  return input.value === "" ? undefined : Number(input.value);
}

/** Send a form with Enter; a new line is Shift and Enter. */
export function sendsWithEnter(area) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!event.repeat) area.form.requestSubmit();
  });
}

/** Whether all fields of a form can be sent. The browser says what is wrong with one, which must be unfolded for that. */
export function isValid(form) {
  for (const field of form.querySelectorAll(":invalid")) {
    const box = field.closest("details");
    if (box) box.open = true;
  }
  return form.reportValidity();
}

/** A double click is one click: what has come under the pointer between its halves was not meant, nor was what a held key meets. */
export function guardDoubleClicks() {
  let clicked = null;
  const stop = (event) => {
    event.preventDefault();
    event.stopPropagation();
  };
  addEventListener("click", (event) => {
    const target = event.target.closest("button, summary, a");
    if (event.detail > 1 && target !== clicked) stop(event);
    else clicked = target;
  }, true);
  addEventListener("keydown", (event) => event.repeat && event.key === "Enter" && event.target.closest("button") && stop(event), true);
}

/** A text of which only the beginning is shown, if it is long, with a button for the rest. */
export function folded(text, most) {
  if (text.length <= most) return text;
  const box = element("span", { tabIndex: -1 }, `${text.slice(0, most).replace(/[\uD800-\uDBFF]$/, "")}… `);
  box.append(button("Show all", () => {
    box.replaceChildren(text);
    box.focus();
  }, { className: "more" }));
  return box;
}

/** Take an element away, and leave a line in its place that brings it back, until the next thing comes. */
export function takeAway(box, undo) {
  const place = element("p", { className: "removed", role: "status" }, "Removed. ", button("Undo", () => {
    place.replaceWith(box);
    undo();
  }));
  box.replaceWith(place);
  place.lastElementChild.focus({ preventScroll: true });
}

/** Nothing can be brought back any more. */
export function settleRemoved(list) {
  for (const place of list.querySelectorAll(".removed")) place.remove();
}

/** A few words on a button, for a moment. */
export function flash(target, text) {
  target.dataset.name ??= target.textContent;
  target.textContent = text;
  setTimeout(() => (target.textContent = target.dataset.name), 1500);
}

/** What of the page is to come back after a reload, in this tab: texts that were typed, and the conversation. */
export const kept = {
  get(name) {
    try {
      return sessionStorage.getItem(`mmada-${name}`);
    } catch {
      return null; // a page inside another one may not be allowed to store anything
    }
  },
  set(name, value) {
    try {
      sessionStorage.setItem(`mmada-${name}`, value);
    } catch {
      // not kept
    }
  },
};

/** A text field whose words come back after a reload. */
export function keep(input) {
  input.value = kept.get(input.id) ?? "";
  input.addEventListener("input", () => kept.set(input.id, input.value));
}

/** Show the button that stops in place of the one that begins, or the other way round; the focus stays. */
export function swap(begin, stop, isWorking) {
  const [old, next] = isWorking ? [begin, stop] : [stop, begin];
  const hadFocus = document.activeElement === old;
  next.hidden = false;
  old.hidden = true;
  if (hadFocus) next.focus();
}
