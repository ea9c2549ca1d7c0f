// Shows an answer while it grows: blocks of markup, and in them the tokens, each with its tint.

import { doubt, visible } from "./alignment.js";
import { copyButton, el } from "./dom.js";
import { blocks, plainBlock } from "./markup.js";

const TAGS = { text: "span", code: "code", bold: "strong" };

export class AnswerView {
  /** `element` gets the answer; its tokens can be asked for with `tokensOf`. */
  constructor(element) {
    this.element = element;
    this.pieces = [];
    this.text = "";
    this.keys = [];
  }

  /**
   * Shows `text`; `pieces` lie along it (alignment.js), none for an answer without probabilities.
   * Blocks that stay as they were keep their elements.
   */
  show(text, pieces, { formatted, ending = null }) {
    this.text = text;
    this.pieces = pieces;
    this.formatted = formatted;
    const wanted = formatted ? blocks(text) : plainBlock(text);
    const keys = wanted.map((block) => `${formatted} ${block.kind} ${block.start} ${block.end} ${pieces.length > 0}`);
    let same = 0;
    while (same < keys.length - 1 && keys[same] === this.keys[same]) same += 1;
    this.keys = keys;
    while (this.element.childNodes.length > same) this.element.lastChild.remove();
    for (const block of wanted.slice(same)) this.element.append(this.#block(block));
    if (ending !== null) this.#append(this.#token(ending, this.#name(this.pieces[ending])));
  }

  /** The tokens that a `.token` element stands for. */
  tokensOf(element) {
    return this.pieces[Number(element.dataset.piece)]?.tokens ?? [];
  }

  #append(node) {
    const last = this.element.lastElementChild;
    if (last?.matches("p, h4, h5, h6")) last.append(node);
    else this.element.append(el("p", {}, node));
  }

  #block(block) {
    const parts = block.marks.map((mark) => {
      const tag = block.kind === "code" ? "span" : TAGS[mark.kind];
      return el(tag, {}, ...this.#stretch(mark.start, mark.end));
    });
    if (block.kind === "heading") return el("h4", {}, ...parts);
    if (block.kind === "text") return el("p", {}, ...parts);
    const code = () => this.text.slice(block.start, block.end);
    return el(
      "div",
      { className: "code" },
      el("div", { className: "code-head" }, el("span", { textContent: block.language || "code" }), copyButton(code)),
      el("pre", {}, el("code", {}, ...parts)),
    );
  }

  /** The text from `start` to `end`, as tokens where there are any. */
  #stretch(start, end) {
    if (this.pieces.length === 0) return [this.text.slice(start, end)];
    const nodes = [];
    let done = start;
    for (let index = this.#firstAfter(start); index < this.pieces.length && done < end; index += 1) {
      const piece = this.pieces[index];
      if (piece.start >= end) break;
      const to = Math.min(piece.end, end);
      const from = Math.max(piece.start, done);
      if (from > done) nodes.push(this.text.slice(done, from));
      if (to > from) nodes.push(this.#token(index, this.text.slice(from, to)));
      done = Math.max(done, to);
    }
    if (done < end) nodes.push(this.text.slice(done, end));
    return nodes;
  }

  /** The first piece that ends behind `place`. */
  #firstAfter(place) {
    let low = 0;
    let high = this.pieces.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.pieces[middle].end <= place) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #token(index, text) {
    const { tokens, start, end } = this.pieces[index];
    const span = el("span", { className: "token", textContent: text, tabIndex: -1 });
    if (start === end) span.classList.add("special");
    span.dataset.piece = index;
    span.style.setProperty("--doubt", Math.max(...tokens.map((token) => doubt(token.logprob))).toFixed(3));
    return span;
  }

  #name(piece) {
    return piece.tokens.map((token) => visible(token.text)).join("");
  }
}
