// A result as one file: prompt, seed, settings and every step, which any studio opens and plays again.
//
//   {"format": "mmada-result", "version": 1, "kind": "drawing", "model", "prompt", "seed", "settings", "path", "files", "made", "result"}
//
// What is opened comes from somebody else. It is taken apart field by field, pictures are data: URLs of pictures, and nothing of it is sent.

import { loaded } from "./pictures.js";
import { newId } from "./store.js";

const FORMAT = "mmada-result";
const PATHS = ["/v1/chat/completions", "/v1/images/generations", "/v1/images/edits", "/v1/images/variations"];
const PICTURE = /^data:image\/(png|jpeg|webp);base64,[A-Za-z0-9+/]+=*$/;
const MOST_BYTES = 64_000_000;
const MOST_CHARACTERS = 200_000; // of a text
const MOST_ITEMS = 5000; // of a list: steps, and tokens of a text
const MOST_PLACES = 65_536; // tokens of a picture
const MOST_PICTURES = 64;

/** The text of a file. */
export function toFile({ id, at, kind, model, title, seed, request, ...result }) {
  const { prompt, model: _, seed: __, ...settings } = request?.body ?? {};
  const file = { format: FORMAT, version: 1, kind, model, title, prompt: prompt ?? null, seed: seed ?? null, settings };
  return JSON.stringify({ ...file, path: request?.path ?? null, files: request?.files ?? {}, made: new Date(at).toISOString(), result });
}

/** A result from a file. Throws an Error with a sentence for the reader. */
export async function fromFile(file) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than ${MOST_BYTES / 1e6} MB, more than any result of this page.`);
  let data;
  try {
    data = JSON.parse(await file.text());
  } catch {
    throw new Error(`${file.name} is no JSON; open a file that this page saved.`);
  }
  const result = fromData(data, file.name);
  const shown = (result.pictures ?? []).map(({ frames }) => loaded(frames.at(-1)));
  await Promise.all(shown).catch(() => {
    throw wrong(file.name, NO_PICTURE);
  });
  return result;
}

const NO_PICTURE = "a picture in it is none";

function wrong(name, what) {
  return new Error(`${name} cannot be opened: ${what}.`);
}

export function fromData(data, name) {
  if (data?.format !== FORMAT) throw wrong(name, "it is no result that a studio saved");
  if (data.version !== 1) throw wrong(name, "its version is another one than 1, which this page reads");
  const read = new Map([["drawing", drawingOf], ["answer", answerOf]]).get(data.kind);
  if (!read) throw wrong(name, "it holds neither a drawing nor an answer");
  try {
    const body = { ...plain(data.settings), model: text(data.model) };
    if (data.prompt !== null) body.prompt = text(data.prompt);
    const files = Object.fromEntries(Object.entries(plain(data.files)).map(([key, url]) => [key, picture(url)]));
    const request = PATHS.includes(data.path) ? { path: data.path, body, ...(Object.keys(files).length && { files }) } : undefined;
    const at = Date.parse(text(data.made));
    const head = { id: newId(), at: Number.isFinite(at) ? at : Date.now(), kind: data.kind, model: body.model, title: text(data.title) };
    return { ...head, seed: maybe(number, data.seed), request, ...read(plain(data.result)) };
  } catch (error) {
    throw wrong(name, error instanceof TypeError ? "a part is missing in it" : error.message);
  }
}

/** What was asked for, of a result of this page or of another one. */
export function wordsOf({ request, title }) {
  const { prompt, messages } = request?.body ?? {};
  const said = prompt ?? (Array.isArray(messages) ? messages.at(-1)?.content : undefined);
  return typeof said === "string" ? said : title ?? "";
}

function drawingOf(result) {
  const pictures = list(result.pictures, MOST_PICTURES).map((one) => ({
    frames: list(one.frames).map(picture),
    prompt: maybe(text, one.prompt),
    seed: maybe(number, one.seed),
    warning: maybe(text, one.warning),
    text: maybe(text, one.text),
    trace: maybe(traceOf, one.trace),
  }));
  if (!pictures.length || pictures.some((one) => !one.frames.length)) throw new Error("it has no picture");
  return { pictures, thoughts: list(result.thoughts ?? []).map((thought) => maybe(text, thought)), ms: maybe(number, result.ms), nfe: maybe(number, result.nfe) };
}

function traceOf({ steps, confidences, top_logprobs }) {
  const likely = maybe((places) => list(places, MOST_PLACES).map((place) => maybe(alternatives, place)), top_logprobs);
  const sure = list(confidences, MOST_PLACES).map(shareOrNull);
  const when = list(steps, MOST_PLACES).map((step, place) => (Number.isInteger(step) && step >= 0 && typeof sure[place] === "number" ? step : null));
  return { steps: when, confidences: sure, ...(likely && { top_logprobs: likely }) };
}

/** The likeliest tokens of a place: texts, or numbers of codes. */
function alternatives(value) {
  return list(value).map(({ token, logprob }) => ({ token: typeof token === "number" ? token : text(token), logprob: number(logprob) }));
}

function pieceOf(piece) {
  const likely = maybe(alternatives, piece.top_logprobs);
  return { text: text(piece.text), confidence: shareOrNull(piece.confidence), ...(likely && { top_logprobs: likely }) };
}

function answerOf(result) {
  const drafts = list(result.drafts).map((draft) => list(draft).map(pieceOf));
  const usage = maybe(({ completion_tokens, nfe, tokens_per_forward }) => ({
    completion_tokens: number(completion_tokens), nfe: number(nfe), tokens_per_forward: number(tokens_per_forward),
  }), result.usage);
  return { drafts, answer: text(result.answer), thoughts: text(result.thoughts), usage, reason: maybe(text, result.reason), warning: maybe(text, result.warning), ms: maybe(number, result.ms) };
}

function maybe(read, value) {
  return value === null || value === undefined ? undefined : read(value);
}

function text(value) {
  if (typeof value !== "string") throw new Error("a text is missing in it");
  if (value.length > MOST_CHARACTERS) throw new Error(`a text in it has more than ${MOST_CHARACTERS} characters`);
  return value;
}

function number(value) {
  if (!Number.isFinite(value)) throw new Error("a number is missing in it");
  return value;
}

/** A probability, or null. */
function shareOrNull(value) {
  return value >= 0 && value <= 1 && typeof value === "number" ? value : null;
}

function list(value, most = MOST_ITEMS) {
  if (!Array.isArray(value)) throw new Error("a list is missing in it");
  if (value.length > most) throw new Error(`a list in it has more than ${most} items`);
  return value;
}

function plain(value) {
  if (!value || typeof value !== "object" || Array.isArray(value)) throw new Error("a part is missing in it");
  return value;
}

function picture(value) {
  if (typeof value !== "string" || !PICTURE.test(value)) throw new Error(NO_PICTURE);
  return value;
}
