// A draft of a text, token by token: what is committed, what is open and what is hidden. A piece is {text, confidence, slot}.
//
// Colors say what was measured: of answers whose least sure token had less than 60 %, few are right; from 90 % on, most are, and those have
// no color (docs/results/confidence.json). Other thresholds would be decoration.

import { element } from "./page.js";

export const LEVELS = [
  { below: 0.6, name: "doubtful" },
  { below: 0.9, name: "unsure" },
];

/** Pieces that know their place. */
export function numbered(draft) {
  return draft.map((piece, slot) => ({ ...piece, slot }));
}

/** Split a draft at its think tags, of which the first may be missing. Returns {thinking, answer}: lists of pieces; thinking is null if there is none. */
export function splitDraft(pieces) {
  const text = pieces.map((piece) => piece.text).join("");
  const opened = text.indexOf("<think>");
  const lone = text.indexOf("</think>");
  if (lone >= 0 && (opened < 0 || lone < opened)) {
    return { thinking: cut(pieces, 0, lone, false), answer: cut(pieces, lone + "</think>".length, text.length, true) };
  }
  if (opened < 0) return { thinking: null, answer: pieces };
  const closed = text.indexOf("</think>", opened);
  const begin = opened + "<think>".length;
  const end = closed < 0 ? text.length : closed;
  const thinking = cut(pieces, begin, end, closed < 0);
  const before = cut(pieces, 0, opened, false);
  const after = closed < 0 ? [] : cut(pieces, closed + "</think>".length, text.length, true);
  return { thinking, answer: [...before, ...after] };
}

/** The pieces between two characters; empty pieces (hidden tokens) belong to where they stand, at the end only if asked. */
function cut(pieces, begin, end, withEnd) {
  const kept = [];
  let at = 0;
  for (const piece of pieces) {
    const next = at + piece.text.length;
    if (piece.text === "") {
      if (at > begin && (at < end || (withEnd && at === end))) kept.push(piece);
    } else if (next > begin && at < end) {
      kept.push({ ...piece, text: piece.text.slice(Math.max(0, begin - at), end - at) });
    }
    at = next;
  }
  return kept;
}

export function textOf(pieces) {
  return pieces.map((piece) => piece.text).join("").trim();
}

/** Elements for pieces; isNew(piece) says which light up. */
export function spansOf(pieces, isNew = () => false) {
  const spans = [];
  for (const piece of trimmed(pieces)) {
    if (piece.confidence === null) {
      const isMask = piece.text.trim() === "";
      const span = element("span", { className: isMask ? "token mask" : "token open", textContent: isMask ? "\u2007" : piece.text });
      if (isMask) span.setAttribute("aria-hidden", "true");
      spans.push(span);
    } else if (piece.text !== "") {
      const level = LEVELS.find(({ below }) => piece.confidence < below)?.name ?? "";
      const span = element("span", { className: `token ${level}`, textContent: piece.text, "data-slot": piece.slot });
      if (isNew(piece)) span.classList.add("fresh");
      spans.push(span);
    }
  }
  return spans;
}

/** Without committed spaces at both ends, which the answer does not have either. */
function trimmed(pieces) {
  const isSpace = (piece) => piece.confidence !== null && piece.text.trim() === "";
  let begin = 0;
  let end = pieces.length;
  while (begin < end && isSpace(pieces[begin])) begin++;
  while (end > begin && isSpace(pieces[end - 1])) end--;
  const kept = pieces.slice(begin, end);
  if (kept.length && kept[0].confidence !== null) kept[0] = { ...kept[0], text: kept[0].text.trimStart() };
  return kept;
}
