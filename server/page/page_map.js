// The KV pages as a map: one cell a page, coloured by the request that uses it.

import { colourOf, css, mixed } from "./colours.js";

export const FREE = 0;
export const CACHED = -1;
const LARGEST_CELL = 20; // CSS pixels
const MOST_HEIGHT = 680;
const GAPS_FROM = 5; // device pixels; smaller cells touch

/** Run-length coded pages, `{counts, owners, shared}`, as two arrays with an entry a page. */
export function unrolled(runs) {
  const length = runs.counts.reduce((sum, count) => sum + count, 0);
  const owners = new Int32Array(length);
  const shared = new Uint8Array(length);
  let place = 0;
  runs.counts.forEach((count, index) => {
    owners.fill(runs.owners[index], place, place + count);
    shared.fill(Number(runs.shared[index]), place, place + count);
    place += count;
  });
  return { owners, shared };
}

/** The largest cell, in device pixels, with which `count` of them fit; and how they then lie. */
export function layout(count, width, height, largest) {
  for (let cell = largest; cell > 1; cell -= 1) {
    const columns = Math.floor(width / cell);
    if (columns > 0 && Math.ceil(count / columns) * cell <= height) return { cell, columns };
  }
  return { cell: 1, columns: width };
}

export class PageMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.pages = unrolled({ counts: [] });
    this.marked = null; // a request whose pages stand out
    this.grid = { cell: 1, columns: 1 };
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  show(runs) {
    this.pages = unrolled(runs);
    this.draw();
  }

  mark(request) {
    this.marked = request;
    this.draw();
  }

  /** The page under a pointer, `{page, owner, shared}`, or null. Pages count from 1. */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    const column = Math.floor(((event.clientX - box.left) * scale) / this.grid.cell);
    const row = Math.floor(((event.clientY - box.top) * scale) / this.grid.cell);
    const index = row * this.grid.columns + column;
    if (column >= this.grid.columns || index < 0 || index >= this.pages.owners.length) return null;
    return { page: index + 1, owner: this.pages.owners[index], shared: this.pages.shared[index] === 1 };
  }

  draw() {
    const count = this.pages.owners.length;
    const scale = devicePixelRatio || 1;
    const width = Math.floor(this.canvas.parentElement.clientWidth * scale);
    if (count === 0 || width === 0) return;
    this.grid = layout(count, width, MOST_HEIGHT * scale, Math.round(LARGEST_CELL * scale));
    const { cell, columns } = this.grid;
    const height = Math.ceil(count / columns) * cell;
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.canvas.style.height = `${height / scale}px`;
    }
    const palette = this.#palette();
    const context = this.canvas.getContext("2d");
    if (cell < GAPS_FROM) this.#dots(context, palette);
    else this.#cells(context, palette);
  }

  #palette() {
    const dark = this.dark.matches;
    const paper = dark ? [27, 27, 26] : [255, 255, 255];
    const grounds = { [FREE]: dark ? [44, 43, 41] : [238, 235, 229], [CACHED]: dark ? [92, 90, 85] : [193, 188, 178] };
    const known = new Map();
    const colour = (owner, hit) => {
      const name = 2 * owner + hit;
      if (!known.has(name)) {
        const full = grounds[owner] ?? colourOf(owner, dark);
        const faded = owner > 0 && this.marked !== null && this.marked !== owner;
        known.set(name, faded ? mixed(full, paper, 0.25) : full);
      }
      return known.get(name);
    };
    return { paper, colour };
  }

  /** Cells with gaps; a shared page has a hole. */
  #cells(context, { paper, colour }) {
    const { cell, columns } = this.grid;
    const gap = Math.max(1, Math.round(cell / 10));
    const hole = Math.max(2, Math.round(cell / 3));
    const inset = Math.round((cell - gap - hole) / 2);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.pages.owners.forEach((owner, index) => {
      const x = (index % columns) * cell;
      const y = Math.floor(index / columns) * cell;
      context.fillStyle = css(colour(owner, 0));
      context.fillRect(x, y, cell - gap, cell - gap);
      if (this.pages.shared[index]) {
        context.fillStyle = css(paper);
        context.fillRect(x + inset, y + inset, hole, hole);
      }
    });
  }

  /** Cells of a few pixels; a shared page is lighter. */
  #dots(context, { paper, colour }) {
    const { cell, columns } = this.grid;
    const image = context.createImageData(this.canvas.width, this.canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const words = new Map();
    const word = (owner, hit) => {
      const name = 2 * owner + hit;
      if (!words.has(name)) {
        const [red, green, blue] = hit ? mixed(colour(owner, hit), paper, 0.55) : colour(owner, hit);
        words.set(name, (255 << 24) | (blue << 16) | (green << 8) | red);
      }
      return words.get(name);
    };
    this.pages.owners.forEach((owner, index) => {
      const value = word(owner, this.pages.shared[index]);
      const start = Math.floor(index / columns) * cell * image.width + (index % columns) * cell;
      for (let row = 0; row < cell; row += 1) pixels.fill(value, start + row * image.width, start + row * image.width + cell);
    });
    context.putImageData(image, 0, 0);
  }
}
