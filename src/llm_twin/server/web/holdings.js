// How many documents there are of which source, kind and year.

import { get } from "./api.js";

/** @typedef {{source: string, kind: string, year: number | null, documents: number}} Count */
/** @typedef {{counts: Count[], sources: string[], kinds: string[], years: number[]}} Holdings */

/** @type {Promise<Holdings> | null} */
let asked = null;

/** What the twin holds; `anew` asks again, as after a sync. @param {boolean} [anew] @returns {Promise<Holdings>} */
export function holdings(anew = false) {
  if (anew) asked = null;
  asked ??= load().catch((error) => {
    asked = null;
    throw error;
  });
  return asked;
}

async function load() {
  const counts = /** @type {Count[]} */ ((await get("/v1/coverage")).counts);
  const distinct = (/** @type {(count: Count) => any} */ of) => [...new Set(counts.map(of))].filter((value) => value !== null);
  return {
    counts,
    sources: distinct((count) => count.source).sort(),
    kinds: distinct((count) => count.kind).sort(),
    years: distinct((count) => count.year).sort((one, other) => other - one),
  };
}
