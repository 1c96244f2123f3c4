// Everything that was collected, newest first, a page at a time.

import { get } from "./api.js";
import { h, put } from "./dom.js";
import { holdings } from "./holdings.js";
import { problem } from "./problem.js";
import { day, number, platform } from "./words.js";

const PAGE = 50;

/** @type {import("./app.js").View} */
export const view = { title: "Documents", show };

/** @param {HTMLElement} host @param {import("./app.js").Route} route */
async function show(host, { query }) {
  const found = await holdings();
  const all = found.counts.reduce((sum, count) => sum + count.documents, 0);
  if (!all) return void host.append(nothing());
  const list = h("ul", { class: "documents" });
  const more = h("button", { type: "button", onclick: () => load(list, more, query) }, "Show more");
  host.append(h("p", { class: "lead" }, `${number(all)} in all, newest first.`), choices(found, query), list, more);
  await load(list, more, query);
}

function nothing() {
  return h("p", { class: "blank" }, "Nothing was collected yet. ", h("a", { href: "#/coverage" }, "Start a sync"), ", or run ", h("code", {}, "twin sync ./posts"), ".");
}

/** Filters, each of which changes the address. @param {import("./holdings.js").Holdings} found @param {URLSearchParams} query */
function choices(found, query) {
  const pick = (/** @type {string} */ label, /** @type {string} */ name, /** @type {any[]} */ values, /** @type {(value: any) => string} */ called) => {
    const select = h("select", {}, h("option", { value: "" }, "any"), values.map((value) =>
      h("option", { value, selected: query.get(name) === String(value) }, called(value))));
    select.addEventListener("change", () => {
      const next = new URLSearchParams(query);
      if (select.value) next.set(name, select.value);
      else next.delete(name);
      location.hash = next.size ? `#/documents?${next}` : "#/documents";
    });
    return h("label", {}, `${label} `, select);
  };
  return h("div", { class: "row picks" }, pick("Source", "source", found.sources, platform), pick("Kind", "kind", found.kinds, String), pick("Year", "year", found.years, String));
}

/** The next page. @param {HTMLElement} list @param {HTMLElement} more @param {URLSearchParams} query */
async function load(list, more, query) {
  const asked = new URLSearchParams(["source", "kind", "year"].filter((name) => query.get(name)).map((name) => [name, /** @type {string} */ (query.get(name))]));
  asked.set("limit", String(PAGE));
  if (more.dataset.after) asked.set("after", more.dataset.after);
  more.hidden = true;
  try {
    const { documents, next } = await get(`/v1/documents?${asked}`);
    const last = list.lastElementChild;
    list.append(...documents.map(entry));
    if (!list.childElementCount) put(list, h("li", { class: "hint" }, "No document is of this source, kind and year."));
    if (last) /** @type {HTMLElement | null} */ (last.nextElementSibling?.querySelector("a") ?? null)?.focus();
    more.hidden = !next;
    more.dataset.after = next ?? "";
  } catch (error) {
    list.append(h("li", {}, problem(error)));
  }
}

/** @param {any} document */
function entry(document) {
  return h("li", {}, h("a", { class: "title", href: `#/documents/${encodeURIComponent(document.id)}` }, document.title),
    h("span", { class: "hint" }, [day(document.published_at), platform(document.source), document.kind, ...document.tags.slice(0, 4)].join(" · ")));
}
