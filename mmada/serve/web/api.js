// Calls to the server: the key, server-sent events, and errors as sentences.

const KEY = "mmada-key";
let key = readKey();

function readKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // a page inside another one may not be allowed to store anything
  }
}

export function getKey() {
  return key;
}

export function setKey(value) {
  key = value.trim();
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // kept in memory only
  }
}

/** An answer of the server that is an error. */
export class ServerError extends Error {
  constructor(message, status, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function send(path, options) {
  const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it still running?", 0);
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const body = await response.json().catch(() => null);
  const retryAfter = response.headers.get("Retry-After");
  let message = body?.error?.message ?? `The server answered ${response.status} ${response.statusText}`;
  if (response.status === 401) message = "the API key is missing or wrong; enter it above, under API key";
  if (response.status === 429) message += retryAfter ? ` (try again in ${retryAfter} s)` : "";
  return new ServerError(message, response.status, retryAfter);
}

export async function getModels(signal) {
  return (await (await send("v1/models", { signal })).json()).data;
}

/** The events of a streamed answer, as objects. body: a FormData, or what becomes JSON. */
export async function* stream(path, body, signal) {
  const isForm = body instanceof FormData;
  const response = await send(path.replace(/^\//, ""), {
    method: "POST",
    signal,
    headers: isForm ? {} : { "Content-Type": "application/json" },
    body: isForm ? body : JSON.stringify(body),
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("The connection broke before the answer was complete.", 0);
    }
    if (part.done) return;
    const blocks = (waiting + part.value).split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (!data || data === "[DONE]") continue;
      const told = JSON.parse(data);
      if (told.error) throw new ServerError(told.error.message, 200);
      yield told;
    }
  }
}
