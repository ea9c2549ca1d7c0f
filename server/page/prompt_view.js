// The prompt as the model sees it: rendered by the server, token by token, special ones marked.

import { piecesOfBytes } from "./alignment.js";
import { json } from "./api.js";
import { byId, el } from "./dom.js";
import { walkTokens } from "./token_card.js";

export class PromptView {
  /** `source()` is what would be asked: something with `path` and `body()`. */
  constructor(source) {
    this.source = source;
    this.view = byId("prompt-view");
    this.note = byId("prompt-note");
    this.fold = byId("fold-prompt");
    this.pieces = [];
    this.asking = null;
    walkTokens(this.view, (element) => this.pieces[Number(element.dataset.piece)].tokens);
    this.fold.addEventListener("toggle", () => this.refresh());
  }

  /** Asks again; nothing while the fold is closed. */
  async refresh() {
    this.asking?.abort();
    if (!this.fold.open) return;
    const asking = (this.asking = new AbortController());
    const { path, body } = this.source();
    try {
      const found = await json(`${path}/render`, { body: body(), signal: asking.signal });
      this.#show(Array.isArray(found) ? found[0] : found);
    } catch (problem) {
      if (problem.name === "AbortError") return;
      this.view.replaceChildren();
      byId("prompt-count").textContent = "";
      this.note.textContent = problem.message;
    }
  }

  #show({ tokens, token_ids: ids, max_model_len: most }) {
    const described = tokens.map((token, index) => ({ ...token, id: ids[index] }));
    const { text, pieces } = piecesOfBytes(described);
    for (const piece of pieces) {
      const own = text.slice(piece.start, piece.end);
      piece.tokens = piece.tokens.map((token) => ({ ...token, text: own }));
    }
    this.pieces = pieces;
    this.view.replaceChildren(...pieces.map((piece, index) => this.#token(piece, index, text)));
    byId("prompt-count").textContent = `${ids.length.toLocaleString("en")} ${ids.length === 1 ? "token" : "tokens"}`;
    const room = most - ids.length;
    this.note.textContent = room > 0 ? `${room.toLocaleString("en")} more fit.` : "It is longer than the model can read.";
  }

  #token({ start, end, tokens }, index, text) {
    const special = tokens[0].special;
    // the break is what one reads by, the sign says that it is a token
    const shown = special ? text.slice(start, end) : text.slice(start, end).replaceAll("\n", "↵\n");
    const made = el("span", { className: `token ${special ? "special" : "plain"}`, textContent: shown, tabIndex: -1 });
    made.dataset.piece = index;
    return made;
  }
}
