// The classes of a map: pixels, share, area, mean confidence; and the same as CSV.

/** By class {name, colour, pixels, share, area (square metres or null), confidence (0 to 1 or null)}. */
export function classTable({ labels, confidence, width, areas }, net) {
  const count = net.classes.length;
  const sums = { pixels: new Float64Array(count), area: new Float64Array(count), confidence: new Float64Array(count) };
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i];
    if (label >= count) continue;
    sums.pixels[label]++;
    sums.confidence[label] += confidence[i];
    if (areas) sums.area[label] += areas[Math.floor(i / width)];
  }
  return tableOf(sums, net, Boolean(areas));
}

/** sums: by class pixels, area, confidence in per cent. placed: whether areas are known. */
export function tableOf(sums, net, placed) {
  const total = sums.pixels.reduce((sum, n) => sum + n, 0);
  return net.classes.map((name, label) => ({
    name,
    colour: net.palette[label],
    pixels: sums.pixels[label],
    share: total ? sums.pixels[label] / total : null,
    area: placed ? sums.area[label] : null,
    confidence: sums.pixels[label] ? sums.confidence[label] / sums.pixels[label] / 100 : null,
  }));
}

export function writeCsv(map, net) {
  const number = (value, digits) => (value === null ? "" : value.toFixed(digits));
  const rows = classTable(map, net).map((row, label) => [
    label, quoted(row.name), `#${row.colour.map((part) => part.toString(16).padStart(2, "0")).join("")}`,
    row.pixels, number(row.share, 6), number(row.area, 3), number(row.confidence, 4),
  ]);
  const lines = [["label", "class", "colour", "pixels", "share", "area_m2", "mean_confidence"], ...rows].map((row) => row.join(","));
  return new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" });
}

const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
