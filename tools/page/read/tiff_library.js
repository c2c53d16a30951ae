// What geotiff.js needs to be told, or mended in.

import { getDecoder } from "geotiff";

const TABLES = 347; // JPEGTables
const JPEG = 7; // a compression
const YCBCR = 6; // an interpretation of colours

/** The decoder of an image's blocks. */
export async function decoderOf(image) {
  const directory = image.fileDirectory;
  const [compression, colours] = [directory.getValue("Compression") || 1, directory.getValue("PhotometricInterpretation")];
  if (compression === JPEG && colours === YCBCR) return { decode: (block) => decodeJpeg(block, directory.getValue("JPEGTables")) };
  const parameters = {
    tileWidth: image.getTileWidth(),
    tileHeight: image.getTileHeight(),
    planarConfiguration: image.planarConfiguration,
    bitsPerSample: await directory.loadValue("BitsPerSample"),
    predictor: (await directory.loadValue("Predictor")) || 1,
    samplesPerPixel: image.getSamplesPerPixel(),
    JPEGTables: directory.hasTag(TABLES) ? await directory.loadValue(TABLES) : undefined,
    LercParameters: await directory.loadValue("LercParameters"),
  };
  return getDecoder(compression, parameters);
}

/** A block in JPEG's colours as R, G, B, by the browser, which smooths colours that are stored at half the size as GDAL does. */
async function decodeJpeg(block, tables) {
  const parts = tables ? [Uint8Array.from(tables).subarray(0, -2), new Uint8Array(block).subarray(2)] : [block];
  const bitmap = await createImageBitmap(new Blob(parts, { type: "image/jpeg" }), { colorSpaceConversion: "none" });
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const found = new Uint8Array((data.length / 4) * 3);
  for (let i = 0, j = 0; i < data.length; i += 4) [found[j++], found[j++], found[j++]] = [data[i], data[i + 1], data[i + 2]];
  return found.buffer;
}

/** Long lists of offsets are read as if all files were little-endian: give it swapped bytes where they are not. */
export async function mendOrder(image) {
  if (image.littleEndian) return;
  for (const list of image.fileDirectory.deferredArrays.values()) {
    const [bytes] = await list.source.fetch([{ offset: list.arrayOffset, length: list.itemSize * list.length }]);
    const swapped = new Uint8Array(bytes);
    for (let i = 0; i < swapped.length; i += list.itemSize) swapped.subarray(i, i + list.itemSize).reverse();
    list.source = { fetch: async ([{ offset, length }]) => [bytes.slice(offset - list.arrayOffset, offset - list.arrayOffset + length)] };
  }
}
