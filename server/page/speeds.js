// Speeds from the running totals that the live feed tells.

const WINDOW = 1.0; // seconds that a speed is an average of

export class Speeds {
  constructor() {
    this.moments = [];
  }

  /** Takes a moment; what has happened in the last second or since the last step, null at first. */
  push(moment) {
    const last = this.moments.at(-1);
    // totals that fall belong to a server that was started anew
    if (last && (moment.time < last.time || moment.stats.steps < last.stats.steps)) this.moments = [];
    this.moments.push(moment);
    while (this.moments.length > 2 && moment.time - this.moments[1].time >= WINDOW) this.moments.shift();
    return this.moments.length > 1 ? between(this.moments[0], moment) : null;
  }
}

/** Tokens a second, and milliseconds a step and to a first token; null where nothing happened. */
export function between(before, after) {
  const seconds = after.time - before.time;
  const grown = (name) => after.stats[name] - before.stats[name];
  const firsts = after.first_token.count - before.first_token.count;
  return {
    generation: grown("generation_tokens") / seconds,
    prompt: grown("prompt_tokens") / seconds,
    step: grown("steps") > 0 ? (1000 * grown("step_seconds")) / grown("steps") : null,
    first: firsts > 0 ? (1000 * (after.first_token.sum - before.first_token.sum)) / firsts : null,
  };
}
