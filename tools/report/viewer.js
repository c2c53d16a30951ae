// The report's viewer: a click on a tile of the overview shows its image under its map, in the view of the labelling page.

import { listen, listenToHandle } from "../page/app/gestures.js";
import { SIDE, View } from "../page/app/view.js";

const element = (id) => document.getElementById(id);
const boxes = [...document.querySelectorAll("#viewer [data-class]")];
const colours = boxes.map((box) => parseInt(box.dataset.colour.slice(1), 16));

/** A picture of the overview (<img> or SVG's <image>) as pixels; size: {width, height}, its own if there is none. */
async function pixelsOf(shown, size) {
  const picture = new Image();
  picture.src = shown.src ?? shown.getAttribute("href");
  await picture.decode();
  const canvas = new OffscreenCanvas(size?.width ?? picture.width, size?.height ?? picture.height);
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** The image of a tile as the view wants it: all of it is its overview. */
const asImage = (overview) => ({ about: { width: overview.width, height: overview.height }, overview, factor: 1, forget: () => {} });

/** The map of a tile: the class of each pixel by its colour, of which those that are hidden are left out. */
class Labels {
  #tiles = new Map();

  constructor(canvas) {
    this.pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    this.width = canvas.width;
    this.paint();
  }

  /** The number of the class at a pixel, -1 for none. */
  classAt(row, col) {
    const [r, g, b] = this.pixels.data.subarray(4 * (row * this.width + col));
    return colours.indexOf((r << 16) | (g << 8) | b);
  }

  /** Draw it anew: classes that are hidden, and what is no class, let the image through. */
  paint() {
    const shown = new Set(colours.filter((_, label) => boxes[label].checked));
    const { data, width, height } = this.pixels;
    const painted = new ImageData(data.slice(), width, height);
    for (let i = 0; i < data.length; i += 4) {
      if (!shown.has((data[i] << 16) | (data[i + 1] << 8) | data[i + 2])) painted.data[i + 3] = 0;
    }
    this.canvas = new OffscreenCanvas(width, height);
    this.canvas.getContext("2d").putImageData(painted, 0, 0);
    this.#tiles.clear();
  }

  /** The part of it that the view wants to put at a place. */
  at(level, x, y) {
    const key = `${level}/${x}/${y}`;
    if (!this.#tiles.has(key)) {
      const [reach, left, top] = [SIDE << level, x * (SIDE << level), y * (SIDE << level)];
      const tile = new OffscreenCanvas(Math.min(reach, this.canvas.width - left), Math.min(reach, this.canvas.height - top));
      tile.getContext("2d").drawImage(this.canvas, -left, -top);
      this.#tiles.set(key, tile);
    }
    return this.#tiles.get(key);
  }
}

const view = new View(element("view"));
const tiles = [...document.querySelectorAll("[data-labels]")].map((shown) => shown.dataset.labels);
const find = (what, tile) => document.querySelector(`[data-${what}="${CSS.escape(tile)}"]`);

async function show(tile) {
  const labels = await pixelsOf(find("labels", tile));
  const image = find("image", tile);
  view.show(asImage(image ? await pixelsOf(image, labels) : new OffscreenCanvas(labels.width, labels.height)), new Labels(labels));
  element("tile").value = tile;
  element("view").setAttribute("aria-label", `Image and map of tile ${tile}`);
}

function open(tile) {
  element("viewer").showModal();
  show(tile);
}

element("hint").hidden = false;
element("tile").append(...tiles.map((tile) => new Option(tile, tile)));
element("tile").addEventListener("change", () => show(element("tile").value));
element("close").addEventListener("click", () => element("viewer").close());
for (const place of document.querySelectorAll("[data-tile]")) {
  place.classList.add("opens");
  for (const [name, value] of Object.entries({ role: "button", tabindex: "0", "aria-label": `View tile ${place.dataset.tile}` })) place.setAttribute(name, value);
  place.addEventListener("click", () => open(place.dataset.tile));
  place.addEventListener("keydown", (event) => event.key === "Enter" && open(place.dataset.tile));
}
for (const box of boxes) {
  box.addEventListener("change", () => {
    view.map.paint();
    view.draw();
  });
}
for (const mode of document.querySelectorAll("#viewer [name=mode]")) {
  mode.addEventListener("change", () => {
    view.mode = mode.value;
    element("handle").hidden = mode.value !== "swipe";
    element("opacity-line").hidden = mode.value !== "overlay";
    view.draw();
  });
}
element("opacity").addEventListener("input", () => {
  view.opacity = element("opacity").value / 100;
  view.draw();
});
listenToHandle(element("handle"), element("stage"), (share) => {
  view.swipe = share;
  view.draw();
});
listen(view, (point) => {
  const found = point && view.pixelAt(point.x, point.y);
  const label = found ? view.map.classAt(found.row, found.col) : -1;
  element("readout").hidden = label < 0;
  if (label >= 0) element("readout").textContent = boxes[label].dataset.class;
});
