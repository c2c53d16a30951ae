// PNG files, read to the last bit: any depth, with gaps where they are transparent. Browsers' own pictures have 8 bits only.

import { PageError } from "./error.js";

const SAMPLES = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // by colour type; 3 is a palette, whose numbers are read
const MOST = 3 * 2 ** 29; // bytes of pixels that are held

/** An open PNG: {name, width, height, bands, dtype, place: null, read}. Throws PageError where it is broken. */
export async function openPng(blob, name) {
  const { header, transparent, data } = await chunks(blob, name);
  if (header.interlaced) throw new PageError("interlaced", { name });
  const bytes = header.width * header.height * header.bands * (header.depth > 8 ? 2 : 1);
  if (!(bytes <= MOST)) throw new PageError("tooLarge", { name, size: `${header.width} × ${header.height}` });
  const pixels = await unpack(data, header, name);
  const seen = header.bands - (header.colour >= 4 ? 1 : 0); // an alpha band is a mask
  return { ...header, name, bands: seen, place: null, read: reader(header, seen, pixels, transparent) };
}

async function chunks(blob, name) {
  const broken = new PageError("broken", { name });
  const found = { data: [] };
  let place = 8;
  for (;;) {
    const head = new DataView(await blob.slice(place, place + 8).arrayBuffer());
    if (head.byteLength < 8) throw broken;
    const [length, kind] = [head.getUint32(0), head.getUint32(4)];
    const body = blob.slice(place + 8, place + 8 + length);
    if (body.size < length) throw broken;
    if (kind === 0x49484452) found.header = headerOf(new DataView(await body.arrayBuffer()), broken);
    if (kind === 0x74524e53) found.transparent = new Uint8Array(await body.arrayBuffer());
    if (kind === 0x49444154) found.data.push(body);
    if (kind === 0x49454e44) break;
    place += length + 12;
  }
  if (!found.header || !found.data.length) throw broken;
  return found;
}

function headerOf(view, broken) {
  if (view.byteLength < 13) throw broken;
  const [width, height, depth, colour] = [view.getUint32(0), view.getUint32(4), view.getUint8(8), view.getUint8(9)];
  if (!width || !height || !(colour in SAMPLES) || ![1, 2, 4, 8, 16].includes(depth)) throw broken;
  const bands = SAMPLES[colour];
  return { width, height, depth, colour, bands, dtype: depth > 8 ? "uint16" : "uint8", interlaced: view.getUint8(12) !== 0 };
}

/** All samples, interleaved, line after line. */
async function unpack(parts, { width, height, depth, bands }, name) {
  const step = Math.max(1, (bands * depth) / 8);
  const stride = Math.ceil((width * bands * depth) / 8);
  const pixels = new (depth > 8 ? Uint16Array : Uint8Array)(width * height * bands);
  let [above, line, filled, row] = [new Uint8Array(stride), new Uint8Array(stride + 1), 0, 0];
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  try {
    for await (const chunk of piecesOf(stream)) {
      for (let at = 0; at < chunk.length && row < height; ) {
        const count = Math.min(stride + 1 - filled, chunk.length - at);
        line.set(chunk.subarray(at, at + count), filled);
        [at, filled] = [at + count, filled + count];
        if (filled <= stride) break;
        unfilter(line, above, step);
        above.set(line.subarray(1));
        samples(above, pixels, row++ * width * bands, width * bands, depth);
        filled = 0;
      }
    }
  } catch (error) {
    throw new PageError("broken", { name, reason: error.message });
  }
  if (row < height) throw new PageError("broken", { name });
  return pixels;
}

async function* piecesOf(stream) {
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

/** Undo a line's filter, whose number stands before it. above: the line above, unfiltered. step: bytes of a pixel. */
function unfilter(line, above, step) {
  const kind = line[0];
  for (let i = 1; kind && i < line.length; i++) {
    const left = i > step ? line[i - step] : 0;
    const up = above[i - 1];
    if (kind === 1) line[i] += left;
    else if (kind === 2) line[i] += up;
    else if (kind === 3) line[i] += (left + up) >> 1;
    else if (kind === 4) line[i] += paeth(left, up, i > step ? above[i - 1 - step] : 0);
    else throw new Error("unknown filter");
  }
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function samples(bytes, pixels, first, count, depth) {
  if (depth === 8) pixels.set(bytes, first);
  else if (depth === 16) for (let i = 0; i < count; i++) pixels[first + i] = (bytes[2 * i] << 8) | bytes[2 * i + 1];
  else for (let i = 0; i < count; i++) pixels[first + i] = (bytes[(i * depth) >> 3] >> (8 - depth - ((i * depth) & 7))) & ((1 << depth) - 1);
}

function reader({ width, bands, colour, depth }, seen, pixels, transparent) {
  const none = colour === 0 || colour === 2 ? keyOf(transparent, bands) : null;
  const stretch = colour === 0 && depth < 8 ? 255 / ((1 << depth) - 1) : 1; // greys of few bits, as GDAL gives them
  return async (row, col, height, columns) => {
    const planes = Array.from({ length: seen }, () => new pixels.constructor(height * columns));
    const gaps = colour >= 4 || none ? new Uint8Array(height * columns) : null;
    for (let y = 0; y < height; y++) {
      let source = ((row + y) * width + col) * bands;
      for (let i = y * columns; i < (y + 1) * columns; i++, source += bands) {
        for (let band = 0; band < seen; band++) planes[band][i] = pixels[source + band] * stretch;
        if (gaps) gaps[i] = none ? none.every((value, band) => pixels[source + band] === value) : pixels[source + bands - 1] === 0;
      }
    }
    return { bands: planes, gaps };
  };
}

/** The colour that stands for no data, by tRNS. */
function keyOf(bytes, bands) {
  if (!bytes || bytes.length < 2 * bands) return null;
  return Array.from({ length: bands }, (_, i) => (bytes[2 * i] << 8) | bytes[2 * i + 1]);
}
