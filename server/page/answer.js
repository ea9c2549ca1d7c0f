// One answer as it comes: its text, its tokens, its figures; and the request that makes it.

import { events } from "./api.js";
import { chatPieces, completionPieces } from "./alignment.js";

export const NUM_OTHERS = 5; // alternatives to each token

const ENDINGS = {
  stop: "complete",
  length: "cut off at the longest answer",
  abort: "stopped",
  error: "failed",
};

export class Answer {
  constructor(text = "") {
    this.text = text;
    this.content = []; // a chat's logprobs
    this.lists = null; // a completion's
    this.finish = null;
    this.stopReason = null;
    this.usage = null;
    this.firstMs = null;
    this.lastMs = null;
  }

  /** Takes a choice of a chat's or a completion's chunk. */
  take(choice, ms) {
    const text = choice.delta ? (choice.delta.content ?? "") : choice.text;
    if (text || choice.logprobs) {
      this.firstMs ??= ms;
      this.lastMs = ms;
    }
    this.text += text;
    if (choice.logprobs?.content) this.content.push(...choice.logprobs.content);
    else if (choice.logprobs) this.#extend(choice.logprobs);
    this.finish = choice.finish_reason ?? this.finish;
    this.stopReason = choice.stop_reason ?? this.stopReason;
  }

  #extend(logprobs) {
    this.lists ??= { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    for (const [name, list] of Object.entries(this.lists)) list.push(...logprobs[name]);
  }

  /** Tokens along the text; none where no probabilities were asked for. */
  get pieces() {
    if (this.lists) return completionPieces(this.lists, this.text);
    return this.content.length > 0 ? chatPieces(this.content, this.text) : [];
  }

  /** The index of the piece that ended the answer and is no text, or null. */
  endingOf(pieces) {
    const last = pieces.at(-1);
    const ended = this.finish === "stop" && typeof this.stopReason !== "string";
    return ended && last && last.start === last.end ? pieces.length - 1 : null;
  }

  /** "42 tokens, 31 tokens/s, first after 34 ms, complete" */
  get figures() {
    const parts = [];
    const count = this.usage?.completion_tokens;
    if (count !== undefined) {
      parts.push(`${count} ${count === 1 ? "token" : "tokens"}`);
      const seconds = (this.lastMs - this.firstMs) / 1000;
      if (count > 1 && seconds > 0) parts.push(`${((count - 1) / seconds).toFixed(0)} tokens/s`);
      const cached = this.usage.prompt_tokens_details?.cached_tokens;
      if (cached > 0) parts.push(`${cached} of ${this.usage.prompt_tokens} prompt tokens cached`);
    }
    if (this.firstMs !== null) parts.push(`first after ${this.firstMs.toFixed(0)} ms`);
    if (typeof this.stopReason === "string") parts.push(`stopped at ${JSON.stringify(this.stopReason)}`);
    else if (this.finish !== null) parts.push(ENDINGS[this.finish] ?? this.finish);
    return parts.join(", ");
  }
}

/** Asks `path` with `body` and fills `answer`, calling `changed` after each part; throws Problem. */
export async function generate(path, body, answer, signal, changed) {
  const begin = performance.now();
  try {
    for await (const chunk of events(path, { body, signal })) {
      for (const choice of chunk.choices) answer.take(choice, performance.now() - begin);
      answer.usage = chunk.usage ?? answer.usage;
      changed();
    }
  } catch (error) {
    answer.finish = error.name === "AbortError" ? "abort" : "error";
    if (answer.finish === "error") throw error;
  } finally {
    changed();
  }
}
