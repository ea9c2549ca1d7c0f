// The chat: its messages, and what can be done with each of them.

import { Answer, NUM_OTHERS, generate } from "./answer.js";
import { announce, byId, copyButton, el } from "./dom.js";
import { MessageView } from "./message_view.js";

const STORE = "ggjax-chat";
const PATH = "v1/chat/completions";
const IDEAS = [
  "Write a Python function that merges two sorted lists.",
  "What does this regular expression match: ^\\d{4}-\\d{2}$",
  "Explain a KV cache in three sentences.",
];

export class Chat {
  /** `changed` is called when the next prompt would be another one. */
  constructor(settings, changed) {
    this.settings = settings;
    this.changed = changed;
    this.path = PATH;
    this.messages = []; // {role, content, answer?, view}
    this.running = null; // an AbortController
    this.log = byId("log");
    this.draft = byId("draft");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("stop").addEventListener("click", () => this.stop());
    byId("clear").addEventListener("click", () => this.#clear());
    this.draft.addEventListener("input", changed);
    this.draft.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#send();
      }
    });
    byId("ideas").append(...IDEAS.map((idea) => this.#idea(idea)));
    for (const { role, content } of JSON.parse(sessionStorage.getItem(STORE) ?? "[]")) this.#add(role, content);
    this.#keep();
    this.#scroll();
  }

  /** The body of the next request; `withDraft` as if the draft were sent. */
  body({ withDraft = true } = {}) {
    const messages = this.messages.map(({ role, content }) => ({ role, content }));
    const draft = this.draft.value.trim();
    if (withDraft && (draft || messages.length === 0)) messages.push({ role: "user", content: draft });
    if (this.settings.system) messages.unshift({ role: "system", content: this.settings.system });
    const body = { messages, stream: true, ...this.settings.params() };
    return this.settings.probabilities ? { ...body, logprobs: true, top_logprobs: NUM_OTHERS } : body;
  }

  stop() {
    this.running?.abort();
  }

  /** Shows all answers again, as the settings say now. */
  redraw() {
    for (const message of this.messages) message.view.show(message, this.settings);
  }

  #idea(text) {
    const button = el("button", { type: "button", className: "idea", textContent: text });
    button.addEventListener("click", () => {
      this.draft.value = text;
      this.draft.focus();
      this.changed();
    });
    return button;
  }

  #send() {
    const content = this.draft.value.trim();
    if (!content || this.running) return;
    this.draft.value = "";
    this.#add("user", content);
    this.#answer();
  }

  #clear() {
    this.stop();
    this.#truncate(0);
    this.draft.focus();
    this.changed();
  }

  #add(role, content, answer = null) {
    const message = { role, content, answer };
    const index = this.messages.length;
    message.view = new MessageView(role, {
      edit: (text) => this.#edit(index, text),
      retry: () => this.#retry(index),
      copy: copyButton(() => message.content),
    });
    this.messages.push(message);
    this.log.append(message.view.element);
    message.view.show(message, this.settings);
    this.#keep();
    return message;
  }

  #truncate(length) {
    for (const { view } of this.messages.splice(length)) view.element.remove();
    this.#keep();
  }

  #edit(index, text) {
    if (this.running) return;
    this.#truncate(index);
    this.#add("user", text);
    this.#answer();
  }

  #retry(index) {
    if (this.running) return;
    this.#truncate(index);
    this.#answer();
  }

  async #answer() {
    const body = { ...this.body({ withDraft: false }), stream_options: { include_usage: true } };
    const answer = new Answer();
    const message = this.#add("assistant", "", answer);
    this.running = new AbortController();
    this.#showRunning(true);
    this.#scroll();
    let problem = null;
    try {
      await generate(PATH, body, answer, this.running.signal, () => {
        message.content = answer.text;
        const atEnd = this.#isAtEnd();
        message.view.showSoon(message, this.settings, () => atEnd && this.#scroll());
      });
    } catch (error) {
      problem = error;
    }
    this.running = null;
    this.#showRunning(false);
    message.view.finish(message, this.settings, problem);
    this.#scroll();
    announce(problem ? problem.message : `Answer: ${answer.figures}`);
    this.#keep();
    this.changed();
  }

  #showRunning(running) {
    const hadFocus = document.activeElement === byId("stop");
    byId("stop").hidden = !running;
    byId("send").hidden = running;
    if (hadFocus && !running) this.draft.focus();
  }

  #isAtEnd() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
  }

  #scroll() {
    this.log.scrollTop = this.log.scrollHeight;
  }

  #keep() {
    byId("opening").hidden = this.messages.length > 0;
    byId("clear").hidden = this.messages.length === 0;
    const plain = this.messages.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
    sessionStorage.setItem(STORE, JSON.stringify(plain));
  }
}
