// node build.mjs FOLDER: bundles the page's modules and writes all that it is made of into a folder, for assemble.py.

import { copyFileSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const runtime = join(here, "node_modules/onnxruntime-web/dist");
const target = process.argv[2];

const WASM = "ort-wasm-simd-threaded.asyncify.wasm"; // computes on processors and by WebGPU, in browsers with and without JSPI
const CODE = {
  main: "app/main.js",
  "code-labeller": "label/labeller.js",
  "code-compute": "label/compute.js",
};
const MIT = `Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use,
copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE
FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.`;
const WITHOUT_FILE = {
  "onnxruntime-web": `MIT License. Copyright (c) Microsoft Corporation\n\n${MIT}\n\nIts parts: ThirdPartyNotices.txt of github.com/microsoft/onnxruntime`,
  lerc: "Copyright Esri. Licensed under the Apache License, Version 2.0; its text stands below, under web-worker.",
};
const packages = new Set();

for (const [name, entry] of Object.entries(CODE)) {
  const { metafile } = await esbuild.build({
    absWorkingDir: here, entryPoints: [entry], outfile: join(target, `${name}.js`), bundle: true, minify: true, format: "iife",
    platform: "browser", target: "es2022", metafile: true, legalComments: "none", charset: "ascii", logLevel: "error",
    define: { "import.meta.url": "self.location.href" },
  });
  for (const input of Object.keys(metafile.inputs)) {
    const found = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (found) packages.add(found[1]);
  }
}
copyFileSync(join(runtime, WASM), join(target, "wasm-compute.wasm"));

const about = [...packages].sort().map((name) => ({ folder: join(here, "node_modules", name), ...described(name) }));
writeFileSync(join(target, "libraries.json"), JSON.stringify(about.map(({ name, version, license }) => ({ name, version, license }))));
writeFileSync(join(target, "licences.txt"), about.map(notice).join("\n\n"));

function described(name) {
  const { version, license } = JSON.parse(readFileSync(join(here, "node_modules", name, "package.json"), "utf8"));
  return { name, version, license };
}

/** A package's licence, as it comes with it, or in short where it comes without. */
function notice({ folder, name, version, license }) {
  const file = readdirSync(folder).find((file) => /^(licen[cs]e|copying)/i.test(file));
  return `${name} ${version} (${license})\n\n${file ? readFileSync(join(folder, file), "utf8").trim() : WITHOUT_FILE[name]}`;
}
