// The map as GeoJSON polygons: connected pixels of a class become one, with its area and confidence.

import { PageError } from "../read/error.js";
import { regions, rings } from "./regions.js";

const MOST = 2 ** 26; // pixels, whose regions take five bytes each

/** map: {width, height, labels, confidence, place, areas}. least: pixels, below which polygons and holes are left out. */
export function writePolygons(map, net, least) {
  if (map.labels.length > MOST) throw new PageError("tooManyForPolygons", { most: MOST / 1e6 });
  const { numbers, count } = regions(map.labels, map.width, map.height);
  const sums = sumUp(map, numbers, count);
  const shapes = Array.from({ length: count }, () => []);
  for (const { number, ring, area } of rings(numbers, map.width, map.height)) {
    if (sums.pixels[number] >= least && (area > 0 || -area >= least)) shapes[number].push({ ring, area });
  }
  const lines = shapes.flatMap((shape, number) => (shape.length ? [feature(map, net, sums, number, shape)] : []));
  const head = `{"type":"FeatureCollection",${crsOf(map.place)}"features":[\n`;
  return new Blob([head, lines.join(",\n"), "\n]}\n"], { type: "application/geo+json" });
}

function sumUp({ labels, confidence }, numbers, count) {
  const sums = { pixels: new Float64Array(count), confidence: new Float64Array(count), label: new Uint8Array(count) };
  for (let i = 0; i < numbers.length; i++) {
    const number = numbers[i];
    if (number < 0) continue;
    sums.pixels[number]++;
    sums.confidence[number] += confidence[i];
    sums.label[number] = labels[i];
  }
  return sums;
}

function feature({ place, areas }, net, sums, number, shape) {
  shape.sort((one, other) => other.area - one.area); // the outline first
  const pixels = shape.reduce((sum, { area }) => sum + area, 0);
  const row = Math.floor(shape[0].ring.reduce((sum, [, y]) => sum + y, 0) / shape[0].ring.length);
  const properties = {
    class: net.classes[sums.label[number]],
    label: sums.label[number],
    pixels,
    area_m2: areas ? Number((pixels * areas[Math.min(row, areas.length - 1)]).toPrecision(9)) : null,
    confidence: Math.round(100 * (sums.confidence[number] / sums.pixels[number])) / 1e4,
  };
  const digits = place?.kind === "geographic" ? 9 : 4;
  const coordinates = shape.map(({ ring }) => ring.map(([x, y]) => pointOf(place, x, y, digits)).reverse());
  return JSON.stringify({ type: "Feature", properties, geometry: { type: "Polygon", coordinates } });
}

function pointOf(place, x, y, digits) {
  const [a, b, c, d, e, f] = place?.transform ?? [1, 0, 0, 0, -1, 0];
  return [a * x + b * y + c, d * x + e * y + f].map((value) => Number(value.toFixed(digits)));
}

/** As GDAL and QGIS read it; without it coordinates would count as degrees. */
function crsOf(place) {
  return place?.epsg ? `"crs":{"type":"name","properties":{"name":"urn:ogc:def:crs:EPSG::${place.epsg}"}},` : "";
}
