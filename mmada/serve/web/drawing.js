// From a request for pictures to a card that fills: the one way in which all tabs draw.

import { ServerError, stream } from "./api.js";
import { tell } from "./page.js";
import { NUM_ALTERNATIVES } from "./inspector.js";
import { blobOf } from "./pictures.js";
import { newId } from "./store.js";

/** What is known of a drawing before it begins. request: {path, body, files}. */
export function drawingOf(title, request) {
  return { id: newId(), at: Date.now(), kind: "drawing", model: request.body.model, title, request, pictures: [], thoughts: [] };
}

/**
 * Draw into a card, which has its places. prompt: what pictures show if the server does not say.
 * Returns whether all of it came; false if it was stopped. Throws ServerError.
 */
export function draw(card, { prompt, facts, signal }) {
  return whole(card, async (began) => {
    const { request } = card.result;
    for await (const told of stream(request.path, bodyOf(request, facts), signal)) {
      if (told.seed !== undefined) request.seed = told.seed;
      take(card, told.index ?? 0, told, { prompt, began });
    }
  });
}

/**
 * The same, with a plan in each place that is new: a thought that was thought before is given up, and the next seed tried.
 * The request asks for one picture and has a seed, from which the others count up. plan: what the first picture had.
 */
export function drawUnlike(card, { prompt, facts, signal, plan, tries }) {
  const { request } = card.result;
  const plans = new Set([plan]);
  let next = 0;
  const fillPlace = async (place, began) => {
    for (;;) {
      const mayGiveUp = next < tries;
      const stop = new AbortController();
      const own = { ...request, body: { ...request.body, seed: request.body.seed + next++ } };
      let isOld = false;
      for await (const told of stream(own.path, bodyOf(own, facts), AbortSignal.any([signal, stop.signal]))) {
        if (told.type.endsWith(".thinking")) {
          isOld = mayGiveUp && plans.has(told.thinking);
          if (isOld) break;
          plans.add(told.thinking);
        }
        take(card, place, told, { prompt, began });
      }
      if (!isOld) return;
      stop.abort(); // which frees its place at the server
    }
  };
  return whole(card, (began) => Promise.all(card.views.map((_, place) => fillPlace(place, began))));
}

async function whole(card, act) {
  card.result.nfe = 0;
  try {
    await act(performance.now());
    if (card.views.some((view) => !view.isWhole)) throw new ServerError("The answer ended before it was complete.", 0);
    card.end();
    tell("Drawn.");
    return true;
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    for (const view of card.views) view.player.pause();
    card.end("Stopped");
    tell("Stopped.");
    return false;
  }
}

/** One event of a stream, for one place of a card. */
function take(card, place, told, { prompt, began }) {
  const { result } = card;
  card.think(place, told.thinking);
  if (told.type.endsWith(".thinking")) return;
  const view = card.views[place];
  view.take(`data:image/${told.output_format};base64,${told.b64_json}`);
  if (!told.type.endsWith(".completed")) return;
  result.seed ??= told.seed;
  result.nfe += told.usage.nfe;
  result.ms = Math.round(performance.now() - began);
  Object.assign(view.record, { prompt: told.revised_prompt || prompt, seed: told.seed + (told.index ?? 0), warning: told.warning, text: told.text, trace: told.trace });
  card.complete(place);
}

function bodyOf({ body, files }, facts) {
  const [width, height] = facts.image_size.split("x").map(Number);
  const most = Math.min(facts.max_partial_images, width * height <= 256 * 256 ? 64 : 16); // large pictures are large in memory
  const steps = body.steps ?? facts.image_steps;
  // What is chosen at the end has no steps to show.
  const previews = body.best_of ? 0 : Math.max(0, Math.min(most, steps - 1));
  const full = { ...body, stream: true, partial_images: previews, include_trace: true, top_logprobs: NUM_ALTERNATIVES };
  if (!files) return full;
  const form = new FormData();
  for (const [name, value] of Object.entries(full)) form.append(name, String(value));
  for (const [name, url] of Object.entries(files)) form.append(name, blobOf(url), `${name}.png`);
  return form;
}
