// An error as the page shows it: what was wrong, and what to do.

import { ServiceError } from "./api.js";
import { h } from "./dom.js";

/**
 * @param {unknown} error
 * @param {() => void} [again] Tries once more, where that can help.
 */
export function problem(error, again) {
  const known = error instanceof ServiceError;
  if (!known) console.error(error);
  return h("div", { class: "problem", role: "alert" },
    h("strong", {}, known ? error.title : "The page made a mistake"),
    h("p", {}, known ? error.message : `${error}. Load the page again; if it comes back, please report it.`),
    again && h("button", { type: "button", onclick: again }, "Try again"));
}
