// The files that the page saves, by kind.

import { noLabel } from "./bytes.js";
import { writeGeoTiff } from "./geotiff.js";
import { writePng } from "./png.js";
import { writePolygons } from "./polygons.js";
import { writeCsv } from "./table.js";

/** map: {name, width, height, labels, confidence (per cent), place, areas}; 255 where there is no data. Returns a Blob. */
export async function save(kind, map, net, { least = 0 } = {}) {
  const { width, height } = map;
  const metadata = { made_by: `orthonets page, ${net.name}, iteration ${net.iteration}`, image: map.name };
  if (kind === "labels") {
    const none = noLabel(net);
    const pixels = map.labels.map((label) => (label === 255 ? none : label));
    net.classes.forEach((name, label) => (metadata[`class_${label}`] = name));
    return writeGeoTiff({ width, height, pixels }, map.place, { colours: net.palette, nodata: none, metadata });
  }
  if (kind === "confidence") return writeGeoTiff({ width, height, pixels: map.confidence }, map.place, { colours: null, nodata: 255, metadata });
  if (kind === "colours") return writePng(map, net);
  if (kind === "polygons") return writePolygons(map, net, least);
  return writeCsv(map, net);
}
