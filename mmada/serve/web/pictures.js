// Pictures: from files, as data: URLs of some size, and back to files.

import { element, hint } from "./page.js";

export async function loaded(url) {
  const image = new Image();
  image.src = url;
  const isRead = await image.decode().then(() => image.naturalWidth > 0, () => false);
  if (!isRead) throw new Error("This file is no picture that the browser can read.");
  return image;
}

async function fromFile(file, use) {
  const url = URL.createObjectURL(file);
  try {
    return use(await loaded(url));
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** A picture file as a data: URL, at most `most` pixels a side. */
export function pictureOf(file, most = 1024) {
  return fromFile(file, (image) => {
    const scale = Math.min(1, most / Math.max(image.naturalWidth, image.naturalHeight));
    return drawn(image, Math.round(image.naturalWidth * scale), Math.round(image.naturalHeight * scale));
  });
}

/** A picture file as a data: URL of exactly this size, cut at the longer sides. */
export function croppedPictureOf(file, width, height) {
  return fromFile(file, (image) => drawn(image, width, height));
}

/**
 * A picture as the server goes on from it, in whole image tokens, and how many times as large: {url, scale}. Where drawings are larger than
 * what is encoded, its shorter side becomes as long as that of a drawing, so that a picture of any size has the model's own grid.
 */
export async function fitted(url, { image_size, image_factor, image_upscale }) {
  const image = await loaded(url);
  const own = [image.naturalWidth, image.naturalHeight];
  const shorter = Math.min(...image_size.split("x").map(Number));
  const sides = image_upscale > 1 ? own.map((side) => Math.floor((shorter * side) / Math.min(...own))) : own;
  const [width, height] = sides.map((side) => Math.max(1, Math.floor(side / image_factor)) * image_factor);
  if (width === own[0] && height === own[1]) return { url, scale: 1 };
  return { url: drawn(image, width, height), scale: Math.max(width / own[0], height / own[1]) };
}

function drawn(image, width, height) {
  const canvas = element("canvas", { width: Math.max(1, width), height: Math.max(1, height) });
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  const scale = Math.max(canvas.width / image.naturalWidth, canvas.height / image.naturalHeight);
  const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale];
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
  return canvas.toDataURL("image/png");
}

export function blobOf(dataUrl) {
  const comma = dataUrl.indexOf(",");
  const bytes = Uint8Array.from(atob(dataUrl.slice(comma + 1)), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: dataUrl.slice(5, comma).split(";")[0] });
}

/** Offer something to be saved; address: a data: or blob: URL. */
export function download(address, name) {
  element("a", { href: address, download: name }).click();
}

/**
 * Call use(file) for files that are chosen, or pasted or dropped anywhere while `area` is shown: at most `most` of those that fit.
 * kinds: of their types, and `named` of their names, since not every system knows the type of JSON. What does not fit is said.
 */
export function takeFiles(area, input, use, { kinds = /^image\/|json$/, named = /\.json$/i, most = 1, wanted = "a picture or a saved result" } = {}) {
  const take = async (files) => {
    const fit = files.filter((file) => kinds.test(file.type) || named.test(file.name));
    hint();
    for (const file of fit.slice(0, most)) await use(file);
    const others = files.length - Math.min(fit.length, most);
    if (!fit.length) hint(`${files[0].name || "This"} cannot be opened: ${wanted} is wanted here.`);
    else if (others) hint(`${others} of ${files.length} files ${others === 1 ? "was" : "were"} left out.`);
  };
  const isShown = () => !area.hidden && !document.querySelector("dialog[open]");
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  input.addEventListener("change", () => {
    if (input.files.length) take([...input.files]);
    input.value = "";
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    const hasWords = ["text/plain", "text/html"].every((type) => event.clipboardData.types.includes(type)); // with a picture of them, as from a table
    if (!isShown() || !files.length || hasWords) return;
    event.preventDefault();
    take(files);
  });
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // or the browser would leave the page for the file
    area.classList.toggle("dropping", isShown());
  });
  document.addEventListener("dragleave", (event) => !event.relatedTarget && area.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    area.classList.remove("dropping");
    if (!hasFiles(event)) return;
    event.preventDefault();
    if (isShown()) take([...event.dataTransfer.files]);
  });
}
