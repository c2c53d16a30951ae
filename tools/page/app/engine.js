// The workers behind the page: one that reads, deals out and blends, and those that run the net, on the processor or by WebGPU.

import { inOrder, unpack, worker } from "./packed.js";
import { say } from "./texts.js";

const BATCH = { wasm: 4 * 128 * 128, webgpu: 16 * 128 * 128 }; // pixels of a batch: larger ones are no faster, but less lively
const MOST_WORKERS = 8;
const MEMORY = 1.5e9; // bytes that the workers may take together, about
const AGREEMENT = 0.999; // of the labels of noise must be the processor's
const PATIENCE = 30_000; // milliseconds that the graphics card has for its trial
const WORTH = 1.2; // times as fast the graphics card must be

export class Engine {
  #calls = new Map();
  #workers = {}; // by what they compute with
  #next = 0;

  /**
   * net: what the page knows of it. onPiece({image, piece or strip}): called as map and image come.
   * onNote(text): how it computes.
   */
  constructor(net, onPiece, onNote) {
    Object.assign(this, { net, onPiece, onNote, notes: [] });
  }

  /** Start everything. tell(text): what goes on. Resolves when labelling may begin; the graphics card is tried meanwhile. */
  async start(tell) {
    tell(say("starting"));
    this.labeller = await worker("code-labeller");
    this.labeller.onmessage = ({ data }) => this.#answer(data);
    await this.call("begin", { net: this.net });
    const bytes = inOrder(await unpack("net"));
    const workers = countOf(bytes.byteLength);
    await this.#employ("wasm", workers, bytes);
    this.note(say("onProcessor", { workers }));
    const adapter = await adapterOf();
    if (!adapter) return this.note(say("noGraphics"));
    await this.#try("wasm");
    const processor = await this.#try("wasm");
    this.settled = this.#tryGraphics(bytes, { values: processor.values, ms: processor.ms / workers });
    return undefined;
  }

  /** Say how it computes; what was said before goes if it is no longer true. */
  note(text, instead = false) {
    this.notes = instead ? [text] : [...this.notes, text];
    this.onNote(this.notes.join(" "));
  }

  /** A promise of what the labeller answers; it is rejected with {sentence, values}. */
  call(call, given = {}, transfer = []) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject });
      this.labeller.postMessage({ id, call, ...given }, transfer);
    });
  }

  #answer(data) {
    if (data.piece || data.strip) return this.onPiece(data);
    const { resolve, reject } = this.#calls.get(data.id);
    this.#calls.delete(data.id);
    return data.fault ? reject(data.fault) : resolve(data.result);
  }

  async #employ(name, count, net) {
    this.module ??= await WebAssembly.compile(await unpack("wasm-compute"));
    const options = name === "webgpu" && this.net.on_processor.length ? { forceCpuNodeNames: this.net.on_processor } : {};
    this.#workers[name] = await Promise.all(Array.from({ length: count }, () => worker("code-compute")));
    const ports = await Promise.all(this.#workers[name].map((one) => begun(one, { net, module: this.module, provider: name, options })));
    const [height, width] = this.net.window;
    const batch = Math.max(1, Math.floor(BATCH[name] / (height * width)));
    await this.call("employ", { name, ports, batch }, ports);
  }

  async #tryGraphics(net, processor) {
    const late = new Promise((resolve) => setTimeout(() => resolve(say("late", { seconds: PATIENCE / 1000 })), PATIENCE));
    const trial = this.#compare(net, processor).catch((error) => error.message ?? say(error.sentence, error.values));
    const reason = await Promise.race([trial, late]);
    if (!reason) return this.call("use", { name: "webgpu" });
    this.#workers.webgpu?.forEach((one) => one.terminate());
    return this.note(say("worseGraphics", { reason }));
  }

  /** Why the processor is to be preferred, or null. */
  async #compare(net, processor) {
    await this.#employ("webgpu", 1, net);
    await this.#try("webgpu"); // compiles
    const graphics = await this.#try("webgpu");
    const share = agreement(graphics.values, processor.values, this.net);
    if (share < AGREEMENT) return say("differs", { share: (100 * share).toFixed(1) });
    const times = processor.ms / graphics.ms;
    if (times < 1) return say("slower", { times: (1 / times).toPrecision(2) });
    if (times < WORTH) return say("equal");
    this.note(say("onGraphics", { times: times.toPrecision(2) }), true);
    return null;
  }

  #try(name) {
    const area = 2 * this.net.window[0] * this.net.window[1];
    const inputs = this.net.inputs.map((input) => noise(input, area));
    return this.call("compute", { name, inputs, count: 2 });
  }
}

/** As many workers as the processor has cores, and fit in the memory. */
function countOf(bytes) {
  const fit = Math.floor(MEMORY / (1e8 + 4 * bytes));
  return Math.max(1, Math.min(navigator.hardwareConcurrency || 2, MOST_WORKERS, fit));
}

/** A graphics card that is none of software, or null. */
async function adapterOf() {
  const adapter = await navigator.gpu?.requestAdapter?.({ powerPreference: "high-performance" }).catch(() => null);
  return adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter) ? adapter : null;
}

/** The port of a worker that runs the net, once it does. */
async function begun(one, given) {
  const { port1, port2 } = new MessageChannel();
  await new Promise((resolve, reject) => {
    one.onmessage = ({ data }) => (data.ready ? resolve() : reject(new Error(data.fault)));
    one.onerror = (event) => reject(new Error(event.message));
    one.postMessage({ ...given, port: port2 }, [port2]);
  });
  return port1;
}

/** Two windows of smooth noise, around what the net was trained on. */
function noise(input, area) {
  const channels = input.fill.length;
  const spread = (i) => input.spread?.[i] ?? 50;
  return Float32Array.from({ length: channels * area }, (_, i) => {
    const channel = Math.floor(i / area) % channels;
    return input.fill[channel] + spread(channel) * (Math.sin(i / 7) + Math.sin(i / 1013));
  });
}

/** The share of pixels that get the same label. */
function agreement(one, other, net) {
  const area = net.window[0] * net.window[1];
  const each = net.classes.length * area;
  let same = 0;
  for (let n = 0; n < one.length; n += each) for (let i = 0; i < area; i++) same += best(one, n + i, area, net) === best(other, n + i, area, net);
  return same / ((one.length / each) * area);
}

function best(values, first, area, net) {
  let found = 0;
  for (let c = 1; c < net.classes.length; c++) if (values[first + c * area] > values[first + found * area]) found = c;
  return found;
}
