// Small things that both tabs need: elements, the status line, problems in place, pictures from files.

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

export function find(id) {
  return document.getElementById(id);
}

export function tell(text) {
  find("status").textContent = text;
}

/** Say in place what went wrong, with a button that tries again. */
export function problem(error, again) {
  const box = element("p", { className: "problem", role: "alert" }, error.message);
  if (again) {
    const button = element("button", { type: "button", textContent: "Try again" });
    button.addEventListener("click", () => {
      box.remove();
      again();
    });
    box.append(button);
  }
  if (error.status === 401) {
    find("access").open = true;
    find("key").focus();
  }
  return box;
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
  input.dispatchEvent(new Event("input"));
}

/** A number field's value, or undefined where it is empty. */
export function numberOf(input) {
  return input.value === "" ? undefined : Number(input.value);
}

/** A slider through what is kept of a request; show(index) draws one. */
export function scrubber(name, show) {
  const range = element("input", { type: "range", min: 0, max: 0, step: 1, value: 0, "aria-label": name });
  const output = element("output");
  const box = element("div", { className: "scrub", hidden: true }, range, output);
  const update = () => {
    output.textContent = `step ${Number(range.value) + 1} of ${Number(range.max) + 1}`;
    range.setAttribute("aria-valuetext", output.textContent);
  };
  range.addEventListener("input", () => {
    update();
    show(Number(range.value));
  });
  return {
    box,
    /** There are `count` now; go to the last. */
    grow(count) {
      range.max = count - 1;
      range.value = count - 1;
      box.hidden = count < 2;
      update();
    },
  };
}

function loaded(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("This file is no picture that the browser can read."));
    image.src = url;
  });
}

/** A picture file as a data: URL, at most `most` pixels a side. */
export async function pictureOf(file, most = 1024) {
  const url = URL.createObjectURL(file);
  try {
    const image = await loaded(url);
    const scale = Math.min(1, most / Math.max(image.naturalWidth, image.naturalHeight));
    return drawn(image, Math.round(image.naturalWidth * scale), Math.round(image.naturalHeight * scale));
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** A picture file as a data: URL of exactly this size, cut at the longer sides. */
export async function croppedPictureOf(file, width, height) {
  const url = URL.createObjectURL(file);
  try {
    return drawn(await loaded(url), width, height);
  } finally {
    URL.revokeObjectURL(url);
  }
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
  const bytes = Uint8Array.from(atob(dataUrl.slice(dataUrl.indexOf(",") + 1)), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

export function download(dataUrl, name) {
  element("a", { href: dataUrl, download: name }).click();
}

/** Call use(file) for a picture that is chosen, pasted or dropped. */
export function takePictures(area, input, use) {
  const first = (files) => [...files].find((file) => file.type.startsWith("image/"));
  input.addEventListener("change", () => {
    if (input.files[0]) use(input.files[0]);
    input.value = "";
  });
  area.addEventListener("paste", (event) => {
    const file = first(event.clipboardData.files);
    if (!file) return;
    event.preventDefault();
    use(file);
  });
  area.addEventListener("dragover", (event) => {
    event.preventDefault();
    area.classList.add("dropping");
  });
  area.addEventListener("dragleave", () => area.classList.remove("dropping"));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    area.classList.remove("dropping");
    const file = first(event.dataTransfer.files);
    if (file) use(file);
  });
}
