// What is known of one token: hover it, or focus it with the keyboard. Arrow keys go from token to token.

import { element, find } from "./page.js";

/** How many of the likeliest tokens are told of each. */
export const NUM_ALTERNATIVES = 5;

const bubble = () => find("inspector");

/** Show lines about a token beside an element. */
export function tellOf(target, lines) {
  bubble().replaceChildren(...lines.map((line, i) => element(i ? "span" : "strong", {}, line)));
  bubble().hidden = false;
  const box = target.getBoundingClientRect();
  const own = bubble().getBoundingClientRect();
  const left = Math.min(innerWidth - own.width - 8, Math.max(8, box.left + box.width / 2 - own.width / 2));
  const top = box.bottom + own.height + 12 < innerHeight ? box.bottom + 8 : box.top - own.height - 8;
  Object.assign(bubble().style, { left: `${left + scrollX}px`, top: `${top + scrollY}px` });
}

export function hush() {
  bubble().hidden = true;
}

/** A box of tokens (elements with data-slot) that tells of each: about(slot) gives the lines. One stop of the Tab key, arrows inside. */
export function inspects(box, about) {
  const tokens = () => [...box.querySelectorAll("[data-slot]")];
  const show = (token) => {
    const lines = about(Number(token.dataset.slot));
    if (lines) tellOf(token, lines);
  };
  box.addEventListener("mouseover", (event) => event.target.dataset.slot && show(event.target));
  box.addEventListener("mouseleave", hush);
  box.addEventListener("focusin", (event) => event.target.dataset.slot && show(event.target));
  box.addEventListener("focusout", hush);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hush();
    const list = tokens();
    const next = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const at = list.indexOf(event.target);
    if (!next || at < 0 || !list[at + next]) return;
    event.preventDefault();
    for (const token of list) token.tabIndex = -1;
    list[at + next].tabIndex = 0;
    list[at + next].focus();
  });
}

/** Make what stands in a box now reachable. */
export function reachable(box) {
  for (const [i, token] of [...box.querySelectorAll("[data-slot]")].entries()) {
    token.tabIndex = i ? -1 : 0;
    token.setAttribute("aria-describedby", "inspector");
  }
}

const percent = (share) => `${Math.round(100 * share)} %`;
const named = (token) => (token === "" ? "the end" : `“${token.trim() || "space"}”`);

/** Tokens that were likely, with their probabilities, and then those that hardly were. */
function listed(alternatives, name) {
  const isLikely = ({ logprob }) => Math.exp(logprob) >= 0.01;
  const likely = alternatives.filter(isLikely).map(({ token, logprob }) => `${name(token)} ${percent(Math.exp(logprob))}`);
  const hardly = alternatives.filter((one) => !isLikely(one)).map(({ token }) => name(token));
  return [likely.join(", "), hardly.length ? `below 1 %: ${hardly.join(", ")}` : ""].filter(Boolean).join("; ");
}

/** Lines about a token of a text. drafts: the whole text after each step. */
export function aboutToken(drafts, slot) {
  const history = drafts.map((draft) => draft[slot]);
  const step = history.findIndex((piece) => piece && piece.confidence !== null);
  if (step < 0) return null;
  const { text, confidence } = history[step];
  const lines = [`“${text.trim() || "space"}” – ${percent(confidence)} sure, in step ${step + 1} of ${drafts.length}`];
  const instead = (history[step].top_logprobs ?? []).filter((one) => one.token !== text);
  if (instead.length) lines.push(`instead: ${listed(instead, named)}`);
  const earlier = [];
  for (const [i, piece] of history.slice(0, step).entries()) {
    if (piece.text && piece.text !== (earlier.at(-1)?.text ?? null)) earlier.push({ text: piece.text, step: i + 1 });
  }
  const others = earlier.filter((piece) => piece.text !== text);
  lines.push(
    others.length
      ? `before: ${others.slice(-4).map((piece) => `“${piece.text.trim() || "space"}” (step ${piece.step})`).join(", ")}`
      : "nothing else was proposed here before",
  );
  return lines;
}

/** Lines about a token of a picture. trace: step, confidence and likeliest codes by place, null where a token was given. */
export function aboutCell(trace, column, row, columns) {
  const place = row * columns + column;
  const where = `column ${column + 1}, row ${row + 1}`;
  const step = trace.steps[place];
  if (step === null || step === undefined) return [`Square at ${where}`, "kept as it was"];
  const count = Math.max(...trace.steps.filter((one) => one !== null)) + 1;
  const lines = [`Square at ${where}`, `drawn in step ${step + 1} of ${count}, ${percent(trace.confidences[place])} sure`];
  const likely = trace.top_logprobs?.[place] ?? [];
  if (likely.length) lines.push(`likeliest there: ${listed(likely, (token) => `code ${token}`)}`);
  return lines;
}
