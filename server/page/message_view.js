// One message of the chat on the page: its text, its buttons, the field to edit it in.

import { AnswerView } from "./answer_view.js";
import { el, framed } from "./dom.js";
import { noticeOf } from "./notice.js";
import { walkTokens } from "./token_card.js";

const NAMES = { user: "You", assistant: "Model" };

export class MessageView {
  /** `actions`: `edit(text)`, `retry()`, and `copy`, a button. */
  constructor(role, actions) {
    this.role = role;
    this.actions = actions;
    this.body = el("div", { className: "answer" });
    this.figures = el("span", { className: "figures" });
    this.notices = el("div");
    this.buttons = el("span", { className: "actions" });
    this.element = el(
      "article",
      { className: `message ${role}`, "aria-label": NAMES[role] },
      el("h3", { textContent: NAMES[role] }),
      this.body,
      this.notices,
      el("footer", {}, this.figures, this.buttons),
    );
    if (role === "user") this.buttons.append(this.#button("Edit", () => this.#edit()));
    else this.buttons.append(this.#button("Retry", actions.retry));
    this.buttons.append(actions.copy);
    this.view = new AnswerView(this.body);
    walkTokens(this.body, (token) => this.view.tokensOf(token));
    this.showSoon = this.#throttled();
  }

  show({ content, answer }, settings) {
    this.content = content;
    const pieces = answer ? answer.pieces : [];
    const ending = answer ? answer.endingOf(pieces) : null;
    const formatted = settings.formatted && this.role === "assistant";
    this.view.show(content, pieces, { formatted, ending });
    this.element.ariaBusy = String(Boolean(answer) && answer.finish === null);
    this.element.classList.toggle("waiting", Boolean(answer) && answer.finish === null && !content);
    if (pieces.length > 0) {
      this.body.tabIndex = 0;
      this.body.setAttribute("role", "group");
      this.body.ariaLabel = "Answer; arrow keys walk through its tokens";
    }
    this.figures.textContent = answer?.finish ? answer.figures : "";
  }

  /** The last state of an answer, with what went wrong. */
  finish(message, settings, problem) {
    this.show(message, settings);
    this.notices.replaceChildren(...(problem ? [noticeOf(problem)] : []));
  }

  #throttled() {
    let latest = null;
    const run = framed(() => {
      const [message, settings, then] = latest;
      if (!this.element.isConnected) return;
      this.show(message, settings);
      then();
    });
    return (...args) => {
      latest = args;
      run();
    };
  }

  #button(label, onclick) {
    return el("button", { type: "button", className: "quiet", textContent: label, onclick });
  }

  #edit() {
    const field = el("textarea", { value: this.content, rows: 3, "aria-label": "Edit the message" });
    const leave = () => {
      form.replaceWith(this.body);
      this.buttons.hidden = false;
      this.buttons.firstElementChild.focus();
    };
    const send = () => {
      const text = field.value.trim();
      if (text) this.actions.edit(text);
    };
    const form = el(
      "form",
      { className: "edit" },
      field,
      el("div", { className: "row" }, this.#button("Cancel", leave), el("button", { className: "primary", textContent: "Send again" })),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send();
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        leave();
      }
    });
    this.buttons.hidden = true;
    this.body.replaceWith(form);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}
