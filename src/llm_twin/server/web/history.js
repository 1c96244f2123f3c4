// The conversations that the service keeps: open one, go on with it, delete it.

import { get, remove } from "./api.js";
import { confirmed } from "./dialogs.js";
import { h, icon, put, say } from "./dom.js";
import { problem } from "./problem.js";
import { ago, plural } from "./words.js";

/** @param {() => void} fresh Begins a new conversation. */
export function createHistory(fresh) {
  let open = "";
  const list = h("ul", {});
  const element = h("nav", { class: "history", "aria-label": "Conversations" },
    h("button", { type: "button", class: "fresh", onclick: fresh }, "New conversation"),
    h("details", { open: wide() }, h("summary", {}, "Conversations"), list));

  /** @param {string} [current] */
  async function load(current = open) {
    open = current;
    try {
      show(await get("/v1/conversations"));
    } catch (error) {
      put(list, h("li", {}, problem(error, () => load())));
    }
  }

  /** @param {{id: string, title: string, updated_at: string, exchanges: number}[]} conversations */
  function show(conversations) {
    if (!conversations.length) return put(list, h("li", { class: "hint" }, "What you ask is kept here."));
    put(list, conversations.map((each) => h("li", {},
      h("a", { href: `#/ask/${each.id}`, "aria-current": each.id === open && "true" },
        h("span", { class: "title" }, each.title),
        h("span", { class: "hint" }, `${ago(each.updated_at)} · ${plural(each.exchanges, "answer")}`)),
      h("button", { type: "button", class: "quiet", "aria-label": `Delete “${each.title}”`, title: "Delete", onclick: () => del(each) }, icon("bin")))));
  }

  /** @param {{id: string, title: string}} conversation */
  async function del({ id, title }) {
    if (!(await confirmed(`“${title}” and its answers will be deleted. What you said about them stays.`, "Delete"))) return;
    await remove(`/v1/conversations/${encodeURIComponent(id)}`).catch((error) => put(list, h("li", {}, problem(error))));
    say("Deleted");
    if (id === open) fresh();
    else await load();
  }

  return { element, load };
}

function wide() {
  return window.matchMedia("(min-width: 60rem)").matches;
}
