// PNGs are read to the last bit, JPEGs lose what would recolour them, broken files are told of, pixels have their true size.

import assert from "node:assert/strict";
import { test } from "node:test";
import zlib from "node:zlib";
import { factorOf, overview, picture, stretchOf } from "../read/display.js";
import { pixelAreas, placeOf } from "../read/ground.js";
import { plain } from "../read/jpeg.js";
import { openPng } from "../read/png.js";
import { crc32 } from "../save/bytes.js";

function chunk(kind, body) {
  const bytes = Buffer.concat([Buffer.from(kind, "latin1"), Buffer.from(body)]);
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(body.length);
  sum.writeUInt32BE(crc32(bytes));
  return Buffer.concat([length, bytes, sum]);
}

/** lines: each with the number of its filter before it. */
function png({ width, height, depth, colour, interlace = 0, extra = [], lines }) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([depth, colour, 0, 0, interlace], 8);
  const begin = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);
  return new Blob([begin, chunk("IHDR", header), ...extra, chunk("IDAT", zlib.deflateSync(Buffer.from(lines.flat()))), chunk("IEND", [])]);
}

test("all five filters are undone", async () => {
  const lines = [[0, 10, 20, 30], [1, 5, 5, 5], [2, 1, 1, 1], [3, 10, 10, 10], [4, 1, 2, 3]];
  const image = await openPng(png({ width: 3, height: 5, depth: 8, colour: 0, lines }), "x.png");
  const { bands, gaps } = await image.read(0, 0, 5, 3);
  // by hand: left + x; above + x; (left + above) / 2 + x; Paeth: above where that is nearest
  assert.deepEqual([...bands[0]], [10, 20, 30, 5, 10, 15, 6, 11, 16, 13, 22, 29, 14, 24, 32]);
  assert.equal(gaps, null);
});

test("16 bits and windows", async () => {
  const lines = [[0, 1, 0, 0, 2, 0, 3], [0, 255, 255, 0, 5, 0, 6]]; // grey
  const image = await openPng(png({ width: 3, height: 2, depth: 16, colour: 0, lines }), "x.png");
  assert.deepEqual([image.dtype, image.bands], ["uint16", 1]);
  assert.deepEqual([...(await image.read(0, 0, 2, 2)).bands[0]], [256, 2, 65535, 5]);
  assert.deepEqual([...(await image.read(1, 1, 1, 2)).bands[0]], [5, 6]);
});

test("greys of few bits are spread over a byte, numbers of a palette are not", async () => {
  const lines = [[0, 0b10110000]];
  const grey = await openPng(png({ width: 4, height: 1, depth: 1, colour: 0, lines }), "x.png");
  assert.deepEqual([...(await grey.read(0, 0, 1, 4)).bands[0]], [255, 0, 255, 255]);
  const palette = await openPng(png({ width: 2, height: 1, depth: 4, colour: 3, lines }), "x.png");
  assert.deepEqual([...(await palette.read(0, 0, 1, 2)).bands[0]], [11, 0]);
});

test("what is transparent has no data", async () => {
  const alpha = await openPng(png({ width: 2, height: 1, depth: 8, colour: 6, lines: [[0, 1, 2, 3, 0, 4, 5, 6, 9]] }), "x.png");
  assert.deepEqual([...(await alpha.read(0, 0, 1, 2)).gaps], [1, 0]);
  assert.deepEqual([alpha.bands, (await alpha.read(0, 0, 1, 2)).bands.length], [3, 3]);
  const key = [chunk("tRNS", [0, 4, 0, 5, 0, 6])];
  const keyed = await openPng(png({ width: 2, height: 1, depth: 8, colour: 2, extra: key, lines: [[0, 1, 2, 3, 4, 5, 6]] }), "x.png");
  assert.deepEqual([...(await keyed.read(0, 0, 1, 2)).gaps], [0, 1]);
});

test("broken PNGs are told of", async () => {
  const whole = png({ width: 40, height: 40, depth: 8, colour: 0, lines: Array.from({ length: 40 }, (_, i) => [0, ...Array.from({ length: 40 }, (_, j) => (i * j * 7919) % 251)]) });
  await assert.rejects(openPng(whole.slice(0, whole.size / 2), "x.png"), { sentence: "broken" });
  const short = png({ width: 40, height: 41, depth: 8, colour: 0, lines: Array.from({ length: 40 }, () => new Array(41).fill(0)) });
  await assert.rejects(openPng(short, "x.png"), { sentence: "broken" });
  await assert.rejects(openPng(png({ width: 4e9, height: 4e9, depth: 8, colour: 2, lines: [] }), "x.png"), { sentence: "tooLarge" });
  await assert.rejects(openPng(png({ width: 2, height: 2, depth: 8, colour: 2, interlace: 1, lines: [] }), "x.png"), { sentence: "interlaced" });
});

const JPEG = [0xff, 0xd8, 0xff, 0xe2, 0, 4, 7, 7, 0xff, 0xe0, 0, 4, 1, 2, 0xff, 0xc2, 0, 11, 8, 0, 5, 0, 9, 3, 0, 0, 0, 0xff, 0xda, 0, 2, 42, 0xff, 0xd9];

test("a JPEG loses its colour profile and keeps the rest", () => {
  const { width, height, bands, parts } = plain(Uint8Array.from(JPEG), "x.jpg");
  assert.deepEqual([width, height, bands], [9, 5, 3]);
  assert.deepEqual(parts.flatMap((part) => [...part]), JPEG.filter((_, i) => i < 2 || i > 7));
});

test("JPEGs that break off and those in CMYK are told of", () => {
  for (let end = 2; end < JPEG.length - 1; end++) assert.throws(() => plain(Uint8Array.from(JPEG.slice(0, end)), "x.jpg"), { sentence: "broken" });
  const cmyk = Uint8Array.from(JPEG);
  cmyk[23] = 4;
  assert.throws(() => plain(cmyk, "x.jpg"), { sentence: "otherColours" });
});

const keys = (...pairs) => [1, 1, 0, pairs.length / 2, ...Array.from({ length: pairs.length / 2 }, (_, i) => [pairs[2 * i], 0, 1, pairs[2 * i + 1]]).flat()];

test("pixels have the size of their grid, in metres or feet", () => {
  const tags = (unit) => ({ 33550: [2, 3, 0], 33922: [0, 0, 0, 100, 200, 0], 34735: keys(1024, 1, 3072, 2263, ...(unit ? [3076, unit] : [])) });
  const metres = placeOf(tags(9001));
  assert.deepEqual(metres.transform, [2, 0, 100, 0, -3, 200]);
  assert.deepEqual([...pixelAreas(metres, 2, 5)], [6, 6]);
  assert.ok(Math.abs(pixelAreas(placeOf(tags(9002)), 1, 1)[0] - 6 * 0.3048 ** 2) < 1e-12);
  assert.equal(pixelAreas(placeOf(tags(0)), 1, 1), null); // feet, if EPSG is asked: nobody knows here
});

test("the tie point of a pixel's middle is moved to its corner", () => {
  const place = placeOf({ 33550: [2, 2, 0], 33922: [0, 0, 0, 100, 200, 0], 34735: keys(1024, 1, 1025, 2) });
  assert.deepEqual(place.transform, [2, 0, 99, 0, -2, 201]);
});

test("degrees and Web Mercator become metres on the ellipsoid", () => {
  // the whole Earth: 510 065 621.7 km2 (WGS 84)
  const whole = pixelAreas({ transform: [360, 0, -180, 0, -1, 90], kind: "geographic" }, 180, 1);
  assert.ok(Math.abs(whole.reduce((sum, area) => sum + area, 0) / 510065621724089 - 1) < 1e-9);
  const mercator = pixelAreas({ transform: [1, 0, 1e6, 0, -1, 6446275.841017159], kind: "mercator" }, 1, 1)[0]; // 50 degrees north
  assert.ok(Math.abs(mercator / Math.cos((50 * Math.PI) / 180) ** 2 - 1) < 0.01);
});

test("a file without a transform has no place", () => assert.equal(placeOf({ 34735: keys(1024, 1) }), null));

/** A source of made pixels. */
const source = (width, height, bands, dtype = "uint8", gap = () => 0) => ({
  width, height, bands, dtype,
  read: async (row, col, h, w) => ({
    bands: Array.from({ length: bands }, (_, band) => Float32Array.from({ length: h * w }, (_, i) => 10 * (row + Math.floor(i / w)) + (col + (i % w)) + 100 * band)),
    gaps: Uint8Array.from({ length: h * w }, (_, i) => gap(row + Math.floor(i / w), col + (i % w))),
  }),
});

test("pictures are means of squares of pixels, without gaps", async () => {
  const { width, height, data } = await picture(source(5, 3, 4, "uint8", (row, col) => row < 2 && col < 2 && row + col > 0), [0, 0, 3, 5], 2, null);
  assert.deepEqual([width, height], [3, 2]);
  const reds = [0, 1, 2, 3, 4, 5].map((i) => data[4 * i]);
  assert.deepEqual(reds, [0, 8, 9, 20, 22, 24]); // rows 0 and 1, then row 2; halves round to the even: 7.5, 9
  assert.deepEqual([data[3], data[1]], [255, 100]);
});

test("an overview comes in strips that are the picture of the whole", async () => {
  const image = source(3000, 2500, 3);
  image.read = async (row, col, h, w) => ({ bands: [0, 1, 2].map((band) => new Uint8Array(h * w).map((_, i) => (row + Math.floor(i / w)) / 10 + band)), gaps: null });
  const whole = await picture(image, [0, 0, 2500, 3000], 7, null);
  const strips = [];
  for await (const strip of overview(image, 7, null)) strips.push(strip);
  assert.ok(strips.length > 1);
  const joined = new Uint8ClampedArray(whole.data.length);
  for (const strip of strips) joined.set(strip.data, 4 * strip.row * strip.width);
  assert.deepEqual(joined, whole.data);
});

test("an overview takes the file's own where it has one", async () => {
  const image = { ...source(1000, 600, 1), read: () => assert.fail("the large one was read"), smaller: [source(500, 300, 1), source(250, 150, 1), source(100, 60, 1)] };
  const strips = [];
  for await (const strip of overview(image, 8, null)) strips.push(strip);
  assert.deepEqual(strips.map(({ row, width, height }) => [row, width, height]), [[0, 125, 75]]);
  assert.deepEqual([strips[0].data[0], strips[0].data[3]], [6, 255]); // of 2 x 2 pixels: (0 + 1 + 10 + 11) / 4, to the even
});

test("what is no bytes is stretched between its percentiles", async () => {
  assert.equal(await stretchOf(source(300, 100, 1)), null);
  const { low, high } = await stretchOf(source(300, 100, 1, "uint16"));
  const all = (await source(300, 100, 1).read(0, 0, 100, 300)).bands[0].sort();
  assert.ok(Math.abs(low - all[0.02 * 30000]) < 25 && Math.abs(high - all[0.98 * 30000]) < 25);
  assert.equal(factorOf({ width: 300, height: 100 }, 100), 3);
});
