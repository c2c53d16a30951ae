// The view: image and map on one canvas, panned and zoomed.

export const SIDE = 512; // pixels of a tile of image or map
const MARGIN = 24; // CSS pixels around an image that fits

export class View {
  #asked = false;

  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.image = null; // ImageTiles
    this.map = null; // MapTiles
    this.mode = "overlay";
    this.opacity = 0.55;
    this.swipe = 0.5; // of the width
    Object.assign(this, { scale: 1, x: 0, y: 0, fitted: true, moved: () => {} });
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  get size() {
    return { width: this.canvas.clientWidth, height: this.canvas.clientHeight };
  }

  show(image, map) {
    const same = this.image && this.image.about.width === image.about.width && this.image.about.height === image.about.height;
    Object.assign(this, { image, map });
    if (!same || this.fitted) this.fit();
    this.draw();
  }

  /** All of the image. */
  fit() {
    if (!this.image) return;
    const [{ width, height }, about] = [this.size, this.image.about];
    this.scale = Math.min((width - 2 * MARGIN) / about.width, (height - 2 * MARGIN) / about.height, 8);
    this.x = (width - about.width * this.scale) / 2;
    this.y = (height - about.height * this.scale) / 2;
    this.fitted = true;
    this.draw();
  }

  pan(dx, dy) {
    Object.assign(this, { x: this.x + dx, y: this.y + dy, fitted: false });
    this.#keepInSight();
    this.draw();
  }

  /** Zoom by a factor around a point (CSS pixels, default: the middle). */
  zoom(factor, x = this.size.width / 2, y = this.size.height / 2) {
    if (!this.image) return;
    const least = Math.min(0.5, 200 / Math.max(this.image.about.width, this.image.about.height));
    const scale = Math.min(32, Math.max(least, this.scale * factor));
    const change = scale / this.scale;
    Object.assign(this, { scale, x: x - (x - this.x) * change, y: y - (y - this.y) * change, fitted: false });
    this.#keepInSight();
    this.draw();
  }

  /** The pixel under a point, or null. */
  pixelAt(x, y) {
    if (!this.image) return null;
    const [col, row] = [Math.floor((x - this.x) / this.scale), Math.floor((y - this.y) / this.scale)];
    const { width, height } = this.image.about;
    return col >= 0 && row >= 0 && col < width && row < height ? { row, col } : null;
  }

  #keepInSight() {
    const [{ width, height }, about] = [this.size, this.image?.about ?? { width: 0, height: 0 }];
    const held = (offset, length, room) => Math.min(room - 40, Math.max(40 - length * this.scale, offset));
    Object.assign(this, { x: held(this.x, about.width, width), y: held(this.y, about.height, height) });
  }

  #resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.size.width * ratio);
    this.canvas.height = Math.round(this.size.height * ratio);
    if (this.fitted) this.fit();
    this.draw();
  }

  draw() {
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame(() => {
      this.#asked = false;
      this.#drawNow();
      this.moved(this);
    });
  }

  #drawNow() {
    const { context, canvas, image } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!image) return;
    this.#drawImage();
    if (!this.map || this.mode === "image") return;
    context.save();
    if (this.mode === "swipe") {
      const edge = Math.round(this.swipe * canvas.width);
      context.beginPath();
      context.rect(edge, 0, canvas.width - edge, canvas.height);
      context.clip();
    }
    context.globalAlpha = this.mode === "swipe" ? 1 : this.opacity;
    context.imageSmoothingEnabled = false;
    for (const place of this.#places()) this.#put(this.map.at(...place), place);
    context.restore();
  }

  #drawImage() {
    const { context, image } = this;
    context.imageSmoothingEnabled = this.scale < 1;
    context.imageSmoothingQuality = "medium";
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = image.overview;
    const [reachX, reachY] = [width * image.factor, height * image.factor];
    const [left, top] = [Math.round(this.x * ratio), Math.round(this.y * ratio)];
    const scale = this.scale * ratio;
    const part = [image.about.width / reachX, image.about.height / reachY]; // the last column may stand for less
    context.drawImage(image.overview, 0, 0, width * part[0], height * part[1], left, top, image.about.width * scale, image.about.height * scale);
    image.forget();
    if (scale * image.factor <= 1.01 || image.factor === 1) return;
    for (const place of this.#places()) {
      const tile = image.at(...place);
      if (tile) this.#put(tile, place);
    }
    image.fetchWished();
  }

  /** [level, x, y] of the tiles in sight, at the level that the screen can show. */
  #places() {
    const ratio = window.devicePixelRatio || 1;
    const level = Math.max(0, Math.floor(Math.log2(1 / (this.scale * ratio)) + 0.01));
    const reach = SIDE << level;
    const { width, height } = this.image.about;
    const range = (offset, room, length) => {
      const first = Math.max(0, Math.floor(-offset / this.scale / reach));
      const last = Math.min(Math.ceil(length / reach), Math.ceil((room - offset) / this.scale / reach));
      return Array.from({ length: Math.max(0, last - first) }, (_, i) => first + i);
    };
    const columns = range(this.x, this.size.width, width);
    return range(this.y, this.size.height, height).flatMap((y) => columns.map((x) => [level, x, y]));
  }

  #put(tile, [level, x, y]) {
    const reach = SIDE << level;
    const { width, height } = this.image.about;
    const ratio = window.devicePixelRatio || 1;
    const at = (offset, pixel) => Math.round((offset + pixel * this.scale) * ratio);
    const [left, right] = [at(this.x, x * reach), at(this.x, Math.min(width, (x + 1) * reach))];
    const [top, bottom] = [at(this.y, y * reach), at(this.y, Math.min(height, (y + 1) * reach))];
    this.context.drawImage(tile, left, top, right - left, bottom - top);
  }
}
