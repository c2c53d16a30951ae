// Averaging the probabilities of overlapping windows, in as much memory as one row of windows takes.

import { PageError } from "../read/error.js";
import { TAPERS, cover } from "./windows.js";

export const NO_DATA = 255; // the label, and the confidence, of a pixel without data

/** The sums of probabilities over the rows that windows still reach, in the columns of one strip. */
export class Canvas {
  /** shape: of the image. net: {classes, window: [height, width], step, blend, threshold}. strip: [first column, end]. */
  constructor(shape, net, strip) {
    [this.height, this.width] = net.window;
    [this.first, this.end] = strip;
    this.classes = net.classes.length;
    this.threshold = net.threshold;
    this.tapers = net.window.map(TAPERS[net.blend]);
    this.covers = shape.map((length, axis) => cover(length, this.tapers[axis], net.step[axis]));
    this.columns = this.end - this.first;
    this.total = new Float32Array(this.classes * this.height * this.columns); // row r of the image is r % height
  }

  /** Add what the net says of the window at row, col: classes x height x width, from `offset` on in `values`. */
  add(row, col, values, offset) {
    const from = Math.max(col, this.first);
    const until = Math.min(col + this.width, this.end);
    const [rowTaper, colTaper] = this.tapers;
    for (let c = 0; c < this.classes; c++) {
      for (let y = 0; y < this.height; y++) {
        const weight = rowTaper[y];
        let source = offset + (c * this.height + y) * this.width + (from - col);
        let target = (c * this.height + ((row + y) % this.height)) * this.columns + (from - this.first);
        for (let x = from - col; x < until - col; x++) {
          this.total[target++] += values[source++] * Math.fround(weight * colTaper[x]);
        }
      }
    }
  }

  /**
   * The finished pixels of a rectangle, whose sums are forgotten: {labels, confidence (per cent), probabilities (per cent,
   * classes x pixels)}, bytes. Throws PageError where the net gave no numbers.
   */
  take(row, col, height, width) {
    const count = height * width;
    const piece = { row, col, height, width, labels: new Uint8Array(count), confidence: new Uint8Array(count) };
    piece.probabilities = new Uint8Array(count * this.classes);
    for (let y = 0; y < height; y++) {
      const start = ((row + y) % this.height) * this.columns + (col - this.first);
      for (let x = 0; x < width; x++) this.#choose(piece, start + x, y * width + x, this.covers[0][row + y] * this.covers[1][col + x]);
    }
    return piece;
  }

  #choose(piece, place, pixel, weight) {
    const plane = this.height * this.columns;
    const count = piece.labels.length;
    let best = -1;
    let label = 0;
    let second = 0;
    for (let c = 0; c < this.classes; c++) {
      const share = Math.fround(this.total[c * plane + place] / Math.fround(weight));
      this.total[c * plane + place] = 0;
      if (!(share >= 0)) throw new PageError("noNumbers", { row: piece.row });
      if (share > best) [best, label] = [share, c];
      if (c === 1) second = share;
      piece.probabilities[c * count + pixel] = Math.round(100 * Math.min(share, 1));
    }
    if (this.threshold !== null) label = second > Math.fround(this.threshold) ? 1 : 0;
    piece.labels[pixel] = label;
    piece.confidence[pixel] = piece.probabilities[label * count + pixel];
  }
}
