// Connected pixels of one class, and the lines around them.

/** Number the 4-connected regions of equal labels: {numbers: Int32Array, count}. Labels of 255 are left out (-1). */
export function regions(labels, width, height) {
  const numbers = new Int32Array(labels.length).fill(-1);
  const parents = [];
  for (let i = 0; i < labels.length; i++) {
    if (labels[i] === 255) continue;
    const left = i % width && labels[i - 1] === labels[i] ? root(parents, numbers[i - 1]) : -1;
    const above = i >= width && labels[i - width] === labels[i] ? root(parents, numbers[i - width]) : -1;
    if (left < 0 && above < 0) numbers[i] = parents.push(parents.length) - 1;
    else numbers[i] = join(parents, left, above);
  }
  return renumber(numbers, parents);
}

function root(parents, number) {
  while (parents[number] !== number) number = parents[number] = parents[parents[number]];
  return number;
}

function join(parents, one, other) {
  if (one < 0 || other < 0 || one === other) return Math.max(one, other);
  const [low, high] = one < other ? [one, other] : [other, one];
  parents[high] = low;
  return low;
}

function renumber(numbers, parents) {
  const last = new Int32Array(parents.length);
  let count = 0;
  parents.forEach((parent, i) => (last[i] = parent === i ? count++ : last[root(parents, i)]));
  for (let i = 0; i < numbers.length; i++) if (numbers[i] >= 0) numbers[i] = last[numbers[i]];
  return { numbers, count };
}

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // east, south, west, north: x, y
const AHEAD_LEFT = [[0, -1], [0, 0], [-1, 0], [-1, -1]]; // of a corner, when walking so
const AHEAD_RIGHT = [[0, 0], [-1, 0], [-1, -1], [0, -1]];

/**
 * The rings around all regions: yields {number, ring: [[x, y], ...], area}, corners alone, closed. The region lies to the right
 * of the walker; area (pixels) is above 0 for outlines and below 0 for holes.
 */
export function* rings(numbers, width, height) {
  const seen = new Uint8Array(width * height); // top sides of pixels
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? -1 : numbers[y * width + x]);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const number = numbers[y * width + x];
      if (number < 0 || seen[y * width + x] || at(x, y - 1) === number) continue;
      yield { number, ...walk(at, seen, width, x, y, number) };
    }
  }
}

function walk(at, seen, width, x, y, number) {
  const ring = [[x, y]];
  const start = [x, y];
  let [direction, area] = [0, 0];
  do {
    if (direction === 0) seen[y * width + x] = 1;
    area += STEPS[direction][0] * -y; // the trapezoids between the ring and the top
    x += STEPS[direction][0];
    y += STEPS[direction][1];
    const turned = turn(at, x, y, direction, number);
    if (turned !== direction) ring.push([x, y]);
    direction = turned;
  } while (x !== start[0] || y !== start[1] || direction !== 0);
  return { ring, area };
}

/** To the left where the region goes on there, so that rings touch themselves nowhere. */
function turn(at, x, y, direction, number) {
  const [left, right] = [AHEAD_LEFT[direction], AHEAD_RIGHT[direction]];
  if (at(x + left[0], y + left[1]) === number) return (direction + 3) % 4;
  return at(x + right[0], y + right[1]) === number ? direction : (direction + 1) % 4;
}
