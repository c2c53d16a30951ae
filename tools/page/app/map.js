// The label map of one image, as it grows: a byte a pixel for labels and confidence, sums by class.

import { tableOf } from "../save/table.js";

export const UNKNOWN = 254; // a pixel that is not labelled yet
const MOST = 2 ** 28; // bytes of probabilities that are kept for the pointer

export class LabelMap {
  constructor(about, net) {
    Object.assign(this, { name: about.name, width: about.width, height: about.height, place: about.place, areas: about.areas });
    this.net = net;
    this.windows = about.windows;
    this.clear();
  }

  clear() {
    const [count, classes] = [this.width * this.height, this.net.classes.length];
    this.labels = new Uint8Array(count).fill(UNKNOWN);
    this.confidence = new Uint8Array(count);
    this.probabilities = count * classes <= MOST ? new Uint8Array(count * classes) : null;
    this.sums = { pixels: new Float64Array(classes), area: new Float64Array(classes), confidence: new Float64Array(classes) };
    this.done = 0;
    this.finished = false;
  }

  /** Take a finished rectangle. */
  add(piece) {
    const { row, col, height, width } = piece;
    this.done += piece.windows;
    for (let y = 0; y < height; y++) {
      const [from, to] = [y * width, (row + y) * this.width + col];
      this.labels.set(piece.labels.subarray(from, from + width), to);
      this.confidence.set(piece.confidence.subarray(from, from + width), to);
      for (let c = 0; this.probabilities && c < this.net.classes.length; c++) {
        const start = c * height * width + from;
        this.probabilities.set(piece.probabilities.subarray(start, start + width), c * this.width * this.height + to);
      }
      this.#count(piece, from, width, this.areas?.[row + y] ?? 0);
    }
  }

  #count({ labels, confidence }, from, width, area) {
    for (let i = from; i < from + width; i++) {
      if (labels[i] >= this.net.classes.length) continue;
      this.sums.pixels[labels[i]]++;
      this.sums.area[labels[i]] += area;
      this.sums.confidence[labels[i]] += confidence[i];
    }
  }

  get share() {
    return this.windows ? this.done / this.windows : 0;
  }

  get table() {
    return tableOf(this.sums, this.net, Boolean(this.areas));
  }

  /** What is known of a pixel: {label, shares: [[class, per cent], ...], the likeliest first}. */
  at(row, col) {
    const pixel = row * this.width + col;
    const label = this.labels[pixel];
    if (label >= this.net.classes.length) return { label, shares: [] };
    const plane = this.width * this.height;
    const shares = this.probabilities
      ? this.net.classes.map((_, c) => [c, this.probabilities[c * plane + pixel]])
      : [[label, this.confidence[pixel]]];
    return { label, shares: shares.sort((one, other) => other[1] - one[1]) };
  }

  /** What is saved: without what is not labelled yet. */
  get whole() {
    const { name, width, height, place, areas } = this;
    const missing = this.finished ? null : this.labels.map((label) => (label === UNKNOWN ? 255 : label));
    const confidence = missing ? this.confidence.map((sure, i) => (missing[i] === 255 ? 255 : sure)) : this.confidence;
    return { name, width, height, place, areas, labels: missing ?? this.labels, confidence };
  }
}
