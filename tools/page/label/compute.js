// A worker that runs the net. It is told {net, module, provider, options} once, then {id, inputs, count, size} again and again.

import * as ort from "onnxruntime-web/webgpu";

let session = null;
let port = null;

self.onmessage = async ({ data }) => {
  try {
    session = await begin(data);
    port = data.port;
    port.onmessage = ({ data: work }) => run(work);
    self.postMessage({ ready: true });
  } catch (error) {
    self.postMessage({ fault: String(error?.message ?? error) });
  }
};

async function begin({ net, module, provider, options }) {
  share(module);
  ort.env.wasm.wasmBinary = new ArrayBuffer(8); // asks for no file; what counts is the module
  ort.env.wasm.numThreads = 1; // threads want memory that is shared, which pages opened from a disk do not get
  ort.env.logLevel = "error";
  return ort.InferenceSession.create(new Uint8Array(net), { executionProviders: [{ name: provider, ...options }], logSeverityLevel: 3 });
}

/** Have the library take a module that is compiled already, once for all workers: it only knows how to take bytes. */
function share(module) {
  const instantiate = WebAssembly.instantiate;
  WebAssembly.instantiate = async (_, imports) => ({ module, instance: await instantiate(module, imports) });
}

async function run({ id, inputs, count, size }) {
  try {
    const feeds = {};
    session.inputNames.forEach((name, i) => {
      const channels = inputs[i].length / (count * size[0] * size[1]);
      feeds[name] = new ort.Tensor("float32", inputs[i], [count, channels, ...size]);
    });
    const output = (await session.run(feeds))[session.outputNames[0]];
    const values = (await output.getData()).slice();
    port.postMessage({ id, values }, [values.buffer]);
  } catch (error) {
    port.postMessage({ id, fault: String(error?.message ?? error) });
  }
}
