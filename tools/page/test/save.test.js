// Saved files hold the map: outlines drawn again are it, tables count it, checksums are PNG's.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inflateSync } from "node:zlib";
import { crc32, deflate, noLabel } from "../save/bytes.js";
import { regions, rings } from "../save/regions.js";
import { save } from "../save/save.js";
import { classTable } from "../save/table.js";

const NET = { name: "net", iteration: 7, classes: ["a", 'b "x", y'], palette: { 0: [255, 0, 1], 1: [0, 16, 0], 2: [0, 0, 0] } };

/** Labels by a formula, with specks, holes and corners that touch. */
function made(width, height, seed) {
  return Uint8Array.from({ length: width * height }, (_, i) => {
    const value = Math.sin(seed + i * 12.9898) * 43758.5453;
    return value - Math.floor(value) < 0.5 ? 0 : (value - Math.floor(value)) < 0.9 ? 1 : 255;
  });
}

/** Whether the middle of a pixel is inside a ring: a ray to the left crosses it an odd number of times. */
function inside(ring, x, y) {
  let odd = false;
  for (let i = 1; i < ring.length; i++) {
    const [[x0, y0], [x1, y1]] = [ring[i - 1], ring[i]];
    if (x0 === x1 && Math.min(y0, y1) < y + 0.5 && Math.max(y0, y1) > y + 0.5 && x0 < x + 0.5) odd = !odd;
  }
  return odd;
}

for (const seed of [1, 2, 3]) {
  test(`rings drawn again are the regions (${seed})`, () => {
    const [width, height] = [13, 11];
    const { numbers, count } = regions(made(width, height, seed), width, height);
    const found = [...rings(numbers, width, height)];
    for (let number = 0; number < count; number++) {
      const own = found.filter((ring) => ring.number === number);
      assert.equal(own.filter((ring) => ring.area > 0).length, 1, "one outline each");
      assert.equal(own.reduce((sum, ring) => sum + ring.area, 0), numbers.filter((n) => n === number).length);
      for (let i = 0; i < numbers.length; i++) {
        const crossings = own.filter(({ ring }) => inside(ring, i % width, Math.floor(i / width))).length;
        assert.equal(crossings % 2 === 1, numbers[i] === number);
      }
    }
    for (const { ring } of found) {
      assert.deepEqual(ring[0], ring.at(-1));
      const corners = ring.slice(1).map(String);
      assert.equal(new Set(corners).size, corners.length, "no ring touches itself");
    }
  });
}

test("pixels that touch at a corner only are two regions", () => {
  assert.deepEqual([...regions(Uint8Array.of(0, 1, 1, 0), 2, 2).numbers], [0, 1, 2, 3]);
  assert.equal(regions(Uint8Array.of(0, 0, 0, 0, 255, 0, 0, 0, 0), 3, 3).count, 1);
});

const map = { name: "x.tif", width: 3, height: 2, labels: Uint8Array.of(0, 0, 1, 255, 1, 1), confidence: Uint8Array.of(90, 80, 60, 255, 50, 40), place: null, areas: [2, 3] };

test("the table counts pixels, areas and confidence", async () => {
  const [first, second] = classTable(map, NET);
  assert.deepEqual([first.pixels, first.share, first.area, first.confidence], [2, 0.4, 4, 0.85]);
  assert.deepEqual([second.pixels, second.share, second.area, second.confidence], [3, 0.6, 8, 0.5]);
  const lines = (await (await save("table", map, NET)).text()).split("\r\n");
  assert.equal(lines[1], "0,a,#ff0001,2,0.400000,4.000,0.8500");
  assert.equal(lines[2], '1,"b ""x"", y",#001000,3,0.600000,8.000,0.5000');
});

test("small polygons and holes are left out", async () => {
  const labels = Uint8Array.of(0, 0, 0, 0, 1, 0, 0, 0, 0);
  const square = { ...map, width: 3, height: 3, labels, confidence: new Uint8Array(9).fill(70), areas: null };
  const read = async (least) => JSON.parse(await (await save("polygons", square, NET, { least })).text()).features;
  const all = await read(0);
  assert.deepEqual(all.map(({ properties }) => [properties.class, properties.pixels, properties.confidence]), [["a", 8, 0.7], ['b "x", y', 1, 0.7]]);
  assert.deepEqual(all[0].geometry.coordinates.map((ring) => ring.length), [5, 5]);
  assert.deepEqual(all[0].geometry.coordinates[0], [[0, 0], [0, -3], [3, -3], [3, 0], [0, 0]]);
  const large = await read(2);
  assert.deepEqual(large.map(({ properties }) => properties.pixels), [9]);
});

test("what is deflated inflates, and the checksum is the known one", async () => {
  const pieces = [Uint8Array.of(1, 2, 3), new Uint8Array(100000).fill(9)];
  assert.deepEqual(new Uint8Array(inflateSync(await deflate(pieces))), new Uint8Array([...pieces[0], ...pieces[1]]));
  assert.equal(crc32(new TextEncoder().encode("1234"), new TextEncoder().encode("56789")), 0xcbf43926);
});

test("the label of no data is the palette's last, or 255", () => {
  assert.equal(noLabel(NET), 2);
  assert.equal(noLabel({ ...NET, palette: { 0: [0, 0, 0], 1: [1, 1, 1] } }), 255);
});
