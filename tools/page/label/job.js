// Labelling one image: rows of windows are read, dealt out to the net's workers, blended, and given away piece by piece.

import { Canvas, NO_DATA } from "./blend.js";
import { cut } from "./inputs.js";
import { positions, strips } from "./windows.js";

/** How many windows there are over an image of this [height, width]. */
export function countWindows(shape, net) {
  const rows = positions(shape[0], net.window[0], net.step[0]).length;
  return strips(shape[1], net).reduce((sum, strip) => sum + rows * columnsOf(shape[1], net, strip).length, 0);
}

function columnsOf(width, net, strip) {
  return positions(width, net.window[1], net.step[1]).filter((col) => col < strip[1] && col + net.window[1] > strip[0]);
}

/**
 * Finished pieces of the map, top to bottom in each column strip.
 *
 * net: what the page knows of it. shape: [height, width] of the image. read(row, col, height, width): {inputs: [channels x h x w],
 * valid: bytes or null}. pool: {batch, run(inputs, count, size)}, the latter a promise of count x classes x h x w probabilities.
 * stopped(): whether to end early. Yields pieces as Canvas.take gives them, with `windows`, the number finished since the last.
 */
export async function* label(net, shape, read, pool, stopped = () => false) {
  for (const strip of strips(shape[1], net)) {
    const work = new StripWork(net, shape, strip, read, pool);
    for await (const piece of work.pieces()) {
      yield piece;
      if (stopped()) return;
    }
  }
}

class StripWork {
  constructor(net, shape, strip, read, pool) {
    Object.assign(this, { net, shape, strip, read, pool });
    this.rows = positions(shape[0], net.window[0], net.step[0]);
    this.cols = columnsOf(shape[1], net, strip);
    this.canvas = new Canvas(shape, net, strip);
    this.left = this.cols[0];
    this.right = Math.min(this.cols.at(-1) + net.window[1], shape[1]);
  }

  /** Batches run ahead of those that are blended, so that no worker waits; they are blended in their order. */
  async *pieces() {
    const ahead = [];
    for await (const batch of this.#batches()) {
      ahead.push(batch);
      if (ahead.length >= this.pool.ahead) yield* this.#blend(ahead.shift());
    }
    while (ahead.length) yield* this.#blend(ahead.shift());
  }

  async *#batches() {
    let next = this.#slab(0);
    for (let i = 0; i < this.rows.length; i++) {
      const slab = await next;
      if (i + 1 < this.rows.length) next = this.#slab(i + 1);
      for (let first = 0, batch; first < this.cols.length; first += batch) {
        batch = this.pool.batch; // which may change on the way
        yield this.#start(i, slab, first, this.cols.slice(first, first + batch));
      }
    }
  }

  async #slab(i) {
    const height = Math.min(this.net.window[0], this.shape[0] - this.rows[i]);
    const slab = await this.read(this.rows[i], this.left, height, this.right - this.left);
    return { ...slab, height };
  }

  #start(i, slab, first, cols) {
    const area = this.net.window[0] * this.net.window[1];
    const size = [slab.height, this.right - this.left];
    const inputs = slab.inputs.map((pixels) => {
      const channels = pixels.length / (size[0] * size[1]);
      const batch = new Float32Array(cols.length * channels * area);
      cols.forEach((col, n) => cut(pixels, size, col - this.left, this.net.window, batch.subarray(n * channels * area)));
      return batch;
    });
    const result = this.pool.run(inputs, cols.length, this.net.window);
    result.catch(() => {}); // it is told when its turn comes
    return { i, slab, first, cols, result };
  }

  async *#blend({ i, slab, first, cols, result }) {
    const values = await result;
    const each = values.length / cols.length;
    cols.forEach((col, n) => this.canvas.add(this.rows[i], col, values, n * each));
    const row = this.rows[i];
    const below = i + 1 < this.rows.length ? this.rows[i + 1] : this.shape[0];
    const from = first === 0 ? this.strip[0] : Math.max(cols[0], this.strip[0]);
    const next = this.cols[first + cols.length];
    const until = Math.min(next ?? this.strip[1], this.strip[1]);
    if (until <= from) return;
    const piece = this.canvas.take(row, from, below - row, until - from);
    this.#maskOut(piece, slab);
    yield { ...piece, windows: cols.length };
  }

  #maskOut(piece, slab) {
    if (!slab.valid) return;
    const columns = this.right - this.left;
    const count = piece.labels.length;
    for (let y = 0; y < piece.height; y++) {
      for (let x = 0; x < piece.width; x++) {
        if (slab.valid[y * columns + piece.col + x - this.left]) continue;
        const pixel = y * piece.width + x;
        piece.labels[pixel] = piece.confidence[pixel] = NO_DATA;
        for (let c = 0; c < this.net.classes.length; c++) piece.probabilities[c * count + pixel] = NO_DATA;
      }
    }
  }
}
