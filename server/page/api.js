// Talks to the server: the key, requests, streams of events, and errors in words.

const KEY = "ggjax-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** An answer that is an error; `message` is for people. */
export class Problem extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The words for an error as the server's body, or its absence, tells it. */
export function problemOf(status, body) {
  const error = body?.error ?? {};
  if (status === 401) {
    const words = key.get() ? "The server does not know this API key." : "This server asks for an API key.";
    return new Problem(words, status, error.code);
  }
  const message = error.message ?? `The server answered with status ${status} and no reason.`;
  const where = error.param && !message.includes(error.param) ? ` (${error.param})` : "";
  return new Problem(sentence(message) + where, status, error.code);
}

const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);

async function ask(path, { body, signal, method } = {}) {
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached.");
  }
  if (!response.ok) {
    const text = await response.text();
    throw problemOf(response.status, parsed(text));
  }
  return response;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** The JSON that a route answers with. */
export async function json(path, options) {
  return (await ask(path, options)).json();
}

/** The events of a stream, as objects; ends at [DONE], throws where the stream breaks off. */
export async function* events(path, options) {
  const response = await ask(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      rest += value;
      const lots = rest.split("\n\n");
      rest = lots.pop();
      for (const lot of lots) {
        if (!lot.startsWith("data: ")) continue; // a comment, as a sign of life
        const data = lot.slice("data: ".length);
        if (data === "[DONE]") return;
        const found = JSON.parse(data);
        if (found.error) throw problemOf(200, found);
        yield found;
      }
    }
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
    throw new Problem("The connection broke off.");
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new Problem("The connection broke off.");
}
