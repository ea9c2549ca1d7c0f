// Draws /openapi.json: each route with its fields and answers. All text is set as text.

import { key } from "./api.js";

const byId = (id) => document.getElementById(id);

function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function table(heads, rows) {
  const found = make("table");
  const head = found.createTHead().insertRow();
  heads.forEach((text) => head.append(make("th", text)));
  const body = found.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((text, index) => line.insertCell().append(make(index ? "span" : "code", text)));
  }
  return found;
}

const nameOf = (ref) => ref.slice(ref.lastIndexOf("/") + 1);

/** A schema in few words: "integer, at least 0", "list of string", "StreamOptions". */
function words(schema) {
  if (schema.$ref) return nameOf(schema.$ref);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  const some = schema.anyOf ?? schema.oneOf;
  if (some) return some.filter((one) => one.type !== "null").map(words).join(" or ");
  if (schema.type === "array") return `list of ${words(schema.items ?? {})}`;
  const types = [schema.type ?? "anything"].flat().join(" or ");
  return schema.minimum === undefined ? types : `${types}, at least ${schema.minimum}`;
}

function fields(schema, schemas) {
  const target = schema.$ref ? schemas[nameOf(schema.$ref)] : schema;
  if (!target?.properties) return make("p", words(target ?? {}));
  const needed = new Set(target.required ?? []);
  return table(
    ["field", "type", ""],
    Object.entries(target.properties).map(([name, field]) => [
      name, words(field), needed.has(name) ? "required" : "",
    ]),
  );
}

function route(path, method, operation, schemas) {
  const block = make("details");
  const summary = make("summary");
  summary.append(make("span", method.toUpperCase(), "method"), make("code", path));
  summary.append(make("span", operation.summary, "about"));
  const inside = make("div");
  inside.append(make("p", operation.description));
  inside.append(make("p", operation.security.length ? "Needs an API key where the server has one." : "Needs no API key."));
  const body = operation.requestBody?.content["application/json"].schema;
  if (body) inside.append(make("h2", "Body"), fields(body, schemas));
  for (const [media, { schema }] of Object.entries(operation.responses["200"].content ?? {})) {
    inside.append(make("h2", `Answer, ${media}`), fields(schema, schemas));
  }
  const errors = Object.entries(operation.responses).filter(([status]) => status !== "200");
  inside.append(make("h2", "Errors"), table(["status", "meaning"], errors.map(([status, { description }]) => [status, description])));
  block.append(summary, inside);
  return block;
}

function draw(spec) {
  byId("title").textContent = `${spec.info.title} ${spec.info.version}`;
  byId("words").textContent = spec.info.description;
  for (const [path, methods] of Object.entries(spec.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      byId("routes").append(route(path, method, operation, spec.components.schemas));
    }
  }
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
