// What the twin did, step by step: the latest traces, and one of them as a waterfall.

import { get } from "./api.js";
import { add, h, s } from "./dom.js";
import { duration, moment, number } from "./words.js";

const LATEST = 50;

/** @type {import("./app.js").View} */
export const view = { title: "Traces", show };

/** @param {HTMLElement} host @param {import("./app.js").Route} route */
async function show(host, { id }) {
  if (!id) return list(host);
  const spans = await get(`/v1/traces/${encodeURIComponent(id)}`);
  const root = spans[0];
  add(host,
    h("p", { class: "lead" }, `${root.name}, ${moment(root.started_at)}, ${duration(root.duration_ms)}. `, h("a", { href: "#/traces" }, "All traces")),
    waterfall(spans),
    await ranking(spans),
    h("p", { class: "hint" }, "A trace holds sizes, counts and names; never the question, the passages or the answer. Its id is ", h("code", {}, root.trace_id), "."));
}

/** @param {HTMLElement} host */
async function list(host) {
  const roots = await get(`/v1/traces?limit=${LATEST}`);
  if (!roots.length) return void host.append(h("p", { class: "blank" }, "Nothing was traced yet. Ask something, and its steps appear here. Tracing is switched by ", h("code", {}, "[traces]"), " in twin.toml."));
  const longest = Math.max(...roots.map((/** @type {any} */ root) => root.duration_ms));
  host.append(h("p", { class: "lead" }, "Every sync, search, answer and draft leaves a trace. The latest come first."),
    h("ul", { class: "traces" }, roots.map((/** @type {any} */ root) => h("li", {},
      h("a", { href: `#/traces/${root.trace_id}` }, h("span", { class: "title" }, root.name), h("span", { class: "hint" }, moment(root.started_at))),
      bar(0, root.duration_ms / longest, root.error), h("span", { class: "ms" }, duration(root.duration_ms)),
      root.error && h("span", { class: "bad" }, root.error)))));
}

/** Every span under its parent, in the order in which they began. @param {any[]} spans */
function waterfall(spans) {
  const zero = Math.min(...spans.map((span) => precise(span.started_at)));
  const end = Math.max(...spans.map((span) => precise(span.started_at) + span.duration_ms));
  const known = new Set(spans.map((span) => span.span_id));
  /** @type {(parent: string | null, depth: number) => HTMLElement[]} */
  const below = (parent, depth) =>
    spans.filter((span) => (known.has(span.parent_id) ? span.parent_id : null) === parent)
      .flatMap((span) => [row(span, depth, zero, end - zero), ...below(span.span_id, depth + 1)]);
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Steps and their times" }, h("table", { class: "waterfall" },
    h("thead", {}, h("tr", {}, ["Step", "Time", "When", "Facts"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, below(null, 0))));
}

/** Milliseconds since 1970 with the microseconds that `Date` drops. @param {string} iso */
function precise(iso) {
  const micros = /\.\d{3}(\d{1,3})/.exec(iso)?.[1] ?? "0";
  return Date.parse(iso) + Number(micros.padEnd(3, "0")) / 1000;
}

/** @param {any} span @param {number} depth @param {number} zero @param {number} whole */
function row(span, depth, zero, whole) {
  const facts = Object.entries(span.attributes ?? {}).filter(([name, value]) => value !== "" && !RANKINGS.includes(name));
  return h("tr", {},
    h("th", { scope: "row", class: `depth-${Math.min(depth, 6)}` }, span.name),
    h("td", { class: "right ms" }, duration(span.duration_ms)),
    h("td", { class: "when" }, bar((precise(span.started_at) - zero) / whole, span.duration_ms / whole, span.error)),
    h("td", { class: "facts" }, facts.map(([name, value]) => h("span", {}, `${name.replaceAll("_", " ")} `, h("b", {}, fact(value)))),
      span.error && h("span", { class: "bad" }, span.error)));
}

/** @param {unknown} value */
function fact(value) {
  return typeof value === "number" ? number(value, Math.abs(value) < 10 ? 3 : 0) : String(value);
}

/** @param {number} from Share of the whole at which it begins. @param {number} share @param {string | null} error */
function bar(from, share, error) {
  const left = Math.min(from, 0.995) * 100;
  return s("svg", { class: "span", "aria-hidden": "true" },
    s("rect", { x: `${left}%`, y: 0, width: `${Math.max(0.5, Math.min(share * 100, 100 - left))}%`, height: "100%", rx: 2, class: error ? "bar bad" : "bar" }));
}

// --- before and after re-ranking ---------------------------------------------------------------------------------------

const RANKINGS = ["before", "after"];

/** How re-ranking moved the first passages, where the trace tells. @param {any[]} spans */
async function ranking(spans) {
  const told = spans.filter((span) => span.name === "rerank" && span.attributes?.before);
  return Promise.all(told.map(async (span) => {
    const before = places(span.attributes.before);
    const after = places(span.attributes.after);
    const titles = await titlesOf([...before, ...after]);
    return h("section", {}, h("h2", {}, "Before and after re-ranking"),
      h("p", { class: "hint" }, `The first passages as search found them, and as ${span.attributes.reranker} ordered them.`),
      h("div", { class: "ranking" }, column("Before", before, titles, () => ""), column("After", after, titles, (place, rank) => moved(before, place, rank))));
  }));
}

/** @typedef {{key: string, document_id: string, start: string, end: string}} Place */

/** @param {string} text @returns {Place[]} */
function places(text) {
  return text.split(" ").filter(Boolean).map((key) => {
    const [, document_id, start, end] = /^(.*):(\d+)-(\d+)$/.exec(key) ?? ["", key, "0", "0"];
    return { key, document_id, start, end };
  });
}

/** @param {Place[]} wanted @returns {Promise<Map<string, string>>} */
async function titlesOf(wanted) {
  const ids = [...new Set(wanted.map((place) => place.document_id))];
  const found = await Promise.all(ids.map((id) => get(`/v1/documents/${encodeURIComponent(id)}`).then((document) => document.title, () => "a document that is gone")));
  return new Map(ids.map((id, index) => [id, found[index]]));
}

/** @param {string} name @param {Place[]} found @param {Map<string, string>} titles @param {(place: Place, rank: number) => string} change */
function column(name, found, titles, change) {
  return h("div", {}, h("h3", {}, name), h("ol", {}, found.map((place, rank) => h("li", {},
    h("a", { href: `#/documents/${encodeURIComponent(place.document_id)}?start=${place.start}&end=${place.end}` }, titles.get(place.document_id)),
    h("span", { class: "hint" }, ` characters ${number(Number(place.start))}–${number(Number(place.end))} ${change(place, rank)}`)))));
}

/** @param {Place[]} before @param {Place} place @param {number} rank */
function moved(before, place, rank) {
  const was = before.findIndex((each) => each.key === place.key);
  if (was < 0) return "· from further down";
  if (was === rank) return "";
  return was > rank ? `· up from ${was + 1}` : `· down from ${was + 1}`;
}
