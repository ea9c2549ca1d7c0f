// The requests of the live view, a row each, in the colours of their pages.

import { colourOf, css } from "./colours.js";
import { el } from "./dom.js";

export class RequestTable {
  /** `marked(id)` is called for the request under the pointer or the focus, null for none. */
  constructor(body, marked) {
    this.body = body;
    this.rows = new Map();
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    const mark = (event) => marked(idOf(event));
    body.addEventListener("pointerover", mark);
    body.addEventListener("focusin", mark);
    body.addEventListener("pointerleave", () => marked(null));
    body.addEventListener("focusout", () => marked(null));
  }

  /** Rows stay where they are while their requests go on, and so does the focus. */
  show(running, waiting) {
    const wanted = [...running, ...waiting];
    const ids = new Set(wanted.map((request) => request.request_id));
    for (const [id, row] of this.rows) {
      if (ids.has(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    wanted.forEach((request, index) => {
      const row = this.rows.get(request.request_id) ?? this.#row(request.request_id);
      this.#fill(row, request);
      if (this.body.children[index] !== row) this.body.insertBefore(row, this.body.children[index] ?? null);
    });
    this.body.classList.toggle("empty", wanted.length === 0);
  }

  #row(id) {
    const button = el("button", { type: "button", className: "request" }, el("span", { className: "swatch used" }), String(id));
    const row = el("tr", {}, el("th", { scope: "row" }, button));
    for (let column = 0; column < 4; column += 1) row.append(el("td"));
    row.children[1].append(el("span", { className: "progress" }, el("span"), el("span")));
    row.dataset.request = id;
    this.rows.set(id, row);
    return row;
  }

  #fill(row, request) {
    const [, progress, prompt, cached, output] = row.children;
    const all = request.num_prompt + request.max_tokens;
    const read = Math.min(request.num_computed, request.num_prompt);
    row.classList.toggle("waiting", request.num_pages === 0);
    row.style.setProperty("--colour", css(colourOf(request.request_id, this.dark.matches)));
    const [first, second] = progress.firstElementChild.children;
    first.style.width = `${(100 * read) / all}%`;
    second.style.width = `${(100 * request.num_output) / all}%`;
    prompt.textContent = request.num_prompt.toLocaleString("en");
    cached.textContent = request.num_cached > 0 ? request.num_cached.toLocaleString("en") : "–";
    output.textContent = request.num_pages === 0 ? "waiting" : `${request.num_output} of ${request.max_tokens}`;
  }
}

const idOf = (event) => Number(event.target.closest("tr")?.dataset.request) || null;
