// Opening a file by what it begins with.

import { PageError } from "./error.js";
import { openJpeg } from "./jpeg.js";
import { openPng } from "./png.js";
import { openTiff } from "./tiff.js";

/** An open image: {name, width, height, bands, dtype, place, read(row, col, height, width): {bands, gaps}}. Throws PageError. */
export async function open(file) {
  if (!file.size) throw new PageError("empty", { name: file.name });
  const begin = new Uint8Array(await firstBytes(file));
  const text = String.fromCharCode(...begin);
  if (text.startsWith("\x89PNG")) return openPng(file, file.name);
  if (text.startsWith("\xff\xd8")) return openJpeg(file, file.name);
  if (text.startsWith("II") || text.startsWith("MM")) return openTiff(file, file.name);
  throw new PageError("unknownKind", { name: file.name });
}

async function firstBytes(file) {
  try {
    return await file.slice(0, 8).arrayBuffer();
  } catch {
    throw new PageError("unreadable", { name: file.name }); // a folder, or a file that is gone
  }
}
