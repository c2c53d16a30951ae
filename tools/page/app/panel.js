// The panel beside the view: images, progress, classes, faults.

import { RAMP, css, element, make, show } from "./dom.js";
import { areaUnit, faultText, say } from "./texts.js";

/** The list of images; choose(image): called when one is clicked. */
export function listImages(images, current, choose) {
  show("images", images.length > 0);
  const items = images.map((image) => {
    const button = make("button", { type: "button", "aria-current": String(image === current) }, make("span", {}, image.name), make("small", {}, stateOf(image)));
    button.addEventListener("click", () => choose(image));
    return make("li", {}, button);
  });
  element("list").replaceChildren(...items);
}

function stateOf(image) {
  if (image.fault) return "!";
  if (!image.about) return say("waiting");
  if (image.map.finished || !image.map.done) return say("opened", image.about);
  return say("part", { percent: Math.floor(100 * image.map.share) });
}

/** What goes on, in words. */
export function tell(text) {
  if (element("status").textContent !== text) element("status").textContent = text;
}

/** The bar and the time left; share: 0 to 1, or null where nothing is being labelled. */
export function progress(share, started) {
  show("line", share !== null);
  element("left").textContent = "";
  if (share === null) return;
  element("bar").value = share;
  const seconds = (performance.now() - started) / 1000;
  if (share > 0.02 && seconds > 1) element("left").textContent = say("left", { seconds: (seconds * (1 - share)) / share });
}

/** A fault, in a sentence that stays until it is closed. */
export function complain(fault) {
  const close = make("button", { type: "button", "aria-label": "Close" }, "×");
  const box = make("p", { className: "fault" }, faultText(fault), close);
  close.addEventListener("click", () => box.remove());
  element("faults").append(box);
}

/** The table of classes; toggle(label): called when one is shown or hidden. */
export function makeRows(net, toggle) {
  const rows = net.classes.map((name, label) => {
    const box = make("input", { type: "checkbox", checked: true, id: `class-${label}`, "aria-label": `show ${name}` });
    const swatch = make("span", { className: "swatch", style: `background:${css(net.palette[label])}` });
    const row = make("tr", {}, make("td", {}, box), make("th", { scope: "row" }, make("label", { htmlFor: box.id }, swatch, name)), ...[1, 2, 3].map(() => make("td", { className: "n" })));
    box.addEventListener("change", () => {
      row.classList.toggle("off", !box.checked);
      toggle(label);
    });
    return row;
  });
  element("rows").replaceChildren(...rows);
  const stops = RAMP.filter((_, i) => i % 10 === 0).map(css);
  element("ramp").firstElementChild.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
}

/** Fill in a map's numbers. */
export function fillRows(map) {
  const table = map.table;
  const total = table.reduce((sum, { area }) => sum + (area ?? 0), 0);
  const { unit, size, digits } = areaUnit(total);
  element("area-unit").textContent = map.areas ? unit : "pixels";
  const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)} %`);
  table.forEach((cell, label) => {
    const cells = element("rows").rows[label].querySelectorAll("td.n");
    const amount = map.areas ? (cell.area / size).toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits }) : cell.pixels.toLocaleString("en");
    [percent(cell.share), amount, percent(cell.confidence)].forEach((text, i) => (cells[i].textContent = text));
  });
  element("area-note").textContent = map.areas ? "" : "The file does not say how large its pixels are on the ground.";
}

/** What is under the pointer; found: {row, col, x, y} or null. */
export function readOut(found, map, net) {
  show("readout", Boolean(found && map));
  if (!found || !map) return;
  const { label, shares } = map.at(found.row, found.col);
  const parts = shares.slice(0, 3).filter(([, share], i) => !i || share > 0);
  const words = parts.map(([label, share], i) => make(i ? "span" : "b", {}, `${i ? " · " : ""}${net.classes[label]} ${share} %`));
  if (!words.length) words.push(make("span", {}, say(label === 255 ? "noData" : "notYet")));
  element("readout").replaceChildren(...words, make("br"), make("span", {}, placeOf(found, map)));
}

function placeOf({ row, col }, map) {
  const pixel = say("place", { row, col });
  if (!map.place) return pixel;
  const [a, b, c, d, e, f] = map.place.transform;
  const digits = map.place.kind === "geographic" ? 6 : 1;
  const at = [a * (col + 0.5) + b * (row + 0.5) + c, d * (col + 0.5) + e * (row + 0.5) + f];
  return `${pixel} · ${at.map((value) => value.toFixed(digits)).join(", ")}${map.place.epsg ? ` (EPSG:${map.place.epsg})` : ""}`;
}

export const finishedText = (image, seconds) => {
  const speed = (image.about.width * image.about.height) / 1e6 / seconds;
  return say("finished", { name: image.name, seconds, speed: speed.toPrecision(2) });
};

