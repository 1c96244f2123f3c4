// Which documents may be found: source, kind, years. The choices are those the twin has documents of.

import { holdings } from "./holdings.js";
import { h, put } from "./dom.js";
import { platform } from "./words.js";

/** A fold-out of filters; its summary says what is chosen. */
export function createFilters() {
  const summary = h("summary", {});
  const body = h("div", { class: "choices" }, h("p", { class: "hint" }, "Looking what there is …"));
  const element = h("details", { class: "filters", ontoggle: () => element.open && load() }, summary, body);
  const since = h("select", { "aria-label": "Published from", onchange: tell });
  const until = h("select", { "aria-label": "Published to", onchange: tell });
  /** @type {URLSearchParams} */
  let wanted = new URLSearchParams();
  let loaded = false;

  async function load() {
    if (loaded) return;
    const found = await holdings().catch(() => null);
    if (!found) return put(body, h("p", { class: "hint" }, "The filters could not be loaded; fold them in and out to try again."));
    loaded = true;
    for (const [select, name, years] of /** @type {const} */ ([[since, "since", found.years], [until, "until", found.years]])) {
      put(select, h("option", { value: "" }, "any year"), years.map((year) => h("option", { value: year, selected: wanted.get(name) === String(year) }, String(year))));
    }
    put(body,
      boxes("Source", "source", found.sources, platform),
      boxes("Kind", "kind", found.kinds, (kind) => kind),
      h("fieldset", {}, h("legend", {}, "Published"), h("span", {}, "from ", since), h("span", {}, "to ", until)),
      h("button", { type: "button", class: "link", onclick: reset }, "No filters"));
    tell();
  }

  /** @param {string} legend @param {string} name @param {string[]} values @param {(value: string) => string} called */
  function boxes(legend, name, values, called) {
    const chosen = wanted.getAll(name);
    return h("fieldset", {}, h("legend", {}, legend), values.map((value) => {
      const box = h("input", { type: "checkbox", name, value, onchange: tell });
      box.checked = chosen.includes(value);
      return h("label", { class: "choice" }, box, called(value));
    }));
  }

  /** @param {string} name */
  function chosen(name) {
    if (!loaded) return wanted.getAll(name);
    return Array.from(body.querySelectorAll(`input[name=${name}]:checked`), (box) => /** @type {HTMLInputElement} */ (box).value);
  }

  /** The filter as the service takes it. */
  function value() {
    const [from, to] = loaded ? [since.value, until.value] : [wanted.get("since"), wanted.get("until")];
    return {
      ...(chosen("source").length && { sources: chosen("source") }),
      ...(chosen("kind").length && { kinds: chosen("kind") }),
      ...(from && { since: from }),
      ...(to && { until: to }),
    };
  }

  /** The filter for an address. @returns {[string, string][]} */
  function query() {
    const { sources = [], kinds = [], since: from, until: to } = /** @type {any} */ (value());
    return [
      ...sources.map((/** @type {string} */ each) => ["source", each]),
      ...kinds.map((/** @type {string} */ each) => ["kind", each]),
      ...(from ? [["since", from]] : []),
      ...(to ? [["until", to]] : []),
    ];
  }

  /** What an address says. @param {URLSearchParams} given */
  function fill(given) {
    wanted = given;
    if (loaded) {
      for (const box of body.querySelectorAll("input")) box.checked = given.getAll(box.name).includes(box.value);
      since.value = given.get("since") ?? "";
      until.value = given.get("until") ?? "";
    }
    tell();
  }

  function reset() {
    fill(new URLSearchParams());
  }

  function tell() {
    summary.textContent = told(value()) || "Filters";
    element.classList.toggle("chosen", Boolean(told(value())));
  }

  tell();
  return { element, value, query, fill };
}

/**
 * A filter in plain words; empty where it does not restrict.
 * @param {{sources?: string[], kinds?: string[], since?: string | null, until?: string | null}} filter
 */
export function told({ sources = [], kinds = [], since, until }) {
  return [
    sources.length && `only ${sources.map(platform).join(", ")}`,
    kinds.length && `only ${kinds.map((kind) => (kind.endsWith("y") ? `${kind.slice(0, -1)}ies` : `${kind}s`)).join(", ")}`,
    since && until ? (since === until ? `from ${since}` : `from ${since} to ${until}`) : since ? `since ${since}` : until ? `until ${until}` : "",
  ].filter(Boolean).join(", ");
}

