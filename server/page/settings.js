// The sampling controls, and the fields of a request that follow from them.

import { el } from "./dom.js";

const STORE = "ggjax-settings";

// name: what a request calls it; an empty field is not sent, and the server decides
const NUMBERS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, value: 0.7, slider: true },
  { name: "top_p", label: "Top p", min: 0.05, max: 1, step: 0.05, value: 1, slider: true },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, value: 0, slider: true },
  { name: "top_k", label: "Top k", min: 0, step: 1, placeholder: "all" },
  { name: "max_tokens", label: "Longest answer", min: 1, step: 1, value: 256, placeholder: "what fits", unit: "tokens" },
  { name: "seed", label: "Seed", step: 1, placeholder: "a new one" },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.05, max: 2, step: 0.05, placeholder: "1" },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1, placeholder: "0" },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1, placeholder: "0" },
];

export class Settings {
  constructor(form, changed) {
    this.form = form;
    this.fields = {};
    this.changed = changed;
    form.append(
      this.#wide("system", "System prompt", "The model's own", true),
      el("div", { className: "sliders" }, ...NUMBERS.filter((one) => one.slider).map((one) => this.#slider(one))),
      el("div", { className: "numbers" }, ...NUMBERS.filter((one) => !one.slider).map((one) => this.#number(one))),
      this.#wide("stop", "Stop at", "One string a line", false),
      this.#check("probabilities", "Token probabilities", true),
      this.#check("formatted", "Show code blocks and headings", true),
    );
    this.#restore();
    form.addEventListener("input", () => {
      this.#keep();
      changed();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  /** The fields that chats and completions share. */
  params() {
    const params = {};
    for (const { name } of NUMBERS) {
      const value = this.fields[name].value.trim();
      if (value !== "") params[name] = Number(value);
    }
    const stop = this.fields.stop.value.split("\n").filter((line) => line !== "").map(unescaped);
    if (stop.length > 0) params.stop = stop;
    return params;
  }

  get system() {
    return this.fields.system.value.trim();
  }

  get probabilities() {
    return this.fields.probabilities.checked;
  }

  get formatted() {
    return this.fields.formatted.checked;
  }

  #slider(one) {
    const range = el("input", { type: "range", min: one.min, max: one.max, step: one.step, value: one.value, id: `set-${one.name}` });
    const shown = el("output", { for: range.id, textContent: range.value });
    range.addEventListener("input", () => (shown.textContent = range.value));
    range.refresh = () => (shown.textContent = range.value);
    this.fields[one.name] = range;
    return el("div", { className: "slider" }, el("label", { for: range.id, textContent: one.label }), shown, range);
  }

  #number(one) {
    const input = el("input", { type: "number", step: one.step, id: `set-${one.name}`, placeholder: one.placeholder });
    if (one.min !== undefined) input.min = one.min;
    if (one.max !== undefined) input.max = one.max;
    if (one.value !== undefined) input.value = one.value;
    this.fields[one.name] = input;
    return el("div", { className: "number" }, el("label", { for: input.id, textContent: one.label }), input);
  }

  #wide(name, label, placeholder, large) {
    const area = el("textarea", { id: `set-${name}`, rows: large ? 3 : 2, placeholder });
    this.fields[name] = area;
    return el("div", { className: "wide" }, el("label", { for: area.id, textContent: label }), area);
  }

  #check(name, label, checked) {
    const box = el("input", { type: "checkbox", checked });
    this.fields[name] = box;
    return el("label", { className: "check" }, box, label);
  }

  #keep() {
    const values = Object.entries(this.fields).map(([name, field]) => [name, field.type === "checkbox" ? field.checked : field.value]);
    sessionStorage.setItem(STORE, JSON.stringify(Object.fromEntries(values)));
  }

  #restore() {
    const values = JSON.parse(sessionStorage.getItem(STORE) ?? "{}");
    for (const [name, field] of Object.entries(this.fields)) {
      if (!(name in values)) continue;
      if (field.type === "checkbox") field.checked = values[name];
      else field.value = values[name];
      field.refresh?.();
    }
  }
}

/** A line of the stop field: \n and \t mean what they mean in code. */
function unescaped(line) {
  return line.replace(/\\([nt\\])/g, (_, sign) => ({ n: "\n", t: "\t", "\\": "\\" })[sign]);
}
