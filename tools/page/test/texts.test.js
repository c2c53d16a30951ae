// Each fault that the page can meet has its sentence, and no sentence stands there for nothing.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { assign } from "../app/choosing.js";
import { TEXTS, areaUnit, duration, faultText } from "../app/texts.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const code = ["app", "label", "read", "save"].flatMap((folder) => readdirSync(root + folder).map((name) => readFileSync(`${root}${folder}/${name}`, "utf8"))).join("\n");

test("sentences that are named exist", () => {
  const named = [...code.matchAll(/(?:PageError|say)\("(\w+)"|sentence: "(\w+)"/g)].map((match) => match[1] ?? match[2]);
  assert.ok(named.length > 30);
  for (const name of named) assert.ok(name in TEXTS, name);
});

test("sentences that exist are named", () => {
  for (const name of Object.keys(TEXTS)) assert.match(code, new RegExp(`"${name}"`), name);
});

test("an error that nobody expected is a sentence too", () => assert.match(faultText(new Error("odd")), /\(odd\): please reload/));

test("times and areas are easy to read", () => {
  assert.deepEqual([0.01, 3.21, 42.4, 75, 600, 3700].map(duration), ["0.1 s", "3.2 s", "42 s", "1 min 15 s", "10 min", "1 h 1 min"]);
  assert.deepEqual([5e4, 2e6, 3e8].map((total) => areaUnit(total).unit), ["m²", "ha", "km²"]);
});

test("files are given to modalities by name, the others in order", () => {
  const [top, ndsm, dsm] = ["area32.tif", "ndsm_32.tif", "dsm_32.tif"].map((name) => ({ name }));
  assert.deepEqual(assign(["irrg", "dsm", "ndsm"], [top, ndsm, dsm]), { irrg: top, dsm, ndsm });
  assert.deepEqual(assign(["irrg", "dsm"], [top]), { irrg: top });
});

test("bytes that lie in planes come back in their order", async () => {
  const { inOrder } = await import("../app/packed.js");
  assert.deepEqual([...new Uint8Array(inOrder(Uint8Array.of(0, 4, 1, 5, 2, 6, 3, 7, 8, 9).buffer))], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});
