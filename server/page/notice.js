// What went wrong, in words, with what can be done about it.

import { byId, el } from "./dom.js";

/** An alert; where a key is asked for it has a button that opens the dialog. */
export function noticeOf(problem) {
  const notice = el("p", { className: "notice", role: "alert", textContent: problem.message });
  if (problem.status === 401) {
    const button = el("button", { type: "button", className: "quiet", textContent: "Enter a key" });
    button.addEventListener("click", () => byId("key-button").click());
    notice.append(" ", button);
  }
  return notice;
}
