// GeoTIFF files by geotiff.js: any bands and pixel types, tiled or not, read window by window.

import { fromBlob } from "geotiff";
import { decoderOf, mendOrder } from "./tiff_library.js";
import { PageError } from "./error.js";
import { placeOf } from "./ground.js";

const CACHE = 192 * 2 ** 20; // bytes of decoded blocks that are kept
const MOST = 2 ** 30; // pixels of an image, and bytes of a block
const TAGS = [33550, 33922, 34264, 34735, 34736, 34737];
const BRIGHTNESSES = [0, 255, 65535];
const FORMATS = { 1: "uint", 2: "int", 3: "float" };

/** An open GeoTIFF: {name, width, height, bands, dtype, place, read, smaller}. Throws PageError where it is broken. */
export async function openTiff(blob, name) {
  try {
    const tiff = await fromBlob(blob);
    const image = await tiff.getImage(0);
    const about = await aboutOf(image, name);
    const { mask, overviews } = await others(tiff, image);
    const file = { image, mask, gap: await gapOf(image, about), cache: new Cache(), ...about };
    await windowOf(file, 0, 0, 1, 1); // so that what cannot be decoded is told now
    return {
      ...about,
      read: (...window) => told(name, () => windowOf(file, ...window)),
      smaller: overviews.map((overview) => smaller(file, overview, name)),
    };
  } catch (error) {
    throw asSentence(error, name);
  }
}

async function told(name, work) {
  try {
    return await work();
  } catch (error) {
    throw asSentence(error, name);
  }
}

function asSentence(error, name) {
  if (error instanceof PageError) return error;
  const compression = /Unknown compression method identifier: (\d+)/.exec(error.message);
  return compression ? new PageError("compression", { name, number: compression[1] }) : new PageError("broken", { name, reason: error.message });
}

async function aboutOf(image, name) {
  const [width, height, bands] = [image.getWidth(), image.getHeight(), image.getSamplesPerPixel()];
  if (!(width > 0 && height > 0 && bands > 0)) throw new PageError("broken", { name });
  const block = image.getTileWidth() * image.getTileHeight() * image.getBytesPerPixel();
  if (width * height > MOST || block > MOST) throw new PageError("tooLarge", { name, size: `${width} × ${height}` });
  const [kind, bits] = [FORMATS[image.getSampleFormat()], image.getBitsPerSample()];
  if (!kind) throw new PageError("otherNumbers", { name });
  await mendOrder(image);
  const metadata = String((await image.fileDirectory.loadValue("GDAL_METADATA")) ?? "");
  if (/role="(scale|offset)"/.test(metadata)) throw new PageError("scaled", { name });
  const tags = {};
  for (const tag of TAGS) if (image.fileDirectory.hasTag(tag)) tags[tag] = await image.fileDirectory.loadValue(tag);
  const dtype = `${kind}${Math.max(8, 2 ** Math.ceil(Math.log2(bits)))}`;
  return { name, width, height, bands, dtype, place: placeOf(tags) };
}

/** The image's mask, where it has one, and its overviews. */
async function others(tiff, first) {
  const found = { mask: null, overviews: [] };
  const count = Math.min(await tiff.getImageCount(), 32);
  for (let i = 1; i < count; i++) {
    const image = await tiff.getImage(i);
    const kind = (await image.fileDirectory.loadValue("NewSubfileType")) ?? 0;
    const same = image.getWidth() === first.getWidth() && image.getHeight() === first.getHeight();
    if (kind === 4 && same) found.mask = image;
    if (kind === 1 && image.getSamplesPerPixel() === first.getSamplesPerPixel()) found.overviews.push(image);
  }
  return found;
}

/** Which pixels have no data, as GDAL sees it: {value} of any band, {alpha: band}, or null; floats also what is not finite. */
async function gapOf(image, { bands, dtype }) {
  const text = await image.fileDirectory.loadValue("GDAL_NODATA");
  const value = text === undefined ? NaN : Number.parseFloat(String(text).replaceAll("\0", ""));
  const extra = await image.fileDirectory.loadValue("ExtraSamples");
  const last = extra === undefined ? 0 : (extra.at?.(-1) ?? extra);
  const alpha = [2, 4].includes(bands) && [1, 2].includes(last) && ["uint8", "uint16"].includes(dtype);
  if (!Number.isNaN(value)) return { value: dtype === "float32" ? Math.fround(value) : value };
  return alpha ? { alpha: bands - 1 } : null;
}

/** The last decoded blocks, as many as fit; the newest one always. */
class Cache {
  #blocks = new Map();
  #bytes = 0;

  get(key, make) {
    const known = this.#blocks.get(key);
    if (known) {
      this.#blocks.delete(key);
      this.#blocks.set(key, known);
      return known.promise;
    }
    const entry = { bytes: 0, promise: make() };
    this.#blocks.set(key, entry);
    entry.promise.then((data) => this.#weigh(key, entry, data.byteLength), () => this.#blocks.delete(key));
    return entry.promise;
  }

  #weigh(key, entry, bytes) {
    entry.bytes = bytes;
    this.#bytes += bytes;
    for (const [old, { bytes: size }] of this.#blocks) {
      if (this.#bytes <= CACHE || old === key || !size) break;
      this.#blocks.delete(old);
      this.#bytes -= size;
    }
  }
}

async function windowOf(file, row, col, height, width) {
  const window = [row, col, height, width];
  const bands = await planes(file, file.image, window, 0);
  const mask = file.mask && (await planes({ ...file, bands: 1 }, file.mask, window, 1))[0];
  return { bands, gaps: gapsOf(file, bands, mask) };
}

function gapsOf(file, bands, mask) {
  const floats = file.dtype.startsWith("float");
  if (!mask && !file.gap && !floats) return null;
  const gaps = new Uint8Array(bands[0].length);
  if (mask) for (let i = 0; i < gaps.length; i++) gaps[i] = mask[i] === 0;
  else if (file.gap?.alpha !== undefined) for (let i = 0; i < gaps.length; i++) gaps[i] = bands[file.gap.alpha][i] === 0;
  if (file.gap?.value !== undefined) addEmpty(gaps, bands, file.gap.value);
  if (floats) for (const band of bands) for (let i = 0; i < gaps.length; i++) if (!Number.isFinite(band[i])) gaps[i] = 1;
  return gaps;
}

/** A value that pictures also hold is no data where all bands have it, any other one where one band does (tools/geo/gaps.py). */
function addEmpty(gaps, bands, value) {
  const wanted = BRIGHTNESSES.includes(value) ? bands.length : 1;
  for (let i = 0; i < gaps.length; i++) {
    let found = 0;
    for (const band of bands) found += band[i] === value;
    if (found >= wanted) gaps[i] = 1;
  }
}

/** The bands of a window, a typed array each, put together from blocks. */
async function planes(file, image, [row, col, height, width], number) {
  const found = Array.from({ length: file.bands }, (_, band) => image.getArrayForSample(band, height * width));
  const [blockWidth, blockHeight] = [image.getTileWidth(), image.getTileHeight()];
  const decoder = await decoderOf(image);
  for (let y = Math.floor(row / blockHeight); y * blockHeight < row + height; y++) {
    for (let x = Math.floor(col / blockWidth); x * blockWidth < col + width; x++) {
      for (let band = 0; band < file.bands; band++) {
        const sample = image.planarConfiguration === 2 ? band : 0;
        const data = await file.cache.get(`${number}/${x}/${y}/${sample}`, async () => (await image.getTileOrStrip(x, y, sample, decoder)).data);
        copy(image, data, { x: x * blockWidth, y: y * blockHeight, width: blockWidth, height: image.getBlockHeight(y) }, band, found[band], [row, col, height, width]);
      }
    }
  }
  return found;
}

function copy(image, data, block, band, target, [row, col, height, width]) {
  const apart = image.planarConfiguration === 2;
  const step = apart ? 1 : image.getSamplesPerPixel();
  const values = valuesOf(image, data, band);
  const [top, bottom] = [Math.max(row, block.y), Math.min(row + height, block.y + block.height)];
  const [left, right] = [Math.max(col, block.x), Math.min(col + width, block.x + block.width)];
  if (values.length < block.width * block.height * step) throw new Error("a block is cut off");
  for (let y = top; y < bottom; y++) {
    let source = ((y - block.y) * block.width + left - block.x) * step + (apart ? 0 : band);
    let place = (y - row) * width + left - col;
    for (let x = left; x < right; x++, source += step) target[place++] = values[source];
  }
}

/** A block's samples as a typed array, in this machine's order of bytes. */
function valuesOf(image, data, band) {
  const like = image.getArrayForSample(band, 0);
  const bits = image.getBitsPerSample(band);
  const size = bits === 16 && image.getSampleFormat(band) === 3 ? 2 : like.BYTES_PER_ELEMENT;
  if (image.littleEndian && size === like.BYTES_PER_ELEMENT) return new like.constructor(data, 0, Math.floor(data.byteLength / size));
  const [view, read] = [new DataView(data), image.getReaderForSample(band)];
  return like.constructor.from({ length: Math.floor(data.byteLength / size) }, (_, i) => read.call(view, i * size, image.littleEndian));
}

function smaller(file, image, name) {
  const [width, height] = [image.getWidth(), image.getHeight()];
  const own = { ...file, image, mask: null, cache: new Cache(), width, height };
  return { width, height, read: (...window) => told(name, () => windowOf(own, ...window)) };
}
