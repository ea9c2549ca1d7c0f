// Small charts of the last minute: a line, its present value, its largest.

import { el, svg } from "./dom.js";

const WIDTH = 240;
const HEIGHT = 48;
const SECONDS = 60;

/** A number with three digits that count: 1,234 or 56.7 or 0.12. */
export function short(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const digits = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : 2;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** The path of a line through points `{time, value}`, the newest at the right; null breaks it. */
export function linePath(points, most, width, height) {
  const now = points.at(-1)?.time;
  let path = "";
  let drawing = false;
  points.forEach(({ time, value }) => {
    if (value === null) {
      drawing = false;
      return;
    }
    const x = (width * (1 - (now - time) / SECONDS)).toFixed(1);
    const y = (height - 1 - (value / most) * (height - 2)).toFixed(1);
    path += drawing ? `L${x} ${y}` : `M${x} ${y}h0`; // a point alone is a dot
    drawing = true;
  });
  return path;
}

export class Chart {
  /** `unit` follows the number; the chart begins at 0 and is at least `least` high. */
  constructor(label, unit, least = 1) {
    this.label = label;
    this.unit = unit;
    this.least = least;
    this.points = [];
    this.number = el("span", { className: "figure", textContent: "–" });
    this.peak = el("span", { className: "peak" });
    this.line = svg("path", { class: "line" });
    this.area = svg("path", { class: "area" });
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, this.area, this.line);
    this.element = el(
      "figure",
      { className: "card chart" },
      el("figcaption", { textContent: label }),
      el("p", { className: "value" }, this.number, el("span", { className: "unit", textContent: ` ${unit}` })),
      picture,
      this.peak,
    );
  }

  /** Adds the value at a time in seconds, null for none. */
  push(time, value) {
    this.points = this.points.filter((point) => point.time <= time && point.time > time - SECONDS);
    this.points.push({ time, value });
    const seen = this.points.map((point) => point.value).filter((one) => one !== null);
    const most = Math.max(this.least, ...seen);
    const path = linePath(this.points, most, WIDTH, HEIGHT);
    this.line.setAttribute("d", path);
    this.area.setAttribute("d", areaOf(path));
    this.number.textContent = short(seen.at(-1) ?? null);
    this.peak.textContent = seen.length > 0 ? `peak ${short(Math.max(...seen))}` : "";
  }
}

/** Each stretch of a line closed along the ground. */
function areaOf(path) {
  return path
    .split("M")
    .filter((stretch) => stretch.includes("L"))
    .map((stretch) => {
      const points = stretch.replace("h0", "").split("L");
      return `M${points[0].split(" ")[0]} ${HEIGHT}L${points.join("L")}L${points.at(-1).split(" ")[0]} ${HEIGHT}Z`;
    })
    .join("");
}
