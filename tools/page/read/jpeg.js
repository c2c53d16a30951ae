// JPEG files, decoded by the browser, turned as their EXIF says; their colour profile is left out first, as GDAL leaves it.

import { PageError } from "./error.js";

const MOST = 2 ** 28; // pixels that browsers decode

/** An open JPEG: {name, width, height, bands, dtype, place: null, read}. Throws PageError where it is broken. */
export async function openJpeg(blob, name) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const { bands, parts, ...stored } = plain(bytes, name);
  if (stored.width * stored.height > MOST) throw new PageError("tooLarge", { name, size: `${stored.width} × ${stored.height}` });
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob(parts, { type: "image/jpeg" }), { colorSpaceConversion: "none" });
  } catch (error) {
    throw new PageError("broken", { name, reason: error.message });
  }
  const { width, height } = bitmap;
  return { name, width, height, bands, dtype: "uint8", place: null, read: bitmapReader(bitmap, bands) };
}

/** Size and bands of a JPEG as it is stored, and its bytes without the colour profile. Throws PageError. */
export function plain(bytes, name) {
  const broken = () => new PageError("broken", { name });
  const parts = [bytes.subarray(0, 2)];
  let frame = null;
  let place = 2;
  for (;;) {
    if (bytes[place] !== 0xff || place + 4 > bytes.length) throw broken();
    const marker = bytes[place + 1];
    const end = place + 2 + ((bytes[place + 2] << 8) | bytes[place + 3]);
    if (marker === 0xda) break;
    if (isFrame(marker)) frame = frameOf(bytes.subarray(place, end));
    if (marker !== 0xe2) parts.push(bytes.subarray(place, end));
    place = end;
  }
  if (!frame || !frame.width || !frame.height || !endsWell(bytes)) throw broken();
  if (![1, 3].includes(frame.bands)) throw new PageError("otherColours", { name });
  return { ...frame, parts: [...parts, bytes.subarray(place)] };
}

const isFrame = (marker) => marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);

const frameOf = (segment) => ({
  height: (segment[5] << 8) | segment[6],
  width: (segment[7] << 8) | segment[8],
  bands: segment[9],
});

/** Whether the end-of-image marker is there: one that breaks off is shown in grey from there on. */
function endsWell(bytes) {
  let end = bytes.length;
  while (end > 2 && bytes[end - 1] === 0) end--; // some cameras pad
  for (let i = end - 2; i >= Math.max(0, end - 4096); i--) if (bytes[i] === 0xff && bytes[i + 1] === 0xd9) return true;
  return false;
}

function bitmapReader(bitmap, bands) {
  return async (row, col, height, width) => {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, col, row, width, height, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    const planes = Array.from({ length: bands }, () => new Uint8Array(width * height));
    planes.forEach((plane, band) => plane.forEach((_, i) => (plane[i] = data[4 * i + band])));
    return { bands: planes, gaps: null };
  };
}
