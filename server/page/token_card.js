// The card beside a token: what it is, how probable it was, what else could have been.

import { percent, visible } from "./alignment.js";
import { byId, el } from "./dom.js";

/**
 * Shows a card for `.token` elements of `container`, under the pointer and at the keyboard's focus.
 * The container is one stop of the tab key; arrow keys, Home and End walk its tokens.
 * `tokensOf(element)` gives tokens `{text, logprob?, others?, id?, special?}`.
 */
export function walkTokens(container, tokensOf) {
  const show = (event) => {
    const token = event.target.closest?.(".token");
    if (token && container.contains(token)) showCard(token, tokensOf(token));
    else hideCard();
  };
  container.addEventListener("pointerover", show);
  container.addEventListener("focusin", show);
  container.addEventListener("pointerleave", hideCard);
  container.addEventListener("focusout", hideCard);
  container.addEventListener("click", (event) => event.target.closest(".token")?.focus({ preventScroll: true }));
  container.addEventListener("keydown", (event) => {
    const tokens = [...container.querySelectorAll(".token")];
    const here = tokens.indexOf(document.activeElement);
    const target = {
      ArrowRight: here + 1,
      ArrowDown: here + 1,
      ArrowLeft: Math.max(0, here - 1),
      ArrowUp: Math.max(0, here - 1),
      Home: 0,
      End: tokens.length - 1,
    }[event.key];
    if (event.key === "Escape" && here >= 0) {
      hideCard();
      container.focus();
      event.stopPropagation();
    } else if (target !== undefined && tokens.length > 0 && !event.target.closest("button")) {
      tokens[Math.min(target, tokens.length - 1)].focus();
      event.preventDefault();
    }
  });
}

export function hideCard() {
  byId("token-card").hidden = true;
  document.querySelector(".token[aria-describedby]")?.removeAttribute("aria-describedby");
}

function showCard(element, tokens) {
  const card = byId("token-card");
  card.replaceChildren(...tokens.map(tokenFacts));
  card.hidden = tokens.length === 0;
  element.setAttribute("aria-describedby", "token-card");
  place(card, element.getClientRects()[0] ?? element.getBoundingClientRect());
}

/** Below the token where there is room, else above; never past the window's sides. */
function place(card, token) {
  const { width, height } = card.getBoundingClientRect();
  const below = token.bottom + 6;
  const top = below + height < innerHeight - 8 ? below : Math.max(8, token.top - height - 6);
  card.style.top = `${top}px`;
  card.style.left = `${Math.max(8, Math.min(token.left, innerWidth - width - 8))}px`;
}

function tokenFacts(token) {
  const facts = [];
  if (token.special) facts.push("special");
  if (token.id !== undefined) facts.push(`id ${token.id}`);
  if (token.logprob !== undefined) facts.push(percent(token.logprob));
  return el(
    "div",
    { className: "token-facts" },
    el("div", { className: "token-head" }, el("code", { textContent: visible(token.text) }), el("span", { textContent: facts.join(" · ") })),
    bars(token),
  );
}

function bars(token) {
  const others = token.others ?? [];
  if (others.length === 0) return null;
  const rows = others.map((other) => ({ ...other, chosen: other.text === token.text }));
  if (!rows.some((row) => row.chosen)) rows.push({ text: token.text, logprob: token.logprob, chosen: true });
  rows.sort((a, b) => b.logprob - a.logprob);
  return el("ul", { className: "bars" }, ...rows.map(bar));
}

function bar({ text, logprob, chosen }) {
  const line = el(
    "li",
    { className: chosen ? "chosen" : "" },
    el("code", { textContent: visible(text) }),
    el("span", { className: "bar" }),
    el("span", { className: "share", textContent: percent(logprob) }),
  );
  line.style.setProperty("--share", Math.exp(logprob).toFixed(4));
  return line;
}
