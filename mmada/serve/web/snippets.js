// The last request as something to run elsewhere. Keys are never copied; pictures become files.

import { getKey } from "./api.js";

/** fields that the official client knows; all others go into extra_body */
const KNOWN = {
  "/v1/chat/completions": ["model", "messages", "reasoning_effort", "temperature", "top_p", "max_completion_tokens", "seed"],
  "/v1/images/generations": ["model", "prompt", "n"],
  "/v1/images/edits": ["model", "prompt", "n"],
  "/v1/images/variations": ["model", "n"],
};
const METHODS = {
  "/v1/chat/completions": "chat.completions.create",
  "/v1/images/generations": "images.generate",
  "/v1/images/edits": "images.edit",
  "/v1/images/variations": "images.create_variation",
};

/** A request with the seed that it got, so that it gives the same again. */
function settled({ body, seed }) {
  return seed === undefined ? body : { ...body, seed };
}

/** The mark of a file's name, which no text of a user can have in JSON. */
const FILE = "\u0000";

/** A body with file names where pictures stand; files becomes picture -> name. */
function withoutPictures(value, files) {
  if (Array.isArray(value)) return value.map((item) => withoutPictures(item, files));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, name === "url" ? named(item, files) : withoutPictures(item, files)]));
  }
  return value;
}

function named(picture, files) {
  if (!files.has(picture)) files.set(picture, files.size ? `picture-${files.size + 1}.png` : "picture.png");
  return FILE + files.get(picture);
}

function origin() {
  return new URL(".", location.href).href.replace(/\/$/, "");
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

export function asCurl(request) {
  const files = new Map();
  const body = withoutPictures(settled(request), files);
  const lines = [`curl -s ${origin()}${request.path}`];
  if (getKey()) lines.push(`-H "Authorization: Bearer $MMADA_API_KEY"`);
  if (request.files) {
    for (const name of Object.keys(request.files)) lines.push(`-F ${name}=@${name}.png`);
    for (const [name, value] of Object.entries(body)) lines.push(`--form-string ${quoted(`${name}=${value}`)}`);
    return lines.join(" \\\n  ");
  }
  lines.push("-H 'Content-Type: application/json'");
  const json = quoted(JSON.stringify(body)).replace(/\\u0000([\w.-]+)/g, `data:image/png;base64,'"$(base64 < $1 | tr -d '\\n')"'`);
  if (!files.size) {
    lines.push(`-d ${json}`);
    return lines.join(" \\\n  ");
  }
  lines.push("-d @-"); // a picture may be longer than an argument of a command, but not of the shell's own printf
  return `printf %s ${json} | ${lines.join(" \\\n  ")}`;
}

/** A value as Python writes it. */
function literal(value, indent) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value === "string" && value.startsWith(FILE)) return `picture(${JSON.stringify(value.slice(1))})`;
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const items = Array.isArray(value)
    ? value.map((item) => `${inner}${literal(item, inner)},\n`)
    : Object.entries(value).map(([name, item]) => `${inner}${JSON.stringify(name)}: ${literal(item, inner)},\n`);
  const [begin, end] = Array.isArray(value) ? "[]" : "{}";
  return `${begin}\n${items.join("")}${indent}${end}`;
}

export function asPython(request) {
  const files = new Map();
  const body = withoutPictures(settled(request), files);
  const isChat = request.path === "/v1/chat/completions";
  const imports = [];
  if (!isChat || files.size) imports.push("import base64");
  if (getKey()) imports.push("import os");
  if (imports.length) imports.push("");
  const key = getKey() ? 'os.environ["MMADA_API_KEY"]' : '"none"';
  const lines = [...imports, "from openai import OpenAI", "", `client = OpenAI(base_url="${origin()}/v1", api_key=${key})`];
  if (files.size) {
    lines.push("", "", "def picture(path):", '    with open(path, "rb") as file:');
    lines.push('        return "data:image/png;base64," + base64.b64encode(file.read()).decode()', "", "");
  }
  lines.push(`reply = client.${METHODS[request.path]}(`);
  for (const name of Object.keys(request.files ?? {})) lines.push(`    ${name}=open("${name}.png", "rb"),`);
  const known = KNOWN[request.path];
  for (const [name, value] of Object.entries(body)) if (known.includes(name)) lines.push(`    ${name}=${literal(value, "    ")},`);
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !known.includes(name)));
  if (Object.keys(extra).length) lines.push(`    extra_body=${literal(extra, "    ")},`);
  lines.push(")");
  if (isChat) {
    lines.push("print(reply.choices[0].message.content)");
  } else {
    lines.push("for i, drawing in enumerate(reply.data):", '    with open(f"drawing-{i}.png", "wb") as file:', "        file.write(base64.b64decode(drawing.b64_json))");
  }
  return `${lines.join("\n")}\n`;
}

/** Copy a text, also on a page without https, where the clipboard is not offered. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "unseen";
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    if (!isCopied) throw new Error("The browser does not let the page copy.");
  }
}
