// The map in its colours, as a PNG with a palette; what has no data is transparent.

import { crc32, deflate, noLabel } from "./bytes.js";

/** map: {width, height, labels (255: no data)}. */
export async function writePng({ width, height, labels }, net) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 3], 8);
  const palette = new Uint8Array(3 * 256);
  for (const [label, colour] of Object.entries(net.palette)) palette.set(colour, 3 * label);
  const opaque = new Uint8Array(256).fill(255);
  opaque[noLabel(net)] = 0;
  const pixels = await deflate(lines(width, height, labels, noLabel(net)));
  const parts = [chunk("IHDR", header), chunk("PLTE", palette), chunk("tRNS", opaque), chunk("IDAT", pixels), chunk("IEND", new Uint8Array(0))];
  return new Blob([new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]), ...parts.flat()], { type: "image/png" });
}

/** The rows, each after the number of its filter, many at a time. */
function* lines(width, height, labels, none) {
  const most = Math.max(1, Math.floor(2 ** 20 / width));
  for (let row = 0; row < height; row += most) {
    const count = Math.min(most, height - row);
    const found = new Uint8Array(count * (width + 1));
    for (let y = 0; y < count; y++) found.set(labels.subarray((row + y) * width, (row + y + 1) * width), y * (width + 1) + 1);
    yield found.map((label) => (label === 255 ? none : label));
  }
}

function chunk(kind, body) {
  const name = new TextEncoder().encode(kind);
  const ends = new DataView(new ArrayBuffer(8));
  ends.setUint32(0, body.length);
  ends.setUint32(4, crc32(name, body));
  return [new Uint8Array(ends.buffer, 0, 4), name, body, new Uint8Array(ends.buffer, 4, 4)];
}
