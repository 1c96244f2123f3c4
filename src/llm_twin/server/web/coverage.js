// What was collected and what was not: documents by source and year, failures with their reasons, and a sync to watch.

import { get } from "./api.js";
import { yearChart } from "./chart.js";
import { h, put } from "./dom.js";
import { holdings } from "./holdings.js";
import { status } from "./status.js";
import { createSync } from "./sync.js";
import { ago, moment, number, plural } from "./words.js";

const OUTCOMES = ["added", "updated", "unchanged", "removed", "skipped", "failed"];
const SHOWN = 100;

/** @type {import("./app.js").View} */
export const view = { title: "Coverage", show };

/** @param {HTMLElement} host */
async function show(host) {
  const body = h("div", {});
  const sync = createSync({ done: () => draw(body, true) });
  host.append(h("section", { "aria-labelledby": "sync" }, h("h2", { id: "sync" }, "Sync"), h("p", { class: "last" }), sync.element), body);
  await draw(body, false);
  return sync.leave;
}

/** @param {HTMLElement} body @param {boolean} anew */
async function draw(body, anew) {
  const [found, held] = await Promise.all([get("/v1/status"), holdings(anew)]);
  if (anew) status(true).catch(() => {});
  const last = body.parentElement?.querySelector(".last");
  if (last) last.textContent = lastSync(found);
  put(body, pictured(held), bySource(found), failures(found), skipped(found), leftOut(found));
}

/** @param {any} found */
function lastSync({ last_sync: sync, documents }) {
  if (!sync) return "Nothing was read yet.";
  const ended = { done: "finished", failed: "failed", interrupted: "was interrupted", running: "is running, begun" }[/** @type {string} */ (sync.status)];
  const why = sync.report?.error ? `: ${sync.report.error}` : "";
  return `The last sync ${ended} ${ago(sync.finished_at ?? sync.started_at)}${why}. ${plural(documents, "document")} are here.`;
}

/** @param {import("./holdings.js").Holdings} held */
function pictured(held) {
  return held.counts.length > 0 && h("section", { "aria-labelledby": "years" }, h("h2", { id: "years" }, "Documents by source and year"), yearChart(held.counts));
}

/** @param {any} found */
function bySource({ coverage }) {
  const sources = Object.entries(coverage ?? {});
  const outcomes = OUTCOMES.filter((outcome) => sources.some(([, counts]) => counts[outcome]));
  return sources.length > 0 && h("section", { "aria-labelledby": "sources" }, h("h2", { id: "sources" }, "How every item ended"),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Items by source and outcome" }, h("table", { class: "fit" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Source"), outcomes.map((outcome) => h("th", { scope: "col", class: "right" }, outcome)))),
      h("tbody", {}, sources.map(([source, counts]) => h("tr", {}, h("th", { scope: "row" }, source),
        outcomes.map((outcome) => h("td", { class: outcome === "failed" && counts[outcome] ? "right bad" : "right" }, counts[outcome] ? number(counts[outcome]) : "–"))))))));
}

/** @param {any} found */
function failures({ items }) {
  const failed = items.filter((/** @type {any} */ item) => item.outcome === "failed");
  return h("section", { "aria-labelledby": "failures" }, h("h2", { id: "failures" }, "Failures"),
    failed.length ? listed(failed, (item) => [plural(item.tries, "try", "tries"), item.next_try ? `tried again ${when(item.next_try)}` : "tried again with the next sync"].join(" · "))
      : h("p", { class: "hint" }, "None: everything that was listed could be read."));
}

/** @param {string} iso */
function when(iso) {
  return Date.parse(iso) <= Date.now() ? "with the next sync" : `after ${moment(iso)}`;
}

/** @param {any} found */
function skipped({ items }) {
  const found = items.filter((/** @type {any} */ item) => item.outcome === "skipped");
  return found.length > 0 && h("details", {}, h("summary", {}, `${plural(found.length, "item")} skipped on purpose`), listed(found, () => ""));
}

/** @param {any} found */
function leftOut({ left_out: drops }) {
  return drops.length > 0 && h("details", {}, h("summary", {}, `${plural(drops.length, "document")} left out of the index`),
    h("ul", { class: "items" }, drops.slice(0, SHOWN).map((/** @type {any} */ drop) => h("li", {},
      h("a", { href: `#/documents/${encodeURIComponent(drop.item)}` }, drop.item), h("span", {}, drop.reason)))));
}

/** @param {any[]} items @param {(item: any) => string} more */
function listed(items, more) {
  const rest = items.length - SHOWN;
  return [
    h("ul", { class: "items" }, items.slice(0, SHOWN).map((item) => h("li", {},
      h("span", { class: "key" }, item.key), h("span", {}, item.reason), h("span", { class: "hint" }, [item.source, more(item)].filter(Boolean).join(" · "))))),
    rest > 0 && h("p", { class: "hint" }, `and ${number(rest)} more; `, h("code", {}, "twin status --items"), " lists all."),
  ];
}
