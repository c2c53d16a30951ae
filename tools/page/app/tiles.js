// Squares of image and map at the resolution that the screen wants, drawn when they are needed.

import { UNKNOWN } from "./map.js";
import { SIDE } from "./view.js";

const MOST_TILES = 160;
const AT_ONCE = 2; // pictures that are asked for at a time

/** The last tiles that were used. */
class Kept extends Map {
  use(key) {
    const tile = this.get(key);
    if (tile) {
      this.delete(key);
      this.set(key, tile);
    }
    return tile;
  }

  keep(key, tile) {
    this.set(key, tile);
    while (this.size > MOST_TILES) this.delete(this.keys().next().value);
  }
}

const canvasOf = ({ width, height, data }) => {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
  return canvas;
};

/** The tiles of an image: those that are not there yet are fetched, the latest wish first. */
export class ImageTiles {
  #kept = new Kept();
  #wishes = [];
  #busy = 0;

  /** about: of the image. fetch(area, factor): a promise of a picture. changed(): called when there is more to draw. */
  constructor(about, fetch, changed) {
    Object.assign(this, { about, fetch, changed });
    this.factor = about.factor;
    this.overview = new OffscreenCanvas(Math.ceil(about.width / about.factor), Math.ceil(about.height / about.factor));
  }

  /** Some rows of the overview. */
  add({ row, width, height, data }) {
    this.overview.getContext("2d").putImageData(new ImageData(data, width, height), 0, row);
    this.changed();
  }

  /** A canvas, or null where it is not there yet. */
  at(level, x, y) {
    const key = `${level}/${x}/${y}`;
    const tile = this.#kept.use(key);
    if (!tile) this.#wishes.push({ key, level, x, y });
    return tile ?? null;
  }

  /** Forget what was wished for; the view has moved on. */
  forget() {
    this.#wishes = [];
  }

  fetchWished() {
    while (this.#busy < AT_ONCE && this.#wishes.length) this.#get(this.#wishes.shift());
  }

  async #get({ key, level, x, y }) {
    const reach = SIDE << level;
    const [row, col] = [y * reach, x * reach];
    const area = [row, col, Math.min(reach, this.about.height - row), Math.min(reach, this.about.width - col)];
    this.#busy++;
    try {
      this.#kept.keep(key, canvasOf(await this.fetch(area, 1 << level)));
    } catch {
      this.#kept.keep(key, new OffscreenCanvas(1, 1)); // a damaged part is told of when it is labelled
    }
    this.#busy--;
    this.changed();
  }
}

/** The tiles of a map, in the colours of its classes or of its confidence. */
export class MapTiles {
  #kept = new Kept();

  constructor(map) {
    this.map = map;
    this.colours = new Uint32Array(256);
    this.layer = "classes";
  }

  /** layer: "classes" or "confidence". hidden: numbers of classes. ramp: 101 colours [r, g, b] of confidence. */
  show(layer, hidden, ramp) {
    this.layer = layer;
    this.hidden = hidden;
    this.colours.fill(0);
    const paint = (i, [r, g, b]) => (this.colours[i] = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0);
    if (layer === "confidence") ramp.forEach((colour, i) => paint(i, colour));
    else this.map.net.classes.forEach((_, i) => hidden.has(i) || paint(i, this.map.net.palette[i]));
    this.#kept.clear();
  }

  at(level, x, y) {
    const key = `${level}/${x}/${y}`;
    const known = this.#kept.use(key);
    if (known) return known;
    const tile = this.#draw(level, x, y);
    this.#kept.keep(key, tile);
    return tile;
  }

  /** Draw anew what a piece of the map lies in. */
  renew({ row, col, height, width }) {
    for (const key of this.#kept.keys()) {
      const [level, x, y] = key.split("/").map(Number);
      const reach = SIDE << level;
      const apart = col >= (x + 1) * reach || col + width <= x * reach || row >= (y + 1) * reach || row + height <= y * reach;
      if (!apart) this.#kept.delete(key);
    }
  }

  #draw(level, x, y) {
    const { map, colours } = this;
    const reach = SIDE << level;
    const width = Math.ceil(Math.min(reach, map.width - x * reach) / (1 << level));
    const height = Math.ceil(Math.min(reach, map.height - y * reach) / (1 << level));
    const pixels = new Uint32Array(width * height);
    const middle = (1 << level) >> 1;
    for (let j = 0; j < height; j++) {
      const line = Math.min(map.height - 1, y * reach + (j << level) + middle) * map.width;
      for (let i = 0; i < width; i++) {
        const pixel = line + Math.min(map.width - 1, x * reach + (i << level) + middle);
        pixels[j * width + i] = this.#colour(map, colours, pixel);
      }
    }
    return canvasOf({ width, height, data: new Uint8ClampedArray(pixels.buffer) });
  }

  #colour(map, colours, pixel) {
    const label = map.labels[pixel];
    if (label >= UNKNOWN || this.hidden?.has(label)) return 0;
    return this.layer === "confidence" ? colours[map.confidence[pixel]] : colours[label];
  }
}
