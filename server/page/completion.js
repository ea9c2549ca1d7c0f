// The completion: a raw prompt, and how the model goes on with it.

import { Answer, NUM_OTHERS, generate } from "./answer.js";
import { AnswerView } from "./answer_view.js";
import { announce, byId, copyButton, el, framed } from "./dom.js";
import { noticeOf } from "./notice.js";
import { walkTokens } from "./token_card.js";

const PATH = "v1/completions";
const STORE = "ggjax-prompt";
const EXAMPLE = "import os\n\n\ndef read_lines(path):\n";

export class Completion {
  constructor(settings, changed) {
    this.settings = settings;
    this.changed = changed;
    this.path = PATH;
    this.running = null;
    this.answer = null;
    this.prompt = byId("prompt");
    this.prompt.value = sessionStorage.getItem(STORE) ?? EXAMPLE;
    this.output = el("pre", { className: "answer", tabIndex: 0, role: "group", "aria-label": "Continuation; arrow keys walk through its tokens" });
    this.figures = el("span", { className: "figures" });
    this.notices = el("div");
    this.view = new AnswerView(this.output);
    walkTokens(this.output, (token) => this.view.tokensOf(token));
    const append = el("button", { type: "button", className: "quiet", textContent: "Go on from here", onclick: () => this.#append() });
    const retry = el("button", { type: "button", className: "quiet", textContent: "Retry", onclick: () => this.#complete() });
    const buttons = el("span", { className: "actions" }, append, retry, copyButton(() => this.prompt.value + this.answer.text));
    byId("continuation").append(this.output, this.notices, el("footer", {}, this.figures, buttons));
    byId("completion").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#complete();
    });
    byId("completion-stop").addEventListener("click", () => this.stop());
    this.prompt.addEventListener("input", () => this.#keep());
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.#complete();
      }
    });
  }

  body() {
    const body = { prompt: this.prompt.value, stream: true, ...this.settings.params() };
    return this.settings.probabilities ? { ...body, logprobs: NUM_OTHERS } : body;
  }

  stop() {
    this.running?.abort();
  }

  redraw() {
    if (!this.answer) return;
    const pieces = this.answer.pieces;
    this.view.show(this.answer.text, pieces, { formatted: false, ending: this.answer.endingOf(pieces) });
    this.figures.textContent = this.answer.finish ? this.answer.figures : "";
  }

  #keep() {
    sessionStorage.setItem(STORE, this.prompt.value);
    this.changed();
  }

  #append() {
    if (this.running) return;
    this.prompt.value += this.answer.text;
    this.#keep();
    this.#complete();
  }

  async #complete() {
    if (this.running) return;
    this.answer = new Answer();
    this.running = new AbortController();
    this.notices.replaceChildren();
    byId("continuation").hidden = false;
    this.#showRunning(true);
    const redraw = framed(() => this.redraw());
    redraw();
    const body = { ...this.body(), stream_options: { include_usage: true } };
    try {
      await generate(PATH, body, this.answer, this.running.signal, redraw);
      announce(`Continuation: ${this.answer.figures}`);
    } catch (problem) {
      this.notices.replaceChildren(noticeOf(problem));
    }
    this.running = null;
    this.#showRunning(false);
    this.redraw();
  }

  #showRunning(running) {
    const hadFocus = document.activeElement === byId("completion-stop");
    byId("completion-stop").hidden = !running;
    byId("complete").hidden = running;
    byId("continuation").ariaBusy = String(running);
    if (hadFocus && !running) this.prompt.focus();
  }
}
