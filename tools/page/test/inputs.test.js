// The net is given the bands it was trained on, gaps filled, and files that cannot be what it wants are refused.

import assert from "node:assert/strict";
import { test } from "node:test";
import { checkKinds, cut, modalitiesOf, neutral, stack } from "../label/inputs.js";

const INPUT = { name: "all", modalities: ["rgb", "dsm"], bands: [2, 1], picks: [[2, 0], [0]], file_bands: [3, 1], dtypes: ["uint8", "float32"], fill: [10.5, 11.5, 270] };

test("bands are picked in their order, and gaps become neutral", () => {
  const rgb = { dtype: "uint8", bands: [Uint8Array.of(1, 2), Uint8Array.of(3, 4), Uint8Array.of(5, 6)], gaps: Uint8Array.of(0, 1) };
  const dsm = { dtype: "float32", bands: [Float32Array.of(7, 8)], gaps: Uint8Array.of(1, 0) };
  assert.deepEqual([...stack(INPUT, { rgb, dsm }, 2)], [5, 10, 1, 12, NaN, 8]); // halves round to the even, as numpy's
});

test("the fill is held within the pixel type", () => {
  assert.equal(neutral(300.2, "uint8"), 255);
  assert.equal(neutral(-3, "uint16"), 0);
  assert.equal(neutral(-2.5, "int16"), -2);
  assert.ok(Number.isNaN(neutral(3, "float64")));
});

test("modalities are each asked for once", () => assert.deepEqual(modalitiesOf([INPUT, { modalities: ["dsm", "ir"] }]), ["rgb", "dsm", "ir"]));

const file = (changes) => ({ name: "x.tif", bands: 3, dtype: "uint8", width: 9, height: 8, place: null, ...changes });
const heights = (changes) => file({ bands: 1, dtype: "int16", ...changes });
const place = (x, epsg) => ({ transform: [1, 0, x, 0, -1, 0], epsg });

test("what fits is let in: heights as whole numbers too", () => {
  checkKinds([INPUT], { rgb: file(), dsm: heights() });
  checkKinds([INPUT], { rgb: file({ place: place(5, 32632) }), dsm: heights({ place: place(5.2, 32632) }) });
});

for (const [what, rgb, dsm, sentence] of [
  ["other bands", { bands: 4 }, {}, "otherBands"],
  ["another type", { dtype: "uint16" }, {}, "otherType"],
  ["bytes as heights", {}, { dtype: "uint8" }, "otherType"],
  ["another size", {}, { width: 10 }, "otherSize"],
  ["another place", { place: place(5) }, { place: place(6) }, "otherPlace"],
  ["another CRS", { place: place(5, 32632) }, { place: place(5, 32633) }, "otherPlace"],
]) {
  test(`${what} are refused`, () => assert.throws(() => checkKinds([INPUT], { rgb: file(rgb), dsm: heights(dsm) }), { sentence }));
}

test("windows are cut out of slabs, which go on as their mirror image", () => {
  const slab = Float32Array.of(1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16); // 2 channels x 2 rows x 3 columns
  const target = new Float32Array(2 * 3 * 2);
  cut(slab, [2, 3], 1, [3, 2], target);
  assert.deepEqual([...target], [2, 3, 5, 6, 2, 3, 12, 13, 15, 16, 12, 13]);
  const wider = new Float32Array(2 * 2 * 4);
  cut(slab, [2, 3], 0, [2, 4], wider);
  assert.deepEqual([...wider], [1, 2, 3, 2, 4, 5, 6, 5, 11, 12, 13, 12, 14, 15, 16, 15]);
});
