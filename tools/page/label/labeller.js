// The worker that reads files, deals windows out, blends what comes back, and makes the files that are saved.
// It answers {id, call, ...}: with {id, result} or {id, fault}; on the way come {image, strip} and {image, piece}.

import { factorOf, overview, picture, stretchOf } from "../read/display.js";
import { PageError } from "../read/error.js";
import { pixelAreas } from "../read/ground.js";
import { open } from "../read/open.js";
import { save } from "../save/save.js";
import { checkKinds, modalitiesOf, stack } from "./inputs.js";
import { countWindows, label } from "./job.js";
import { Pool } from "./pool.js";
import { windowsOn } from "./windows.js";

const OVERVIEW = 2048; // pixels, the longer side

const images = new Map(); // by number: {sources: by modality, shape, stretch, stopped}
const pools = {}; // by name
let net = null;
let pool = null; // the one in use, which may change while an image is labelled
const workers = {
  get batch() {
    return pool.batch;
  },
  get ahead() {
    return pool.ahead;
  },
  run: (...work) => pool.run(...work),
};

const calls = {
  /** {net} of the page. */
  begin({ net: about }) {
    net = about;
  },

  /** {name, ports, batch}: workers that run the net. */
  employ({ name, ports, batch }) {
    pools[name] = new Pool(ports, batch);
    pool ??= pools[name];
  },

  /** {name}: of the workers that label from now on. */
  use({ name }) {
    pool = pools[name];
  },

  /** {name, inputs, count}: the probabilities of count windows, and how long they took. */
  async compute({ name, inputs, count }) {
    const started = performance.now();
    return { values: await pools[name].run(inputs, count, net.window), ms: performance.now() - started };
  },

  /** {image, files: by modality}: what there is to know of an image. */
  async open({ image, files }) {
    const sources = {};
    for (const modality of modalitiesOf(net.inputs)) sources[modality] = await open(files[modality]);
    checkKinds(net.inputs, sources);
    const first = Object.values(sources)[0];
    const [shape, stretch, factor] = [[first.height, first.width], await stretchOf(first), factorOf(first, OVERVIEW)];
    images.set(image, { sources, shape, first, stretch, factor, stopped: false });
    const place = Object.values(sources).find((source) => source.place)?.place ?? null;
    const { name, width, height, bands, dtype } = first;
    return { name, width, height, bands, dtype, place, areas: pixelAreas(place, height, width), windows: countWindows(shape, windowsOn(net, shape)), factor };
  },

  /** {image}: its overview, whose strips come as messages of their own. */
  async overview({ image }) {
    const { first, factor, stretch } = images.get(image);
    for await (const strip of overview(first, factor, stretch)) {
      self.postMessage({ image, strip }, [strip.data.buffer]);
      await breath();
    }
  },

  /** {image, area: [row, col, height, width], factor}: to be looked at. */
  picture({ image, area, factor }) {
    const { first, stretch } = images.get(image);
    return picture(first, area, factor, stretch);
  },

  /** {image}: label it; pieces come as messages of their own. Returns whether it was finished. */
  async label({ image }) {
    const found = images.get(image);
    found.stopped = false;
    const read = (...window) => readAll(found.sources, window);
    for await (const piece of label(windowsOn(net, found.shape), found.shape, read, workers, () => found.stopped)) {
      const buffers = [piece.labels.buffer, piece.confidence.buffer, piece.probabilities.buffer];
      self.postMessage({ image, piece }, buffers);
      await breath();
    }
    return !found.stopped;
  },

  /** {image}: end its labelling. */
  stop({ image }) {
    images.get(image).stopped = true;
  },

  /** {image}: forget it. */
  close({ image }) {
    images.delete(image);
  },

  /** {kind, map, net, options}: the file, a Blob. */
  save({ kind, map, options }) {
    return save(kind, map, net, options);
  },
};

/** What the net reads of a window, and where all modalities have data. */
async function readAll(sources, [row, col, height, width]) {
  const read = {};
  for (const [modality, source] of Object.entries(sources)) {
    read[modality] = { ...(await source.read(row, col, height, width)), dtype: source.dtype };
  }
  const gaps = Object.values(read).map((image) => image.gaps).filter(Boolean);
  const valid = gaps.length ? new Uint8Array(height * width).map((_, i) => (gaps.some((gap) => gap[i]) ? 0 : 1)) : null;
  return { inputs: net.inputs.map((input) => stack(input, read, height * width)), valid };
}

/** Let messages in, such as one that says stop. */
function breath() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(0);
  });
}

self.onmessage = async ({ data }) => {
  const { id, call, ...given } = data;
  try {
    self.postMessage({ id, result: await calls[call](given) });
  } catch (error) {
    self.postMessage({ id, fault: faultOf(error) });
  }
};

function faultOf(error) {
  if (error instanceof PageError) return { sentence: error.sentence, values: error.values };
  const memory = error instanceof RangeError || /memory|allocation/i.test(error.message);
  return { sentence: memory ? "memory" : "unexpected", values: { reason: error.message } };
}
