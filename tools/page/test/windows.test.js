// Windows stand where tools/geo/windows.py puts them, and their tapers are its numbers.

import assert from "node:assert/strict";
import { test } from "node:test";
import { TAPERS, cover, mirrored, positions, strips, windowsOn } from "../label/windows.js";

test("the last window is pushed inward and no position stands twice", () => {
  assert.deepEqual(positions(90, 32, 16), [0, 16, 32, 48, 58]);
  assert.deepEqual(positions(64, 32, 16), [0, 16, 32]);
  assert.deepEqual(positions(20, 32, 16), [0]);
  assert.deepEqual(positions(33, 32, 32), [0, 1]);
});

test("tapers rise from near 0.01 to near 1, as the formulas say", () => {
  const near = (found, wanted) => found.forEach((value, i) => assert.ok(Math.abs(value - wanted[i]) < 1e-7));
  near(TAPERS.flat(4), [1, 1, 1, 1]);
  near(TAPERS.linear(4), [0.2575, 0.7525, 0.7525, 0.2575]);
  near(TAPERS.cosine(4), [0.25, 0.75, 0.75, 0.25].map((d) => 0.01 + 0.99 * Math.sin((Math.PI / 2) * d) ** 2));
  near(TAPERS.gaussian(4), [0.75, 0.25, 0.25, 0.75].map((away) => 0.01 + 0.99 * Math.exp(-0.5 * (away / 0.5) ** 2)));
});

test("the cover of flat windows counts them", () => {
  assert.deepEqual([...cover(10, TAPERS.flat(4), 3)], [1, 1, 1, 2, 1, 1, 2, 1, 1, 1]);
  assert.equal(cover(3, TAPERS.flat(4), 2).length, 4);
});

test("strips cover the width, begin at multiples of 256 and fit in the memory", () => {
  const found = strips(3000, { classes: [..."abcdef"], window: [128, 128], memory: 6 * 128 * 4 * 1024 });
  assert.deepEqual(found.map(([first]) => first % 256), found.map(() => 0));
  assert.equal(found[0][0], 0);
  assert.equal(found.at(-1)[1], 3000);
  found.slice(1).forEach(([first], i) => assert.equal(first, found[i][1]));
  assert.ok(found.every(([first, end]) => end - first <= 1024));
  assert.deepEqual(strips(500, { classes: [..."abcdef"], window: [128, 128], memory: 2 ** 28 }), [[0, 500]]);
});

test("an image goes on as its mirror image, without its edge twice", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6, 7].map((i) => mirrored(i, 3)), [0, 1, 2, 1, 0, 1, 2, 1]);
  assert.deepEqual([0, 1, 2].map((i) => mirrored(i, 1)), [0, 0, 0]);
});

test("windows suit an image: the fewest pixels cover it, as tools/inference/window_size.py has it", () => {
  const fitted = { grid: 32, multiple: 1, halo: 64, share: null };
  const net = { window: [512, 512], step: [384, 384], fitted };
  const of = (height, width, by = fitted) => windowsOn({ ...net, fitted: by }, [height, width]);
  assert.deepEqual(of(859, 1000), { ...net, window: [512, 448], step: [384, 320] }); // 2 x 512; 3 x 448 is less than 4 x 416 or 3 x 480
  assert.deepEqual(of(20, 300).window, [32, 320]);
  assert.deepEqual(of(859, 1000, { ...fitted, share: 0.5 }).step, of(859, 1000, { ...fitted, share: 0.5 }).window.map((n) => n / 2));
  assert.equal(windowsOn({ window: [64, 64], step: [32, 32], fitted: null }, [500, 500]).window[0], 64);
});
