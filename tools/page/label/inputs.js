// From files' pixels to what the net reads, as tools/data/inputs.py has it: bands, gaps, pixel types.

import { PageError } from "../read/error.js";
import { mirrored } from "./windows.js";

const LIMITS = {
  uint8: [0, 255], int8: [-128, 127], uint16: [0, 65535], int16: [-32768, 32767],
  uint32: [0, 4294967295], int32: [-2147483648, 2147483647],
};
const WHOLE = ["uint16", "int16", "uint32", "int32", "uint64", "int64"];
const FLOATS = ["float16", "float32", "float64"];
const HEIGHTS = ["int16", "int32", ...FLOATS];

/** The modalities that the inputs are made of, each once. */
export const modalitiesOf = (inputs) => [...new Set(inputs.flatMap((input) => input.modalities))];

/** Throws PageError where an open file cannot be what the net was trained on. */
export function checkKinds(inputs, sources) {
  for (const input of inputs) {
    input.modalities.forEach((modality, i) => {
      const { name, bands, dtype } = sources[modality];
      const wanted = (input.file_bands ?? input.bands)[i];
      if (bands !== wanted) throw new PageError("otherBands", { name, bands, wanted, modality });
      const trained = input.dtypes?.[i];
      if (trained && !alike(trained, dtype, mayBeHeights(input, i))) throw new PageError("otherType", { name, dtype, trained, modality });
    });
  }
  checkSizes(Object.values(sources));
}

function checkSizes(sources) {
  const [first] = sources;
  for (const other of sources) {
    if (other.width !== first.width || other.height !== first.height) {
      throw new PageError("otherSize", { name: other.name, size: sizeOf(other), first: first.name, wanted: sizeOf(first) });
    }
    if (first.place && other.place && apart(first.place, other.place)) throw new PageError("otherPlace", { name: other.name, first: first.name });
  }
}

const sizeOf = ({ width, height }) => `${width} × ${height}`;

function apart(first, other) {
  const [a, b, , d, e] = first.transform;
  const near = Math.sqrt(Math.abs(a * e - b * d)) / 2;
  const shifted = first.transform.some((value, i) => Math.abs(value - other.transform[i]) > near);
  return shifted || (first.epsg && other.epsg && first.epsg !== other.epsg);
}

function mayBeHeights(input, i) {
  const first = input.bands.slice(0, i).reduce((sum, n) => sum + n, 0);
  const isShare = input.dtypes[i].startsWith("float") && Math.abs(input.fill[first]) <= 1;
  return (input.file_bands ?? input.bands)[i] === 1 && !isShare;
}

function alike(trained, given, heights) {
  const kinds = heights ? [WHOLE, FLOATS, HEIGHTS] : [WHOLE, FLOATS];
  return trained === given || kinds.some((kind) => kind.includes(trained) && kind.includes(given));
}

/**
 * What one input of the net reads: channels x pixels, float32.
 * images: by modality {bands: [typed array per band], gaps: bytes (1: no data) or null, dtype}.
 */
export function stack(input, images, pixels) {
  const channels = input.bands.reduce((sum, n) => sum + n, 0);
  const found = new Float32Array(channels * pixels);
  let channel = 0;
  input.modalities.forEach((modality, i) => {
    const { bands, gaps, dtype } = images[modality];
    const picks = input.picks ? input.picks[i] : [...bands.keys()];
    for (const pick of picks) {
      const plane = found.subarray(channel * pixels, (channel + 1) * pixels);
      plane.set(bands[pick]);
      if (gaps) fillGaps(plane, gaps, neutral(input.fill[channel], dtype));
      channel++;
    }
  });
  return found;
}

function fillGaps(plane, gaps, value) {
  for (let i = 0; i < plane.length; i++) if (gaps[i]) plane[i] = value;
}

/** What stands where there is no data: the fill, rounded to the pixel type, and NaN in floats. */
export function neutral(fill, dtype) {
  const limits = LIMITS[dtype];
  return limits ? Math.min(Math.max(roundHalfEven(fill), limits[0]), limits[1]) : NaN;
}

function roundHalfEven(x) {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 ? down + 1 : down;
}

/** Copy a window out of a slab (channels x rows x columns) into a batch, continued by its mirror image where the slab ends. */
export function cut(slab, [rows, columns], col, [height, width], target) {
  const channels = slab.length / (rows * columns);
  let place = 0;
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < height; y++) {
      const line = (c * rows + mirrored(y, rows)) * columns;
      if (col + width <= columns) {
        target.set(slab.subarray(line + col, line + col + width), place);
        place += width;
      } else {
        for (let x = 0; x < width; x++) target[place++] = slab[line + mirrored(col + x, columns)];
      }
    }
  }
}
