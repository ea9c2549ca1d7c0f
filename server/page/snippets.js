// Requests as code: what to type to get the same from a shell or from Python.

/** A curl command; the key is a shell variable, for a command line is easily passed on. */
export function curl(url, body, withKey) {
  const lines = [`curl -N ${shellQuoted(url)}`, `-H 'Content-Type: application/json'`];
  if (withKey) lines.push(`-H "Authorization: Bearer $API_KEY"`);
  lines.push(`-d ${shellQuoted(JSON.stringify(body, null, 2))}`);
  return lines.join(" \\\n  ");
}

const shellQuoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

// fields that OpenAI's client has no argument for
const EXTRA = new Set(["top_k", "min_p", "repetition_penalty"]);

/** A program that uses OpenAI's client. */
export function python(base, kind, body, withKey) {
  const plain = Object.entries(body).filter(([name]) => !EXTRA.has(name));
  const extra = Object.entries(body).filter(([name]) => EXTRA.has(name));
  const args = plain.map(([name, value]) => `    ${name}=${literal(value, 4)},`);
  if (extra.length > 0) args.push(`    extra_body=${literal(Object.fromEntries(extra), 4)},`);
  const chat = kind === "chat";
  return [
    ...(withKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(base)}, api_key=${withKey ? 'os.environ["API_KEY"]' : '"none"'})`,
    `stream = client.${chat ? "chat.completions" : "completions"}.create(`,
    ...args,
    ")",
    "for chunk in stream:",
    "    for choice in chunk.choices:",
    `        print(${chat ? 'choice.delta.content or ""' : "choice.text"}, end="", flush=True)`,
  ].join("\n");
}

/** A value as Python writes it; `indent` is that of the line that it begins on. */
export function literal(value, indent = 0) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value === "string") return stringLiteral(value);
  if (typeof value === "number") return String(value);
  const inner = " ".repeat(indent + 4);
  const rows = Array.isArray(value)
    ? value.map((one) => literal(one, indent + 4))
    : Object.entries(value).map(([name, one]) => `${stringLiteral(name)}: ${literal(one, indent + 4)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const flat = open + rows.join(", ") + close;
  if (flat.length + indent <= 88 && !flat.includes("\n")) return flat;
  return `${open}\n${rows.map((row) => `${inner}${row},\n`).join("")}${" ".repeat(indent)}${close}`;
}

/** JSON's escapes are Python's too. */
function stringLiteral(text) {
  return JSON.stringify(text);
}
