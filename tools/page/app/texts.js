// All that the page says, in one table. Sentences are functions of what stands in their gaps.

export const TEXTS = {
  // faults: what happened, the value, what to do
  empty: ({ name }) => `${name} is empty (0 bytes): choose another file.`,
  unreadable: ({ name }) => `${name} cannot be read: it is a folder, or it was moved since; choose the images themselves.`,
  unknownKind: ({ name }) => `${name} is no PNG, JPEG or TIFF: save the image as one of these.`,
  broken: ({ name, reason }) => `${name} breaks off or is damaged${reason ? ` (${reason})` : ""}: fetch it again.`,
  interlaced: ({ name }) => `${name} is an interlaced PNG, which is not read here: save it without interlacing, or as TIFF.`,
  tooLarge: ({ name, size }) => `${name} has ${size} pixels, more than fits here: save it as a tiled GeoTIFF of at most 1 gigapixel, or cut it into pieces.`,
  compression: ({ name, number }) => `${name} is compressed in a way that is not read here (TIFF's number ${number}): save it with deflate or LZW.`,
  otherColours: ({ name }) => `${name} is a JPEG in CMYK: save it in RGB.`,
  otherNumbers: ({ name }) => `${name} holds complex numbers: save it as whole numbers or floats.`,
  scaled: ({ name }) => `${name} says that its values are to be scaled, which is not done here: label it with inference.py, or save it with the scaled values.`,
  otherBands: ({ name, bands, wanted, modality }) => `${name} has ${bands} band${bands === 1 ? "" : "s"}, but the net was trained on ${wanted} of ${modality}: choose another image, or select the bands.`,
  otherType: ({ name, dtype, trained, modality }) => `${name} holds ${dtype} values, but the net was trained on ${trained} of ${modality}: convert it to ${trained}, with the range that the training tiles have.`,
  otherSize: ({ name, size, first, wanted }) => `${name} has ${size} pixels, ${first} has ${wanted}: the files of one place must agree.`,
  otherPlace: ({ name, first }) => `${name} does not lie where ${first} lies: they are no files of one place.`,
  noNumbers: ({ row }) => `The net gives no numbers near row ${row}: its weights have diverged, or the values of the image are far from the trained ones.`,
  computing: ({ reason }) => `The net could not be computed (${reason}): close other tabs, or reload the page.`,
  memory: () => "The browser's memory is used up: close other tabs, or label a smaller image.",
  unexpected: ({ reason }) => `Something went wrong that should not (${reason}): please reload the page.`,
  tooManyForPolygons: ({ most }) => `Polygons are made of maps up to ${Math.floor(most)} megapixels here: save the label GeoTIFF and polygonise it in QGIS.`,
  oldBrowser: () => "This browser is too old for the page: it needs WebAssembly with SIMD and DecompressionStream (Chrome or Edge 91, Firefox 113, Safari 16.4, or newer).",
  noNet: ({ reason }) => `The net could not be started (${reason}): try another browser, or a newer version of this one.`,
  missingModality: ({ modality }) => `Choose a file for ${modality} too: the net reads all of them together.`,

  // what goes on
  starting: () => "Starting the net …",
  ready: () => "Ready.",
  reading: ({ name }) => `Reading ${name} …`,
  labelling: ({ name }) => `Labelling ${name}`,
  finished: ({ name, seconds, speed }) => `${name}: finished in ${duration(seconds)} (${speed} megapixels/s)`,
  stopped: ({ name }) => `${name}: stopped; what is labelled stays.`,
  left: ({ seconds }) => `about ${duration(seconds)} left`,
  saving: ({ name }) => `Making ${name} …`,
  saved: ({ name }) => `${name} is saved.`,

  // how it computes
  onProcessor: ({ workers }) => `Computes on the processor: WebAssembly with SIMD in ${workers} worker${workers === 1 ? "" : "s"}. Windows are dealt out to them, since a page opened from a disk gets no threads that share memory.`,
  onGraphics: ({ times }) => `Computes on the graphics card by WebGPU: ${times} times as fast as the processor here, and checked against it at the start.`,
  noGraphics: () => "WebGPU was asked for; the browser offers no graphics card.",
  worseGraphics: ({ reason }) => `WebGPU was tried and left aside: ${reason}.`,
  slower: ({ times }) => `the processor is ${times} times as fast`,
  equal: () => "it is hardly faster than the processor",
  late: ({ seconds }) => `it was not ready after ${seconds} s`,
  differs: ({ share }) => `its labels agree with the processor's on ${share} % of the pixels only`,

  // under the pointer
  place: ({ row, col }) => `row ${row}, column ${col}`,
  noData: () => "no data",
  notYet: () => "not labelled yet",

  // states of images
  waiting: () => "waits",
  opened: ({ width, height }) => `${width.toLocaleString("en")} × ${height.toLocaleString("en")}`,
  part: ({ percent }) => `${percent} %`,
};

/** A sentence by its name. */
export const say = (name, values = {}) => TEXTS[name](values);

/** What a fault, {sentence, values}, or any error says. */
export function faultText(fault) {
  if (fault?.sentence in TEXTS) return say(fault.sentence, fault.values);
  return say("unexpected", { reason: fault?.message ?? String(fault) });
}

/** 75 as "1 min 15 s". */
export function duration(seconds) {
  if (seconds < 10) return `${Math.max(0.1, seconds).toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const [minutes, rest] = [Math.floor(seconds / 60), Math.round(seconds % 60)];
  return minutes < 60 ? `${minutes} min${rest && minutes < 10 ? ` ${rest} s` : ""}` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Square metres with the unit that makes them easy to read; unit: of the largest in a table, so that rows compare. */
export function areaUnit(total) {
  if (total < 1e5) return { unit: "m²", size: 1, digits: 0 };
  return total < 1e8 ? { unit: "ha", size: 1e4, digits: 2 } : { unit: "km²", size: 1e6, digits: 2 };
}
