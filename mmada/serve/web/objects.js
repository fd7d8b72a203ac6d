// Where the things of a picture are, so that an edit takes hold of a whole one: whatever differs from the background and hangs together.

const MOST_DIFFERENT = 42; // of a color, in the cube of 256 a side, that is still background
const LEAST_PIXELS = 6; // of a thing; less is noise
const MOST_SHARE = 0.6; // of a picture that one thing may cover; more is a scene and no thing

/** For each square of `factor` pixels in reading order: the set of squares that its things cover, or null where there is nothing. */
export function objectsOf(image, factor) {
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const [columns, rows] = [Math.floor(width / factor), Math.floor(height / factor)];
  const things = groups(inked(data, width, height), width, height)
    .map((pixels) => covered(pixels, width, factor, columns, rows))
    .filter((squares) => squares.size <= MOST_SHARE * columns * rows);
  return Array.from({ length: columns * rows }, (_, square) => {
    const mine = things.filter((squares) => squares.has(square));
    return mine.length ? new Set(mine.flatMap((squares) => [...squares])) : null;
  });
}

/** Which pixels are no background: the background is the color that the border has most. */
function inked(data, width, height) {
  const counts = new Map();
  const count = (x, y) => {
    const at = 4 * (y * width + x);
    const key = (data[at] >> 4) * 256 + (data[at + 1] >> 4) * 16 + (data[at + 2] >> 4);
    const seen = counts.get(key) ?? { n: 0, color: [0, 0, 0] };
    seen.n++;
    seen.color = seen.color.map((sum, i) => sum + data[at + i]);
    counts.set(key, seen);
  };
  for (let x = 0; x < width; x++) for (const y of [0, height - 1]) count(x, y);
  for (let y = 0; y < height; y++) for (const x of [0, width - 1]) count(x, y);
  const most = [...counts.values()].reduce((best, seen) => (seen.n > best.n ? seen : best));
  const background = most.color.map((sum) => sum / most.n);
  return Array.from({ length: width * height }, (_, i) => Math.hypot(...background.map((value, c) => data[4 * i + c] - value)) > MOST_DIFFERENT);
}

/** Lists of pixels that touch each other. */
function groups(isInked, width, height) {
  const seen = new Uint8Array(width * height);
  const found = [];
  for (let start = 0; start < seen.length; start++) {
    if (seen[start] || !isInked[start]) continue;
    const pixels = [start];
    seen[start] = 1;
    for (let next = 0; next < pixels.length; next++) {
      const [x, y] = [pixels[next] % width, Math.floor(pixels[next] / width)];
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        const [u, v] = [x + dx, y + dy];
        const at = v * width + u;
        if (u < 0 || v < 0 || u >= width || v >= height || seen[at] || !isInked[at]) continue;
        seen[at] = 1;
        pixels.push(at);
      }
    }
    if (pixels.length >= LEAST_PIXELS) found.push(pixels);
  }
  return found;
}

/** The squares in which a thing has more than a stray pixel. */
function covered(pixels, width, factor, columns, rows) {
  const counts = new Map();
  for (const pixel of pixels) {
    const square = Math.min(rows - 1, Math.floor(Math.floor(pixel / width) / factor)) * columns + Math.min(columns - 1, Math.floor((pixel % width) / factor));
    counts.set(square, (counts.get(square) ?? 0) + 1);
  }
  return new Set([...counts].filter(([, n]) => n > 1).map(([square]) => square));
}
