// What geotiff.js needs to be told, or mended in.

import { getDecoder } from "geotiff";

const TABLES = 347; // JPEGTables

/** The decoder of an image's blocks. */
export async function decoderOf(image) {
  const directory = image.fileDirectory;
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
  return getDecoder(directory.getValue("Compression") || 1, parameters);
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
