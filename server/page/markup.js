// Reads the little markup that models write: code blocks, headings, `code`, **bold**.

/**
 * Blocks `{kind: "code" | "heading" | "text", start, end, language, marks}` of a text, without the
 * fences; `marks` are `{kind: "text" | "code" | "bold", start, end}` within a block, without their
 * signs. A block that is still open ends where the text does.
 */
export function blocks(text) {
  const found = [];
  let open = null; // a code block
  let plain = null; // the start of a stretch of text
  const flush = (end) => {
    if (plain !== null && end > plain) found.push(textBlock(text, plain, end));
    plain = null;
  };
  for (const { start, end, line } of lines(text)) {
    const fence = line.match(/^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/);
    if (open) {
      if (fence && !fence[2] && fence[1].startsWith(open.fence)) {
        found.push(codeBlock(open, Math.max(open.start, start - 1)));
        open = null;
      }
    } else if (fence) {
      flush(start);
      open = { fence: fence[1], language: fence[2], start: Math.min(end + 1, text.length) };
    } else if (/^#{1,6} /.test(line)) {
      flush(start);
      const head = start + line.indexOf(" ") + 1;
      found.push({ kind: "heading", start: head, end, marks: marks(text, head, end) });
    } else if (plain === null) {
      plain = start;
    }
  }
  if (open) found.push(codeBlock(open, text.length));
  flush(text.length);
  return found;
}

function* lines(text) {
  let start = 0;
  while (start <= text.length) {
    const found = text.indexOf("\n", start);
    const end = found < 0 ? text.length : found;
    yield { start, end, line: text.slice(start, end) };
    start = end + 1;
  }
}

const codeBlock = ({ language, start }, end) => ({
  kind: "code",
  language,
  start,
  end: Math.max(start, end),
  marks: [{ kind: "text", start, end: Math.max(start, end) }],
});

function textBlock(text, start, end) {
  // the empty lines around a block are its margin
  while (start < end && text[start] === "\n") start += 1;
  while (end > start && text[end - 1] === "\n") end -= 1;
  return { kind: "text", start, end, marks: marks(text, start, end) };
}

function marks(text, start, end) {
  const found = [];
  let done = start;
  for (const match of text.slice(start, end).matchAll(/`([^`\n]+)`|\*\*([^*\n]+)\*\*/g)) {
    const at = start + match.index;
    const sign = match[1] === undefined ? 2 : 1;
    if (at > done) found.push({ kind: "text", start: done, end: at });
    done = at + match[0].length;
    found.push({ kind: sign === 1 ? "code" : "bold", start: at + sign, end: done - sign });
  }
  if (end > done) found.push({ kind: "text", start: done, end });
  return found;
}

/** The text as one block, with nothing hidden. */
export function plainBlock(text) {
  const whole = { start: 0, end: text.length };
  return [{ kind: "text", ...whole, marks: [{ kind: "text", ...whole }] }];
}
