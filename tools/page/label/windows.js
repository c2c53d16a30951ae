// The sliding window, as tools/geo/windows.py and tools/inference/window_size.py have it: the same positions, tapers and sizes.

/** Where windows of `size` pixels begin along an axis, `step` apart; the last one is pushed inward. */
export function positions(length, size, step) {
  const last = Math.max(length - size, 0);
  const found = [];
  for (let start = 0; start < last; start += step) found.push(start);
  return [...found, last];
}

/** The net with the windows for an image of this [height, width]: the fewest pixels of windows cover it, if they are fitted. */
export function windowsOn(net, shape) {
  const by = net.fitted;
  if (!by) return net;
  const window = shape.map((length, axis) => fitting(length, net.window[axis], by));
  return { ...net, window, step: window.map((side) => apart(side, by)) };
}

function fitting(length, most, by) {
  const widest = Math.min(most, Math.ceil(length / by.grid) * by.grid);
  const cost = (side) => side * positions(length, side, apart(side, by)).length;
  let found = widest;
  for (let side = widest; side > Math.floor(widest / 2); side -= by.grid) if (cost(side) < cost(found)) found = side;
  return found;
}

function apart(side, { halo, multiple, share }) {
  if (share !== null) return Math.max(1, Math.floor(share * side + 0.5));
  const wished = Math.max(side - 2 * halo, Math.floor(side / 2));
  return Math.max(Math.floor(wished / multiple) * multiple, Math.min(multiple, side));
}

const tapered = (shape) => (size) =>
  Float32Array.from({ length: size }, (_, i) => 0.01 + 0.99 * shape(1 - Math.abs((2 * (i + 0.5)) / size - 1)));

/** How much the pixels along a window's side count. */
export const TAPERS = {
  flat: (size) => new Float32Array(size).fill(1),
  linear: tapered((d) => d),
  cosine: tapered((d) => Math.sin((Math.PI / 2) * d) ** 2),
  gaussian: tapered((d) => Math.exp(-0.5 * ((1 - d) / 0.5) ** 2)),
};

/** The weights of all windows over each position of an axis, added up. */
export function cover(length, taper, step) {
  const sum = new Float64Array(Math.max(length, taper.length));
  for (const start of positions(length, taper.length, step)) {
    for (let i = 0; i < taper.length; i++) sum[start + i] += taper[i];
  }
  return Float32Array.from(sum);
}

/**
 * Column strips (first column, end) of an image, so that the sums of probabilities take the net's `memory` (bytes) at a time.
 * Strips begin at multiples of 256, as the blocks of tiled GeoTIFFs do.
 */
export function strips(width, { classes, window, memory }) {
  const fits = Math.floor(memory / (4 * classes.length * window[0]) / 256) * 256;
  const widest = Math.max(fits, Math.ceil(window[1] / 256) * 256);
  const even = Math.ceil(width / (Math.ceil(width / widest) * 256)) * 256;
  const found = [];
  for (let first = 0; first < width; first += even) found.push([first, Math.min(first + even, width)]);
  return found;
}

/** Where a position beyond an axis of `length` pixels falls when the image goes on as its mirror image (numpy's "reflect"). */
export function mirrored(i, length) {
  if (length === 1) return 0;
  const place = i % (2 * (length - 1));
  return place < length ? place : 2 * (length - 1) - place;
}
