// Hits of a search, best first, each leading to its place.

import { post } from "./api.js";
import { placeOf } from "./answer.js";
import { h, put, say } from "./dom.js";
import { told } from "./filters.js";
import { markdown } from "./markdown.js";
import { problem } from "./problem.js";
import { day, plural } from "./words.js";

const METHODS = /** @type {Record<string, string>} */ ({ dense: "meaning", bm25: "words", maxsim: "closer look", cross_encoder: "closer look" });

/**
 * @param {HTMLElement} host
 * @param {URLSearchParams} query
 * @param {AbortSignal} signal
 */
export async function search(host, query, signal) {
  const filters = filtersOf(query);
  put(host, h("p", { class: "progress" }, "Searching …"));
  try {
    const hits = await post("/v1/search", { query: query.get("q"), filters });
    if (!signal.aborted) put(host, results(query.get("q") ?? "", hits, told(filters)));
    say(`${plural(hits.length, "passage")} found`);
  } catch (error) {
    if (!signal.aborted) put(host, problem(error, () => search(host, query, signal)));
  }
}

/** What an address restricts, as the service takes it. @param {URLSearchParams} query */
function filtersOf(query) {
  return {
    sources: query.getAll("source"), kinds: query.getAll("kind"),
    since: query.get("since") ?? undefined, until: query.get("until") ?? undefined,
  };
}

/** @param {string} query @param {any[]} hits @param {string} filter */
function results(query, hits, filter) {
  const found = hits.length ? `${plural(hits.length, "passage")} for “${query}”` : `Nothing was found for “${query}”`;
  return h("section", { class: "results", "aria-label": "Results" },
    h("h2", { class: "question" }, found), filter && h("p", { class: "hint" }, filter),
    h("ol", {}, hits.map((hit) => h("li", {},
      h("p", { class: "source" }, h("a", { class: "title", href: placeOf(hit) }, hit.title),
        h("span", { class: "hint" }, `${day(hit.published_at)} · found by ${foundBy(hit.found_by)}`)),
      h("blockquote", {}, markdown(hit.text, { shift: 2 }))))));
}

/** @param {string[]} methods */
function foundBy(methods) {
  return [...new Set(methods.map((method) => METHODS[method] ?? method))].join(", ");
}
