// Lays tokens along the text that they spell: which stretch of it is whose.

/** What a token spells, as people can read it. */
export function visible(text) {
  if (text === "") return "∅";
  return text
    .replaceAll("\n", "↵")
    .replaceAll("\t", "⇥")
    .replaceAll("\r", "␍")
    .replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
}

/**
 * Pieces `{start, end, tokens}` of consecutive bytes, in UTF-16 units of `text`.
 * Tokens that are parts of one character share a piece.
 */
export function piecesOfBytes(tokens) {
  const decoder = new TextDecoder();
  const pieces = [];
  let waiting = [];
  let text = "";
  tokens.forEach((token, index) => {
    const last = index === tokens.length - 1;
    const gained = decoder.decode(new Uint8Array(token.bytes), { stream: !last });
    waiting.push(token);
    if (!gained && !last) return;
    pieces.push({ start: text.length, end: text.length + gained.length, tokens: waiting });
    text += gained;
    waiting = [];
  });
  return { text, pieces };
}

/** Tokens of a chat's `logprobs.content`, laid along the answer `text`. */
export function chatPieces(content, text) {
  const found = piecesOfBytes(content.map(tokenOfChat));
  // some vocabularies write a space before the first word, which the text does not have
  const shift = found.text.startsWith(" ") && !text.startsWith(" ") ? -1 : 0;
  return clipped(found.pieces, text.length, shift);
}

const tokenOfChat = (entry) => ({
  text: entry.token,
  bytes: entry.bytes,
  logprob: entry.logprob,
  others: entry.top_logprobs.map((other) => ({ text: other.token, logprob: other.logprob })),
});

/** Tokens of a completion's `logprobs`, whose offsets count code points, laid along `text`. */
export function completionPieces(logprobs, text) {
  const units = unitOffsets(text);
  const at = (offset) => units[Math.min(offset, units.length - 1)];
  const pieces = logprobs.tokens.map((token, index) => ({
    start: at(logprobs.text_offset[index]),
    end: at(logprobs.text_offset[index + 1] ?? Infinity),
    tokens: [
      {
        text: token,
        logprob: logprobs.token_logprobs[index],
        others: Object.entries(logprobs.top_logprobs[index]).map(([text, logprob]) => ({ text, logprob })),
      },
    ],
  }));
  return clipped(pieces, text.length, 0);
}

/** The place in UTF-16 units of each code point, and of the end. */
function unitOffsets(text) {
  const units = [];
  let unit = 0;
  for (const character of text) {
    units.push(unit);
    unit += character.length;
  }
  return [...units, unit];
}

/** What lies in the text; a token behind its end, the one that ended the answer, keeps no width. */
function clipped(pieces, length, shift) {
  const within = (place) => Math.max(0, Math.min(length, place + shift));
  return pieces.map((piece) => ({ ...piece, start: within(piece.start), end: within(piece.end) }));
}

/** How unsure the model was, 0 … 1, for the eye: halves of probability are steps of equal size. */
export function doubt(logprob) {
  return Math.min(1, Math.max(0, -logprob / Math.LN2 / 5));
}

/** A probability in words: "97%", "0.3%". */
export function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  if (share >= 99.95) return "100%";
  return `${share >= 10 ? share.toFixed(0) : share >= 0.1 ? share.toFixed(1) : "<0.1"}%`;
}
