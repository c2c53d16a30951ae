// Where a GeoTIFF lies on Earth: its transform, its CRS as far as the keys tell, and square metres of a pixel by row.

const RADIUS = 6378137; // of WGS 84, metres
const FLATTENING = 1 / 298.257223563;
const UNITS = { 9001: 1, 9002: 0.3048, 9003: 1200 / 3937, 9036: 1000 }; // metres in a linear unit, by EPSG's number
const COPIED = [33550, 33922, 34264, 34735, 34736, 34737]; // the tags that say it all

/**
 * {transform: [a, b, c, d, e, f], epsg, kind, unit, tags} or null where the file has no place.
 *
 * transform: x = a col + b row + c, y = d col + e row + f, from the upper left corner of the first pixel. kind: "projected",
 * "geographic", "mercator" or null. unit: metres of the CRS's unit, null where the file does not tell. tags: by number, as read.
 */
export function placeOf(tags) {
  const keys = keysOf(tags[34735]);
  const corner = keys[1025] === 2 ? 0.5 : 0; // PixelIsPoint: tie points are the middles of pixels
  const transform = transformOf(tags, corner);
  if (!transform) return null;
  const epsg = known(keys[3072]) ?? known(keys[2048]);
  const kept = Object.fromEntries(COPIED.filter((tag) => tags[tag] !== undefined).map((tag) => [tag, tags[tag]]));
  return { transform, epsg, kind: kindOf(keys), unit: UNITS[keys[3076]] ?? unitByCode(keys[3072]), tags: kept };
}

const known = (code) => (code && code < 32767 ? code : undefined);

function keysOf(directory) {
  const keys = {};
  for (let i = 4; directory && i + 3 < directory.length; i += 4) if (directory[i + 1] === 0) keys[directory[i]] = directory[i + 3];
  return keys;
}

function kindOf(keys) {
  if (keys[3072] === 3857) return "mercator";
  return { 1: "projected", 2: "geographic" }[keys[1024]] ?? null;
}

/** Most national grids are in metres, but not all: only UTM and its like are taken to be without being told. */
function unitByCode(code) {
  const metric = [[32601, 32660], [32701, 32760], [25828, 25838], [26901, 26923], [3857, 3857]];
  return metric.some(([first, last]) => code >= first && code <= last) ? 1 : null;
}

function transformOf(tags, corner) {
  const shifted = ([a, b, c, d, e, f]) => [a, b, c - corner * (a + b), d, e, f - corner * (d + e)];
  const matrix = tags[34264];
  if (matrix) return shifted([matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]]);
  const [scale, tie] = [tags[33550], tags[33922]];
  if (!scale || !tie || !(scale[0] > 0)) return null;
  const [a, e] = [scale[0], -scale[1]];
  return shifted([a, 0, tie[3] - a * tie[0], 0, e, tie[4] - e * tie[1]]);
}

/**
 * Square metres of a pixel in each row, or null where they are not known. In a projected CRS it is the area on the map; in
 * degrees, and in Web Mercator, that on the ellipsoid at the middle column.
 */
export function pixelAreas(place, height, width) {
  if (!place?.kind) return null;
  const [a, b, c, d, e, f] = place.transform;
  if (place.kind === "projected") return place.unit && new Float64Array(height).fill(Math.abs(a * e - b * d) * place.unit ** 2);
  const at = (row, col) => degrees(place.kind, a * col + b * row + c, d * col + e * row + f);
  return Float64Array.from({ length: height }, (_, row) => {
    const [top, right, below] = [at(row, width / 2), at(row, width / 2 + 1), at(row + 1, width / 2)];
    return Math.abs((zone(top[1]) - zone(below[1])) * ((right[0] - top[0]) * Math.PI) / 180);
  });
}

function degrees(kind, x, y) {
  if (kind === "geographic") return [x, y];
  return [((x / RADIUS) * 180) / Math.PI, ((2 * Math.atan(Math.exp(y / RADIUS)) - Math.PI / 2) * 180) / Math.PI];
}

/** Square metres of the ellipsoid between the equator and a latitude, for each radian of longitude. */
function zone(latitude) {
  const e = Math.sqrt(FLATTENING * (2 - FLATTENING));
  const sine = e * Math.sin((latitude * Math.PI) / 180);
  return ((RADIUS ** 2 * (1 - e * e)) / (2 * e)) * (sine / (1 - sine * sine) + Math.atanh(sine));
}
