// Images to look at: three bands as colours, reduced by averaging, stretched unless they are bytes.

const AT_ONCE = 2 ** 22; // pixels that are read at a time

/**
 * A rectangle of an image as {width, height, data}, RGBA bytes, each pixel the mean of `factor` x `factor`.
 * stretch: {low, high} for what is no bytes; gaps are transparent.
 */
export async function picture(source, [row, col, height, width], factor, stretch) {
  const size = [Math.ceil(height / factor), Math.ceil(width / factor)];
  const means = await averaged(source, [row, col, height, width], factor, size);
  return { height: size[0], width: size[1], data: colours(means, stretch) };
}

/** The whole image, no side longer than `most`: {picture, factor, stretch}. */
export async function overview(source, most) {
  const factor = Math.max(1, Math.ceil(Math.max(source.width, source.height) / most));
  const size = [Math.ceil(source.height / factor), Math.ceil(source.width / factor)];
  const [small, scale] = smallerOf(source, factor);
  const means = await averaged(small, [0, 0, small.height, small.width], scale, size);
  const stretch = source.dtype === "uint8" ? null : stretchOf(means);
  return { picture: { height: size[0], width: size[1], data: colours(means, stretch) }, factor, stretch };
}

/** The file's own overview that is nearest above what is wanted, and the factor that is left to be reduced. */
function smallerOf(source, factor) {
  const fits = (source.smaller ?? []).filter((overview) => source.width / overview.width <= factor);
  const best = fits.sort((one, other) => one.width - other.width)[0];
  return best ? [best, (factor * best.width) / source.width] : [source, factor];
}

/** Means of the first three bands, or of the one: [planes], and the share that is no gap. */
async function averaged(source, [row, col, height, width], factor, [rows, columns]) {
  const bands = source.bands >= 3 ? 3 : 1;
  const means = { planes: Array.from({ length: bands }, () => new Float32Array(rows * columns)), counts: new Uint32Array(rows * columns) };
  const step = Math.max(1, Math.floor(AT_ONCE / width / Math.max(1, source.bands / 3)));
  for (let y = 0; y < height; y += step) {
    const part = await source.read(row + y, col, Math.min(step, height - y), width);
    addUp(means, part, { y, width, factor, rows, columns });
  }
  for (const plane of means.planes) for (let i = 0; i < plane.length; i++) plane[i] /= means.counts[i];
  return means;
}

function addUp({ planes, counts }, { bands, gaps }, { y, width, factor, rows, columns }) {
  const height = bands[0].length / width;
  for (let r = 0; r < height; r++) {
    const line = Math.min(rows - 1, Math.floor((y + r) / factor)) * columns;
    for (let x = 0; x < width; x++) {
      const source = r * width + x;
      if (gaps?.[source]) continue;
      const target = line + Math.min(columns - 1, Math.floor(x / factor));
      counts[target]++;
      for (let band = 0; band < planes.length; band++) planes[band][target] += bands[band][source];
    }
  }
}

/** The 2nd and 98th percentile of all bands together. */
function stretchOf({ planes }) {
  const values = planes.flatMap((plane) => sampled(plane)).sort((a, b) => a - b);
  if (!values.length) return { low: 0, high: 1 };
  const at = (share) => values[Math.round(share * (values.length - 1))];
  return { low: at(0.02), high: Math.max(at(0.98), at(0.02) + 1e-6) };
}

function sampled(plane) {
  const step = Math.max(1, Math.floor(plane.length / 50000));
  const found = [];
  for (let i = 0; i < plane.length; i += step) if (Number.isFinite(plane[i])) found.push(plane[i]);
  return found;
}

function colours({ planes, counts }, stretch) {
  const data = new Uint8ClampedArray(4 * counts.length);
  const { low, high } = stretch ?? { low: 0, high: 255 };
  for (let i = 0; i < counts.length; i++) {
    for (let band = 0; band < 3; band++) data[4 * i + band] = (255 * ((planes[band] ?? planes[0])[i] - low)) / (high - low);
    data[4 * i + 3] = counts[i] ? 255 : 0;
  }
  return data;
}
