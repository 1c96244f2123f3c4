// The box: modes, filters, the shape of a draft, send and stop.

import { createFilters } from "./filters.js";
import { h, icon, put } from "./dom.js";

const MODES = /** @type {Record<string, {name: string, label: string, hint: string, send: string}>} */ ({
  ask: { name: "Ask", label: "Your question", hint: "What do I think of …?", send: "Ask" },
  write: { name: "Write", label: "What the draft is about", hint: "Why we …", send: "Write a draft" },
  search: { name: "Search", label: "What to look for", hint: "words, or “an exact phrase”", send: "Search" },
});
const KINDS = { post: "Post", article: "Article", thread: "Thread" };

/** @typedef {{filters: object, query: [string, string][], kind: string, words: number}} Options */

/**
 * @param {(text: string, options: Options) => void} submit
 * @param {() => void} stop
 */
export function createComposer(submit, stop) {
  let mode = "ask";
  const box = h("textarea", { id: "box", rows: 1, maxlength: 8000, "aria-keyshortcuts": "/", oninput: grow, onkeydown: onKey });
  const label = h("label", { for: "box", class: "unseen" });
  const modes = h("nav", { class: "modes", "aria-label": "What to do" });
  const filters = createFilters();
  const kind = h("select", {}, Object.entries(KINDS).map(([value, name]) => h("option", { value }, name)));
  const words = h("input", { type: "number", min: 20, max: 20000, step: 10, value: 400 });
  const shape = h("div", { class: "shape" }, h("label", {}, "Kind ", kind), h("label", {}, "Words ", words));
  const send = h("button", { type: "submit", class: "main" });
  const halt = h("button", { type: "button", class: "main", hidden: true, onclick: stop }, icon("stop"), "Stop");
  const limits = h("p", { class: "hint", hidden: true });
  const element = h("form", { class: "composer", onsubmit },
    h("div", { class: "row" }, modes, shape),
    h("div", { class: "box" }, label, box, send, halt), limits, filters.element);

  /** @param {Event} event */
  function onsubmit(event) {
    event.preventDefault();
    const text = box.value.trim();
    if (!text || !halt.hidden || send.disabled) return box.focus();
    if (mode !== "search") box.value = "";
    grow();
    submit(text, { filters: filters.value(), query: filters.query(), kind: kind.value, words: Number(words.value) || 400 });
  }

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    element.requestSubmit();
  }

  function grow() {
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight + 2}px`;
  }

  /** @param {string} next @param {string} conversation */
  function setMode(next, conversation) {
    mode = next;
    label.textContent = MODES[mode].label;
    box.placeholder = conversation && mode === "ask" ? "Ask further …" : MODES[mode].hint;
    put(send, icon("send"), MODES[mode].send);
    send.setAttribute("aria-label", MODES[mode].send);
    shape.hidden = mode !== "write";
    filters.element.hidden = mode === "write";
    put(modes, Object.entries(MODES).map(([name, { name: title }]) =>
      h("a", { href: address(name, conversation), "aria-current": name === mode && "true" }, title)));
  }

  /** @param {boolean} on */
  function setRunning(on) {
    send.hidden = on;
    halt.hidden = !on;
  }

  /** Why nothing can be sent now; empty where it can. @param {string} reason */
  function limit(reason) {
    send.disabled = Boolean(reason);
    limits.hidden = !reason;
    put(limits, reason && [`${reason}: start one with `, h("code", {}, "twin llm serve"), ", or name one under ", h("code", {}, "[llm]"), " in twin.toml."]);
  }

  /** What a search was made with. @param {URLSearchParams} query */
  function fill(query) {
    box.value = query.get("q") ?? "";
    filters.fill(query);
    grow();
  }

  return { element, setMode, setRunning, limit, fill, focus: () => box.focus() };
}

/** A conversation can be gone on with; a draft and a search begin anew. @param {string} mode @param {string} conversation */
function address(mode, conversation) {
  return mode === "ask" && conversation ? `#/ask/${conversation}` : `#/${mode}`;
}
