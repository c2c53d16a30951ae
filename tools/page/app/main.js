// The page: images come in, are shown, labelled one after the other, looked at and saved.

import { modalitiesOf } from "../label/inputs.js";
import { listenForFiles } from "./choosing.js";
import { RAMP, element, show } from "./dom.js";
import { Engine } from "./engine.js";
import { listen, listenToHandle } from "./gestures.js";
import { LabelMap } from "./map.js";
import { about, unpack } from "./packed.js";
import { complain, fillRows, finishedText, listImages, makeRows, progress, readOut, tell } from "./panel.js";
import { listenForSaves } from "./saving.js";
import { say } from "./texts.js";
import { ImageTiles, MapTiles } from "./tiles.js";
import { View } from "./view.js";

const REFRESH = 250; // milliseconds between two looks at the numbers

class Page {
  constructor(net) {
    Object.assign(this, { net, images: [], current: null, busy: null, hidden: new Set(), layer: "classes" });
    this.view = new View(element("view"));
    this.engine = new Engine(net, (message) => this.#grow(message), (text) => (element("engine").textContent = text));
    makeRows(net, (label) => this.#toggle(label));
    listen(this.view, (point) => this.#point(point));
    listenToHandle(element("handle"), element("stage"), (share) => {
      this.view.swipe = share;
      this.view.draw();
    });
    listenForFiles(modalitiesOf(net.inputs), (files) => this.add(files));
    listenForSaves(this.engine, () => this.current);
    this.#listenToControls();
  }

  async start() {
    this.ready = this.engine.start(tell);
    await this.ready;
    if (!this.images.length) tell(say("ready"));
    document.body.dataset.ready = "yes";
  }

  /** files: by modality. */
  add(files) {
    const image = { number: this.images.length, name: Object.values(files)[0].name, files };
    this.images.push(image);
    this.#list();
    this.queue = (this.queue ?? Promise.resolve()).then(() => this.#take(image));
  }

  async #take(image) {
    try {
      await this.#open(image);
      await this.#label(image);
    } catch (fault) {
      image.fault = fault;
      complain(fault);
      tell("");
    }
    this.busy = null;
    progress(null);
    this.#list();
  }

  async #open(image) {
    tell(say("reading", { name: image.name }));
    await this.ready;
    image.about = await this.engine.call("open", { image: image.number, files: image.files });
    image.map = new LabelMap(image.about, this.net);
    const fetch = (area, factor) => this.engine.call("picture", { image: image.number, area, factor });
    image.tiles = new ImageTiles(image.about, fetch, () => this.view.draw());
    image.layer = new MapTiles(image.map);
    this.#show(image);
    await this.engine.call("overview", { image: image.number });
  }

  async #label(image) {
    this.busy = image;
    image.started = performance.now();
    tell(say("labelling", { name: image.name }));
    progress(0, image.started);
    const whole = await this.engine.call("label", { image: image.number });
    image.map.finished = whole;
    this.#numbers(image);
    const seconds = (performance.now() - image.started) / 1000;
    element("status").dataset.seconds = seconds;
    tell(whole ? finishedText(image, seconds) : say("stopped", { name: image.name }));
  }

  #grow({ image: number, piece, strip }) {
    const image = this.images[number];
    if (strip) return image.tiles.add(strip);
    image.map.add(piece);
    image.layer.renew(piece);
    if (image === this.current) this.view.draw();
    if (performance.now() - (this.refreshed ?? 0) < REFRESH) return undefined;
    this.refreshed = performance.now();
    progress(image.map.share, image.started);
    return this.#numbers(image);
  }

  #numbers(image) {
    if (image === this.current) fillRows(image.map);
    this.#list();
  }

  #list() {
    listImages(this.images, this.current, (image) => image.about && this.#show(image));
  }

  #show(image) {
    this.current = image;
    for (const id of ["look", "classes", "save", "zoom"]) show(id, true);
    show("drop", false);
    element("view").setAttribute("aria-label", `Image and map: ${image.name}`);
    element("shown").textContent = image.name;
    image.layer.show(this.layer, this.hidden, RAMP);
    this.view.show(image.tiles, image.layer);
    fillRows(image.map);
    this.#list();
  }

  #toggle(label) {
    if (!this.hidden.delete(label)) this.hidden.add(label);
    this.#paint();
  }

  #paint() {
    this.current?.layer.show(this.layer, this.hidden, RAMP);
    this.view.draw();
  }

  #point(point) {
    const pixel = point && this.view.pixelAt(point.x, point.y);
    readOut(pixel, this.current?.map, this.net);
  }

  #listenToControls() {
    element("stop").addEventListener("click", () => this.busy && this.engine.call("stop", { image: this.busy.number }));
    element("zoom-in").addEventListener("click", () => this.view.zoom(1.5));
    element("zoom-out").addEventListener("click", () => this.view.zoom(1 / 1.5));
    element("zoom-fit").addEventListener("click", () => this.view.fit());
    element("opacity").addEventListener("input", ({ target }) => {
      this.view.opacity = target.value / 100;
      this.view.draw();
    });
    for (const input of document.querySelectorAll("[name=mode]")) input.addEventListener("change", () => this.#mode(input.value));
    for (const input of document.querySelectorAll("[name=layer]")) {
      input.addEventListener("change", () => {
        this.layer = input.value;
        show("ramp", this.layer === "confidence");
        this.#paint();
      });
    }
    element("about").addEventListener("toggle", showLicences, { once: true });
  }

  #mode(mode) {
    this.view.mode = mode;
    show("handle", mode === "swipe");
    show("opacity-line", mode === "overlay");
    this.view.draw();
  }
}

async function showLicences() {
  element("licences").textContent = new TextDecoder().decode(await unpack("licences-text"));
}

if (typeof WebAssembly === "undefined" || typeof DecompressionStream === "undefined" || typeof OffscreenCanvas === "undefined") {
  tell("");
  complain({ sentence: "oldBrowser" });
} else {
  const page = new Page(about());
  page.start().catch((error) => {
    tell("");
    complain({ sentence: "noNet", values: { reason: error.message ?? error.sentence } });
  });
}
