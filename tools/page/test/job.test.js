// Labelling by windows gives, piece by piece, what summing up all of them at once gives, whatever batches and strips.

import assert from "node:assert/strict";
import { test } from "node:test";
import { NO_DATA } from "../label/blend.js";
import { countWindows, label } from "../label/job.js";
import { TAPERS, mirrored, positions, strips } from "../label/windows.js";

const NET = { classes: ["a", "b", "c"], window: [8, 12], step: [4, 5], blend: "cosine", threshold: null, memory: 2 ** 28 };

/** Made probabilities of a window: they depend on its pixels, in no order that blending could hide. */
function probabilities(pixels) {
  const found = new Float32Array(3 * pixels.length);
  pixels.forEach((value, i) => {
    const parts = [1 + Math.sin(value), 1 + Math.cos(3 * value + i), 1 + Math.sin(2 * value - i)];
    const sum = parts.reduce((total, part) => total + part, 0.1);
    parts.forEach((part, c) => (found[c * pixels.length + i] = part / sum));
  });
  return found;
}

const pool = (batch, ahead = 3) => ({
  batch,
  ahead,
  run: async ([pixels], count) => {
    const area = NET.window[0] * NET.window[1];
    assert.equal(pixels.length, count * area);
    const found = new Float32Array(3 * pixels.length);
    for (let n = 0; n < count; n++) found.set(probabilities(pixels.subarray(n * area, (n + 1) * area)), n * 3 * area);
    return found;
  },
});

const valueAt = (row, col) => (row * 31 + col * 17) % 23;

function read(shape, valid = () => 1) {
  return async (row, col, height, width) => {
    assert.ok(row >= 0 && col >= 0 && row + height <= shape[0] && col + width <= shape[1]);
    const at = (i) => [row + Math.floor(i / width), col + (i % width)];
    return {
      inputs: [Float32Array.from({ length: height * width }, (_, i) => valueAt(...at(i)))],
      valid: Uint8Array.from({ length: height * width }, (_, i) => valid(...at(i))),
    };
  };
}

/** All windows at once, in float64. */
function plainly([height, width], net) {
  const sums = Array.from({ length: height * width }, () => [0, 0, 0]);
  const [h, w] = net.window;
  const tapers = net.window.map(TAPERS[net.blend]);
  for (const row of positions(height, h, net.step[0])) {
    for (const col of positions(width, w, net.step[1])) {
      const pixels = Float32Array.from({ length: h * w }, (_, i) => valueAt(mirrored(row + Math.floor(i / w), height), mirrored(col + (i % w), width)));
      const found = probabilities(pixels);
      for (let y = 0; y < Math.min(h, height - row); y++) {
        for (let x = 0; x < Math.min(w, width - col); x++) {
          for (let c = 0; c < 3; c++) sums[(row + y) * width + col + x][c] += found[c * h * w + y * w + x] * tapers[0][y] * tapers[1][x];
        }
      }
    }
  }
  return sums.map((sum) => sum.indexOf(Math.max(...sum)));
}

async function labelled(shape, net, workers, source = read(shape)) {
  const map = new Uint8Array(shape[0] * shape[1]).fill(77);
  let windows = 0;
  for await (const piece of label(net, shape, source, workers)) {
    windows += piece.windows;
    for (let i = 0; i < piece.labels.length; i++) {
      const pixel = (piece.row + Math.floor(i / piece.width)) * shape[1] + piece.col + (i % piece.width);
      assert.equal(map[pixel], 77, "pieces do not overlap");
      map[pixel] = piece.labels[i];
    }
  }
  assert.equal(windows, countWindows(shape, net));
  return [...map];
}

for (const shape of [[8, 12], [21, 37], [5, 40], [30, 7], [3, 4]]) {
  for (const batch of [1, 3, 50]) {
    test(`an image of ${shape} in batches of ${batch}`, async () => {
      assert.deepEqual(await labelled(shape, NET, pool(batch)), plainly(shape, NET));
    });
  }
}

test("strips of columns give the same map", async () => {
  const [shape, narrow] = [[17, 700], { ...NET, memory: 1 }];
  assert.equal(strips(shape[1], narrow).length, 3);
  assert.deepEqual(await labelled(shape, narrow, pool(4)), plainly(shape, NET));
});

test("pixels without data get no label, and count for none", async () => {
  const shape = [13, 20];
  const valid = (row, col) => (row > 3 && row < 7 && col > 9 ? 0 : 1);
  const found = await labelled(shape, NET, pool(2), read(shape, valid));
  const wanted = plainly(shape, NET).map((label, i) => (valid(Math.floor(i / 20), i % 20) ? label : NO_DATA));
  assert.deepEqual(found, wanted);
});

test("of two classes the second is chosen above the threshold", async () => {
  const net = { classes: ["no", "yes"], window: [4, 4], step: [4, 4], blend: "flat", threshold: 0.3, memory: 2 ** 28 };
  const workers = { batch: 1, ahead: 1, run: async () => Float32Array.from({ length: 32 }, (_, i) => (i < 16 ? 0.65 : i % 2 ? 0.35 : 0.25)) };
  for await (const piece of label(net, [4, 4], read([4, 4]), workers)) {
    assert.deepEqual([...piece.labels], Array.from({ length: 16 }, (_, i) => i % 2));
    assert.deepEqual([...piece.confidence.subarray(0, 2)], [65, 35]);
  }
});

test("a net that gives no numbers is told of", async () => {
  const workers = { ...pool(1), run: async () => new Float32Array(3 * 96).fill(NaN) };
  await assert.rejects(labelled([8, 12], NET, workers), { sentence: "noNumbers" });
});

test("a fault of a worker is told when its turn comes", async () => {
  const workers = { ...pool(1), run: async () => Promise.reject(new Error("lost")) };
  await assert.rejects(labelled([21, 37], NET, workers), /lost/);
});

test("it ends when it is stopped", async () => {
  let pieces = 0;
  for await (const _ of label(NET, [80, 80], read([80, 80]), pool(1), () => pieces >= 3)) pieces++;
  assert.ok(pieces >= 3 && pieces < 6);
});
