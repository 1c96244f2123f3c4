// Pictures in SVG: a row of bars per source over the years, drawn as wide as there is room.

import { h, put, s } from "./dom.js";
import { number, platform, plural } from "./words.js";

/** @typedef {import("./holdings.js").Count} Count */

const ROW = 64;
const LABEL = 96;
const FOOT = 22;
const WIDEST = 72;

/**
 * Documents by source and year, with the same figures as a table for those who cannot see it.
 * @param {Count[]} counts
 */
export function yearChart(counts) {
  const dated = counts.filter((count) => count.year !== null);
  const undated = counts.filter((count) => count.year === null).reduce((sum, count) => sum + count.documents, 0);
  const sums = summed(dated);
  const years = dated.length ? span(dated.map((count) => /** @type {number} */ (count.year))) : [];
  const frame = h("div", { class: "chart" });
  if (years.length) new ResizeObserver(() => put(frame, drawn(sums, years, frame.clientWidth))).observe(frame);
  return [
    frame,
    undated > 0 && h("p", { class: "hint" }, `${plural(undated, "document")} without a date ${undated === 1 ? "is" : "are"} not in the picture.`),
    years.length > 0 && h("details", {}, h("summary", {}, "The same as a table"), table(sums, years)),
  ];
}

/** @param {Count[]} counts @returns {Map<string, Map<number, number>>} */
function summed(counts) {
  const sums = new Map();
  for (const { source, year, documents } of counts) {
    if (!sums.has(source)) sums.set(source, new Map());
    const row = sums.get(source);
    row.set(year, (row.get(year) ?? 0) + documents);
  }
  return new Map([...sums].sort(([one], [other]) => one.localeCompare(other)));
}

/** @param {number[]} years */
function span(years) {
  const first = Math.min(...years);
  return Array.from({ length: Math.max(...years) - first + 1 }, (_, index) => first + index);
}

/** @param {Map<string, Map<number, number>>} sums @param {number[]} years @param {number} width */
function drawn(sums, years, width) {
  const height = sums.size * ROW + FOOT;
  const step = Math.min(WIDEST, (width - LABEL) / years.length);
  const most = Math.max(...[...sums.values()].flatMap((row) => [...row.values()]));
  const every = Math.ceil(38 / step);
  return s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spoken(sums, years) },
    [...sums].map(([source, row], index) => bars(source, row, { index, step, most, years })),
    years.map((year, index) => (years.length - 1 - index) % every === 0 &&
      s("text", { x: LABEL + (index + 0.5) * step, y: height - 6, "text-anchor": "middle", class: "tick" }, year)));
}

/**
 * @param {string} source
 * @param {Map<number, number>} row
 * @param {{index: number, step: number, most: number, years: number[]}} scale
 */
function bars(source, row, { index, step, most, years }) {
  const base = (index + 1) * ROW;
  const thick = Math.max(1, Math.min(step * 0.72, 44));
  return s("g", {},
    s("text", { x: 0, y: base - 4, class: "row-label" }, platform(source)),
    s("line", { x1: LABEL, x2: LABEL + step * years.length, y1: base, y2: base, class: "base" }),
    years.map((year, place) => {
      const count = row.get(year) ?? 0;
      const tall = count ? Math.max(2, (count / most) * (ROW - 26)) : 0;
      const x = LABEL + (place + 0.5) * step;
      return count > 0 && s("g", {}, s("title", {}, `${platform(source)}, ${year}: ${plural(count, "document")}`),
        s("rect", { x: x - thick / 2, y: base - tall, width: thick, height: tall, rx: Math.min(2, thick / 3), class: "bar" }),
        step >= 18 && s("text", { x, y: base - tall - 5, "text-anchor": "middle", class: "count" }, number(count)));
    }));
}

/** @param {Map<string, Map<number, number>>} sums @param {number[]} years */
function spoken(sums, years) {
  const totals = [...sums].map(([source, row]) => `${platform(source)} ${number([...row.values()].reduce((sum, count) => sum + count, 0))}`);
  return `Documents from ${years[0]} to ${years.at(-1)}: ${totals.join(", ")}. The table below has every year.`;
}

/** @param {Map<string, Map<number, number>>} sums @param {number[]} years */
function table(sums, years) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Documents by source and year, as a table" }, h("table", { class: "fit" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Year"), [...sums.keys()].map((source) => h("th", { scope: "col", class: "right" }, platform(source))))),
    h("tbody", {}, years.toReversed().map((year) => h("tr", {}, h("th", { scope: "row" }, year),
      [...sums.values()].map((row) => h("td", { class: "right" }, row.has(year) ? number(row.get(year) ?? 0) : "–")))))));
}
