// Images to look at: three bands as colours, reduced by averaging, stretched unless they are bytes.

const AT_ONCE = 2 ** 22; // pixels that are read at a time
const SAMPLES = 4; // squares in a row, of as many rows, that tell how to stretch
const SIDE = 128; // pixels of such a square

/**
 * A rectangle of an image as {width, height, data}, RGBA bytes, each pixel the mean of `factor` x `factor`.
 * stretch: {low, high} for what is no bytes, else null; gaps are transparent.
 */
export async function picture(source, [row, col, height, width], factor, stretch) {
  const size = [Math.ceil(height / factor), Math.ceil(width / factor)];
  const means = emptyMeans(source, size);
  const step = rowsAtOnce(width, source);
  for (let y = 0; y < height; y += step) {
    const part = await source.read(row + y, col, Math.min(step, height - y), width);
    addUp(means, part, { y, width, factor });
  }
  return { height: size[0], width: size[1], data: colours(means, stretch) };
}

/** How much an image is to be reduced so that no side is longer than `most`. */
export const factorOf = ({ width, height }, most) => Math.max(1, Math.ceil(Math.max(width, height) / most));

/** The whole image reduced, from top to bottom: yields {row, width, height, data}. */
export async function* overview(source, factor, stretch) {
  const columns = Math.ceil(source.width / factor);
  const [small, scale] = smallerOf(source, factor);
  const lines = Math.max(1, Math.floor(rowsAtOnce(small.width, source) / scale));
  const all = Math.ceil(source.height / factor);
  for (let row = 0; row < all; row += lines) {
    const count = Math.min(lines, all - row);
    const [top, bottom] = [Math.floor(row * scale), row + count === all ? small.height : Math.floor((row + count) * scale)];
    const means = emptyMeans(source, [count, columns]);
    addUp(means, await small.read(top, 0, bottom - top, small.width), { y: top - row * scale, width: small.width, factor: scale });
    yield { row, width: columns, height: count, data: colours(means, stretch) };
  }
}

/** The file's own overview that is nearest above what is wanted, and the factor that is left to be reduced. */
function smallerOf(source, factor) {
  const fits = (source.smaller ?? []).filter((overview) => source.width / overview.width <= factor);
  const best = fits.sort((one, other) => one.width - other.width)[0];
  return best ? [best, (factor * best.width) / source.width] : [source, factor];
}

const rowsAtOnce = (width, { bands }) => Math.max(1, Math.floor(AT_ONCE / width / Math.max(1, bands / 3)));

/** Sums of the first three bands, or of the one: planes, and how many pixels are in each. */
function emptyMeans({ bands }, [rows, columns]) {
  const planes = Array.from({ length: bands >= 3 ? 3 : 1 }, () => new Float32Array(rows * columns));
  return { rows, columns, planes, counts: new Uint32Array(rows * columns) };
}

/** Add rows from y on, which are `width` pixels wide, to the sums. */
function addUp({ rows, columns, planes, counts }, { bands, gaps }, { y, width, factor }) {
  const height = bands[0].length / width;
  for (let r = 0; r < height; r++) {
    const line = Math.min(rows - 1, Math.max(0, Math.floor((y + r) / factor))) * columns;
    for (let x = 0; x < width; x++) {
      const source = r * width + x;
      if (gaps?.[source]) continue;
      const target = line + Math.min(columns - 1, Math.floor(x / factor));
      counts[target]++;
      for (let band = 0; band < planes.length; band++) planes[band][target] += bands[band][source];
    }
  }
}

/** {low, high}, the 2nd and 98th percentile of all bands together in squares spread over the image; null for bytes. */
export async function stretchOf(source) {
  if (source.dtype === "uint8") return null;
  const values = [];
  for (let i = 0; i < SAMPLES * SAMPLES; i++) {
    const at = (length, n) => Math.floor((Math.max(0, length - SIDE) * n) / (SAMPLES - 1));
    const [row, col] = [at(source.height, Math.floor(i / SAMPLES)), at(source.width, i % SAMPLES)];
    const { bands, gaps } = await source.read(row, col, Math.min(SIDE, source.height), Math.min(SIDE, source.width));
    for (const band of bands.slice(0, source.bands >= 3 ? 3 : 1)) for (let j = 0; j < band.length; j += 7) if (!gaps?.[j]) values.push(band[j]);
  }
  values.sort((a, b) => a - b);
  const percentile = (share) => values[Math.round(share * (values.length - 1))] ?? 0;
  return { low: percentile(0.02), high: Math.max(percentile(0.98), percentile(0.02) + 1e-6) };
}

function colours({ planes, counts }, stretch) {
  for (const plane of planes) for (let i = 0; i < plane.length; i++) plane[i] /= counts[i];
  const data = new Uint8ClampedArray(4 * counts.length);
  const { low, high } = stretch ?? { low: 0, high: 255 };
  for (let i = 0; i < counts.length; i++) {
    for (let band = 0; band < 3; band++) data[4 * i + band] = (255 * ((planes[band] ?? planes[0])[i] - low)) / (high - low);
    data[4 * i + 3] = counts[i] ? 255 : 0;
  }
  return data;
}
