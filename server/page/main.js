// Starts the page: views, the key, and what the parts tell each other.

import { json, key } from "./api.js";
import { Chat } from "./chat.js";
import { Completion } from "./completion.js";
import { byId, copy, settled } from "./dom.js";
import { Live } from "./live.js";
import { PromptView } from "./prompt_view.js";
import { Settings } from "./settings.js";
import { curl, python } from "./snippets.js";
import { hideCard } from "./token_card.js";

const VIEWS = ["chat", "completion", "live"];

const settings = new Settings(byId("settings"), () => {
  chat.redraw();
  completion.redraw();
  changed();
});
const chat = new Chat(settings, () => changed());
const completion = new Completion(settings, () => changed());
const live = new Live();
let view = "chat";
const source = () => (view === "completion" ? completion : chat);
const prompt = new PromptView(() => ({ path: source().path, body: () => source().body() }));

const changed = settled(() => {
  prompt.refresh();
  showSnippet();
}, 250);

function showView(wanted) {
  view = VIEWS.includes(wanted) ? wanted : "chat";
  for (const name of VIEWS) {
    const tab = byId(`tab-${name}`);
    tab.ariaSelected = String(name === view);
    tab.tabIndex = name === view ? 0 : -1;
    byId(`panel-${name}`).hidden = name !== view;
  }
  byId("playground").hidden = view === "live";
  byId("side-button").hidden = view === "live";
  document.title = view === "live" ? "ggjax, live" : "ggjax";
  hideCard();
  live.watch(view === "live");
  changed();
}

const tabs = VIEWS.map((name) => byId(`tab-${name}`));
tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => (location.hash = VIEWS[index]));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: tabs.length - 1 }[event.key];
    if (!step) return;
    const next = (index + step) % tabs.length;
    location.hash = VIEWS[next];
    tabs[next].focus();
  });
});
addEventListener("hashchange", () => showView(location.hash.slice(1)));

/* The settings are beside the text on a wide window, above it on a narrow one. */
function openSide(open) {
  byId("side").classList.toggle("open", open);
  byId("side-button").ariaExpanded = String(open);
}
byId("side-button").addEventListener("click", () => {
  openSide(!byId("side").classList.contains("open"));
});

addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || byId("key-dialog").open) return;
  if (byId("side").classList.contains("open")) {
    openSide(false);
    byId("side-button").focus();
    return;
  }
  hideCard();
  chat.stop();
  completion.stop();
});
addEventListener("scroll", hideCard, { capture: true, passive: true });

/* Code. */
function showSnippet() {
  const { path } = source();
  const body = source().body();
  const url = new URL(path, document.baseURI).href;
  const withKey = key.get() !== "";
  const kind = document.querySelector("input[name=snippet]:checked").value;
  const base = new URL("v1", document.baseURI).href;
  byId("snippet").textContent =
    kind === "curl" ? curl(url, body, withKey) : python(base, view, { model, ...body }, withKey);
}
byId("snippet-kinds").addEventListener("change", showSnippet);
byId("snippet-copy").addEventListener("click", async () => {
  await copy(byId("snippet").textContent);
  byId("snippet-copy").textContent = "Copied";
  setTimeout(() => (byId("snippet-copy").textContent = "Copy"), 1500);
});

/* The key. */
byId("key-button").addEventListener("click", () => {
  byId("key").value = key.get();
  byId("key-dialog").showModal();
});
byId("key-form").addEventListener("submit", () => useKey(byId("key").value.trim()));
byId("key-forget").addEventListener("click", () => {
  useKey("");
  byId("key-dialog").close();
});

function useKey(value) {
  key.set(value);
  byId("key").value = "";
  connect();
  changed();
  live.watch(false);
  live.watch(view === "live");
}

/* The model's name, or the reason why there is none. */
let model = "";
async function connect() {
  const shown = byId("model");
  try {
    const { data } = await json("v1/models");
    model = data[0].id;
    shown.textContent = model;
    shown.className = "model ready";
    changed();
  } catch (problem) {
    shown.textContent = problem.message;
    shown.className = "model failed";
    if (problem.status === 503 || problem.status === 0) setTimeout(connect, 2000); // it is loading, or starts anew
  }
}

showView(location.hash.slice(1));
connect();
