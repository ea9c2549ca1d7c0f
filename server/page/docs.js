// Draws /openapi.json: each route with its fields and answers. All text is set as text.

import { key } from "./api.js";
import { byId, el } from "./dom.js";

const nameOf = (ref) => ref.slice(ref.lastIndexOf("/") + 1);

/** Text in which what stands between backticks is code. */
function prose(tag, text, className = "") {
  const parts = text.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));
  return el(tag, { className }, ...parts);
}

/** Reads the schemas of one route, and keeps the objects among them that need a table of their own. */
class Reader {
  constructor(schemas) {
    this.schemas = schemas;
    this.objects = new Map();
  }

  resolve(schema) {
    return schema.$ref ? this.schemas[nameOf(schema.$ref)] : schema;
  }

  /** A schema in few words: "integer, at least 0", "list of string", "StreamOptions". */
  words(given) {
    const schema = this.resolve(given);
    if (schema.const !== undefined) return JSON.stringify(schema.const);
    if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
    const some = schema.anyOf ?? schema.oneOf;
    if (some) return some.filter((one) => one.type !== "null").map((one) => this.words(one)).join(" or ");
    if (schema.type === "array") return `list of ${this.words(schema.items ?? {})}`;
    if (schema.properties) {
      const name = given.$ref ? nameOf(given.$ref) : schema.title;
      if (!name) return `{${Object.keys(schema.properties).join(", ")}}`;
      this.objects.set(name, schema);
      return name;
    }
    const types = [schema.type ?? "anything"].flat().filter((type) => type !== "null").join(" or ");
    return schema.minimum === undefined ? types : `${types}, at least ${schema.minimum}`;
  }

  fields(schema) {
    const needed = schema.required ?? [];
    const names = new Set([...needed, ...Object.keys(schema.properties)]);
    return table([...names].map((name) => {
      const cell = [el("code", {}, name)];
      if (needed.includes(name)) cell.push(el("span", { className: "needed" }, "required"));
      return [cell, [this.words(schema.properties[name])]];
    }));
  }

  /** A schema whose fields are not marked as required, for answers have all of theirs. */
  answer(schema) {
    const target = this.resolve(schema);
    if (!target.properties) return el("p", {}, this.words(schema));
    return this.fields({ properties: target.properties });
  }

  /** The tables of the objects that were named, and of those that they name. */
  others() {
    const found = [];
    for (const [name, schema] of this.objects) found.push(el("h3", {}, name), this.fields(schema));
    return found; // a Map goes on with what is added while it is walked through
  }
}

function table(rows) {
  const lines = rows.map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, ...cell))));
  return el("table", {}, el("tbody", {}, ...lines));
}

function route(path, method, operation, schemas) {
  const reader = new Reader(schemas);
  const more = operation.description.slice(operation.summary.length).replace(/^\. ?/, "");
  const inside = el("div", { className: "inside" });
  if (more) inside.append(prose("p", more));
  inside.append(el("p", {}, operation.security.length ? "Needs an API key where the server has one." : "Needs no API key."));
  const body = operation.requestBody?.content["application/json"].schema;
  if (body) inside.append(el("h2", {}, "Body"), reader.fields(reader.resolve(body)), ...reader.others());
  for (const [media, { schema }] of Object.entries(operation.responses["200"].content ?? {})) {
    inside.append(el("h2", {}, `Answer, ${media}`));
    inside.append(media === "text/event-stream" ? el("p", {}, "events, each with JSON") : reader.answer(schema));
  }
  return el("details", {}, el("summary", {},
    el("span", { className: `method ${method}` }, method.toUpperCase()),
    el("code", { className: "path" }, path),
    prose("span", operation.summary, "about"),
  ), inside);
}

function draw(spec) {
  const operations = Object.entries(spec.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => [path, method, operation]));
  byId("version").textContent = spec.info.version;
  byId("words").textContent = spec.info.description;
  byId("routes").replaceChildren(...operations.map((one) => route(...one, spec.components.schemas)));
  const errors = Object.entries(operations[0][2].responses).filter(([status]) => status !== "200");
  byId("errors").append(table(errors.map(([status, { description }]) => [[el("code", {}, status)], [prose("span", description)]])));
  byId("errors").hidden = false;
}

async function read() {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  const response = await fetch(new URL("openapi.json", document.baseURI), { headers });
  byId("key-form").hidden = response.status !== 401;
  if (response.ok) draw(await response.json());
  else byId("words").textContent = (await response.json()).error.message;
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value);
  read();
});

read().catch(() => { byId("words").textContent = "The server cannot be reached."; });
