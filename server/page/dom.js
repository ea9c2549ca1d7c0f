// Makes elements: text is always a text node, so nothing that a model writes becomes markup.

export const byId = (id) => document.getElementById(id);

/** An element; `props` are its properties, those with a dash or "role" its attributes. */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element; all of `props` are attributes. */
export function svg(tag, props = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function fill(made, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Says something to a screen reader. */
export function announce(words) {
  byId("announcer").textContent = words;
}

/** Calls `work` once, `ms` after the last call. */
export function settled(work, ms) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, ms);
  };
}

/** Calls `work` at most once a frame; a hidden tab has no frames, so a timer stands in. */
export function framed(work) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    const run = () => {
      waiting = false;
      work();
    };
    if (document.hidden) setTimeout(run, 100);
    else requestAnimationFrame(run);
  };
}

/** Puts text on the clipboard; without https there is only the old way. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea", { value: text, className: "unseen" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** A button that copies what `text()` gives, and says so. */
export function copyButton(text, label = "Copy") {
  const button = el("button", { type: "button", className: "quiet", textContent: label });
  button.addEventListener("click", async () => {
    await copy(text());
    button.textContent = "Copied";
    announce("Copied");
    setTimeout(() => (button.textContent = label), 1500);
  });
  return button;
}
