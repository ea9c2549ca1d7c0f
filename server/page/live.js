// The live view: what the engine does now, from one stream that is open while somebody looks.

import { events } from "./api.js";
import { Chart, short } from "./charts.js";
import { colourOf, css } from "./colours.js";
import { byId, el } from "./dom.js";
import { noticeOf } from "./notice.js";
import { CACHED, FREE, PageMap } from "./page_map.js";
import { RequestTable } from "./request_table.js";
import { Speeds } from "./speeds.js";

const AGAIN_MS = 2000;
const GIB = 2 ** 30;

export class Live {
  constructor() {
    this.wanted = false;
    this.watching = null; // an AbortController
    this.speeds = new Speeds();
    this.map = new PageMap(byId("page-map"));
    this.table = new RequestTable(byId("requests"), (request) => this.map.mark(request));
    this.charts = {
      generation: new Chart("Generation", "tokens/s"),
      prompt: new Chart("Prompts", "tokens/s"),
      running: new Chart("Running", "requests"),
      waiting: new Chart("Waiting", "requests"),
      first: new Chart("First token", "ms"),
      step: new Chart("Step time", "ms"),
    };
    byId("charts").append(...Object.values(this.charts).map((chart) => chart.element));
    byId("page-map").addEventListener("pointermove", (event) => this.#tell(this.map.at(event)));
    byId("page-map").addEventListener("pointerleave", () => this.#tell(null));
    document.addEventListener("visibilitychange", () => this.#update());
  }

  /** Opens the stream or closes it; a hidden tab has none either. */
  watch(wanted) {
    this.wanted = wanted;
    this.#update();
  }

  #update() {
    const open = this.wanted && !document.hidden;
    if (open && !this.watching) this.#run();
    if (!open) {
      this.watching?.abort();
      this.watching = null;
    }
  }

  async #run() {
    const watching = (this.watching = new AbortController());
    try {
      for await (const event of events("live", { signal: watching.signal })) {
        if (event.facts) this.#facts(event.facts);
        else this.#moment(event);
      }
    } catch (problem) {
      if (problem.name === "AbortError") return;
      this.#notice(problem);
      if (problem.status === 401) {
        this.watching = null;
        return;
      }
    }
    setTimeout(() => {
      if (this.watching !== watching) return;
      this.watching = null;
      this.#update();
    }, AGAIN_MS);
  }

  #notice(problem) {
    const notice = byId("live-notice");
    notice.hidden = problem === null;
    notice.replaceChildren(...(problem ? noticeOf(problem).childNodes : []));
  }

  #facts(facts) {
    this.#notice(null);
    this.info = facts;
    const rows = {
      Model: facts.model_name,
      Device: facts.device,
      Weights: `${facts.dtype}, ${short(facts.weight_bytes / GIB)} GiB`,
      Attention: facts.attention,
      Context: `${facts.max_model_len.toLocaleString("en")} tokens`,
      "KV cache": `${facts.kv_tokens.toLocaleString("en")} tokens, ${short(facts.kv_bytes / GIB)} GiB`,
      "At once": `${facts.max_num_seqs} requests`,
      Programs: `${facts.num_programs}, compiled in ${short(facts.compile_seconds)} s`,
      Version: facts.version,
    };
    byId("facts").replaceChildren(...Object.entries(rows).map(fact));
  }

  #moment(moment) {
    const { stats } = moment;
    const speeds = this.speeds.push(moment);
    for (const name of ["generation", "prompt", "first", "step"]) this.charts[name].push(moment.time, speeds ? speeds[name] : null);
    this.charts.running.push(moment.time, stats.num_running);
    this.charts.waiting.push(moment.time, stats.num_waiting);
    this.map.show(moment.pages);
    this.table.show(moment.running, moment.waiting);
    byId("requests-count").textContent = `${stats.num_running} running, ${stats.num_waiting} waiting`;
    this.#pages(moment.pages);
    this.#buckets(moment.steps);
    const totals = {
      "Prompt tokens": short(stats.prompt_tokens),
      "Generated tokens": short(stats.generation_tokens),
      "Found in the prefix cache": share(stats.prefix_hits, stats.prefix_queries),
      Padding: share(stats.padding_tokens, stats.padding_tokens + stats.prompt_tokens + stats.generation_tokens),
      Preemptions: short(stats.preemptions),
      Compilations: short(stats.compilations),
    };
    byId("totals").replaceChildren(...Object.entries(totals).map(fact));
  }

  #pages(runs) {
    const counts = { used: 0, shared: 0, cached: 0, free: 0 };
    runs.counts.forEach((count, index) => {
      const owner = runs.owners[index];
      counts[owner === FREE ? "free" : owner === CACHED ? "cached" : "used"] += count;
      if (runs.shared[index]) counts.shared += count;
    });
    const all = counts.used + counts.cached + counts.free;
    byId("pages-count").textContent = `${short(counts.used)} of ${short(all)} in use`;
    byId("page-map").ariaLabel = `Map of ${all} KV pages: ${counts.used} in use, ${counts.shared} of them from the prefix cache, ${counts.cached} kept, ${counts.free} free`;
    byId("legend").replaceChildren(
      key("used", `in use ${short(counts.used)}`),
      key("shared", `from the prefix cache ${short(counts.shared)}`),
      key("kept", `kept for reuse ${short(counts.cached)}`),
      key("free", `free ${short(counts.free)}`),
    );
  }

  #buckets(steps) {
    const rows = Object.entries(steps).map(([name, { count, sum }]) => ({ name, steps: count, ms: (1000 * sum) / count }));
    rows.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    const most = Math.max(...rows.map((row) => row.ms));
    byId("buckets").replaceChildren(...rows.map((row) => bucket(row, most)));
  }

  #tell(cell) {
    const whose = cell && (cell.owner > 0 ? `request ${cell.owner}` : cell.owner === CACHED ? "kept for reuse" : "free");
    const from = cell?.shared ? ", from the prefix cache" : "";
    byId("page-note").textContent = cell ? `Page ${cell.page}: ${whose}${from}` : "Point at a page to see whose it is.";
    this.map.canvas.style.cursor = cell?.owner > 0 ? "crosshair" : "default";
  }
}

const share = (part, whole) => (whole > 0 ? `${short((100 * part) / whole)}%` : "–");

const fact = ([name, value]) => el("div", {}, el("dt", { textContent: name }), el("dd", { textContent: value }));

function key(kind, words) {
  const swatch = el("span", { className: `swatch ${kind}` });
  if (kind === "used" || kind === "shared") swatch.style.setProperty("--colour", css(colourOf(1, matchMedia("(prefers-color-scheme: dark)").matches)));
  return el("span", {}, swatch, words);
}

function bucket({ name, steps, ms }, most) {
  const made = el(
    "div",
    { className: "bucket" },
    el("span", { className: "name", textContent: name.replace("_", " ") }),
    el("span", { className: "bar" }),
    el("span", { className: "time", textContent: `${short(ms)} ms` }),
    el("span", { className: "steps", textContent: `${steps.toLocaleString("en")} ${steps === 1 ? "step" : "steps"}` }),
  );
  made.style.setProperty("--share", (ms / most).toFixed(4));
  return made;
}
