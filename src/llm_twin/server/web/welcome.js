// Before anything was asked: what there is to ask about, or what to do where there is nothing yet.

import { h } from "./dom.js";
import { createSync } from "./sync.js";
import { authorName } from "./status.js";
import { plural } from "./words.js";

const INVITATIONS = /** @type {Record<string, (count: string) => string>} */ ({
  ask: (count) => `Answers come from ${count}, and every claim leads to the very words it stands on.`,
  write: (count) => `A draft is made from ${count}, with its sources, for its author to check and change.`,
  search: (count) => `Finds passages by meaning and by words in ${count}. Put an exact phrase in quotation marks.`,
});

/**
 * @param {any} status
 * @param {string} mode
 * @param {() => void} synced
 */
export function welcome(status, mode, synced) {
  if (status.documents) return h("p", { class: "lead" }, INVITATIONS[mode](plural(status.documents, "document")));
  return h("section", { class: "first", "aria-label": "First steps" },
    h("h2", {}, "There is nothing to read yet"),
    h("p", {}, `Name a place where ${authorName()} publishes: a folder, a web site, a feed, a GitHub or Substack address. It is read, indexed on this machine, and can be asked a minute later.`),
    createSync({ wantsAddress: true, done: synced }).element,
    h("p", { class: "hint" }, "Sources that should be read again each time stand in ", h("code", {}, "twin.toml"), " under ", h("code", {}, "[[sources]]"), "; ", h("code", {}, "twin sources"), " lists every kind."));
}
