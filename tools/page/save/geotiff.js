// One band of bytes as a GeoTIFF: tiled, compressed, with the place of the image that it was made of.

import { deflate } from "./bytes.js";

const TILE = 256;
const KINDS = { ascii: 2, short: 3, long: 4, double: 12 };
const SIZES = { ascii: 1, short: 2, long: 4, double: 8 };

/**
 * band: {width, height, pixels}. place: as read/ground.js has it, or null. options: {colours: {value: [r, g, b]} or null,
 * nodata: a number, metadata: {name: text}}.
 */
export async function writeGeoTiff({ width, height, pixels }, place, { colours, nodata, metadata }) {
  const tiles = [];
  for (let row = 0; row < height; row += TILE) {
    for (let col = 0; col < width; col += TILE) tiles.push(await deflate(tileOf(pixels, width, height, row, col)));
  }
  const entries = [
    [256, "long", [width]], [257, "long", [height]], [258, "short", [8]], [259, "short", [8]],
    [262, "short", [colours ? 3 : 1]], [277, "short", [1]], [284, "short", [1]], [305, "ascii", "orthonets, page"],
    ...(colours ? [[320, "short", colourMap(colours)]] : []), [322, "short", [TILE]], [323, "short", [TILE]],
    [324, "long", tiles.map(() => 0)], [325, "long", tiles.map((tile) => tile.length)], [339, "short", [1]],
    ...placed(place), [42112, "ascii", asXml(metadata)], [42113, "ascii", String(nodata)],
  ];
  return assemble(entries, tiles);
}

function tileOf(pixels, width, height, row, col) {
  const tile = new Uint8Array(TILE * TILE);
  const end = Math.min(col + TILE, width);
  for (let y = 0; y < Math.min(TILE, height - row); y++) tile.set(pixels.subarray((row + y) * width + col, (row + y) * width + end), y * TILE);
  return tile;
}

function colourMap(colours) {
  const map = new Array(3 * 256).fill(0);
  for (const [value, colour] of Object.entries(colours)) colour.forEach((part, i) => (map[256 * i + Number(value)] = 257 * part));
  return map;
}

const PLACE_KINDS = { 33550: "double", 33922: "double", 34264: "double", 34735: "short", 34736: "double", 34737: "ascii" };

const placed = (place) => Object.entries(place?.tags ?? {}).map(([tag, values]) => [Number(tag), PLACE_KINDS[tag], values]);

function asXml(metadata) {
  const escape = (text) => String(text).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const items = Object.entries(metadata).map(([name, text]) => `<Item name="${escape(name)}">${escape(text)}</Item>`);
  return `<GDALMetadata>${items.join("")}</GDALMetadata>`;
}

/** Header, directory, the values that do not fit into it, tiles: in this order. */
function assemble(entries, tiles) {
  const values = entries.map(([, kind, list]) => (kind === "ascii" ? text(list) : list));
  const bytes = entries.map(([, kind], i) => SIZES[kind] * values[i].length);
  let end = 8 + 2 + 12 * entries.length + 4;
  const places = bytes.map((size) => (size <= 4 ? null : (end += size + (size & 1)) - size - (size & 1)));
  const offsets = entries.findIndex(([tag]) => tag === 324);
  let next = end;
  values[offsets] = tiles.map((tile) => (next += tile.length) - tile.length);
  const view = new DataView(new ArrayBuffer(end));
  [0x4949, 42].forEach((value, i) => view.setUint16(2 * i, value, true));
  view.setUint32(4, 8, true);
  view.setUint16(8, entries.length, true);
  entries.forEach(([tag, kind], i) => {
    const at = 10 + 12 * i;
    view.setUint16(at, tag, true);
    view.setUint16(at + 2, KINDS[kind], true);
    view.setUint32(at + 4, values[i].length, true);
    if (places[i] !== null) view.setUint32(at + 8, places[i], true);
    put(view, places[i] ?? at + 8, kind, values[i]);
  });
  return new Blob([view.buffer, ...tiles], { type: "image/tiff" });
}

const text = (value) => [...new TextEncoder().encode(`${String(value).replace(/\0+$/, "")}\0`)];

function put(view, at, kind, values) {
  const set = { ascii: "setUint8", short: "setUint16", long: "setUint32", double: "setFloat64" }[kind];
  values.forEach((value, i) => view[set](at + SIZES[kind] * i, value, true));
}
