// The desk: a box to ask, write or search in, what came of it, and the conversations that are kept.

import { get } from "./api.js";
import { createComposer } from "./composer.js";
import { h, put, say } from "./dom.js";
import { ask, draft, shown } from "./exchange.js";
import { createHistory } from "./history.js";
import { problem } from "./problem.js";
import { search } from "./search.js";
import { authorName, status } from "./status.js";
import { welcome } from "./welcome.js";

/** @typedef {import("./app.js").Route} Route */

const HEADINGS = /** @type {Record<string, () => string>} */ ({
  ask: () => `Ask what ${authorName()} wrote`,
  write: () => `Write as ${authorName()} would`,
  search: () => `Search what ${authorName()} wrote`,
});

/**
 * @param {HTMLElement} host
 * @param {(address: string) => void} moved Told the address that what is shown got.
 */
export function createDesk(host, moved) {
  const heading = h("h1", { tabindex: -1 });
  const intro = h("div", { class: "intro" });
  const talk = h("div", { class: "talk" });
  const composer = createComposer(submit, stop);
  const past = createHistory(fresh);
  // `key` names what is shown: a conversation, the address of a search, or the mode where nothing was asked yet.
  // `unseen` is the mode whose answer arrived while another view was open: its address is told on return.
  const state = { mode: "ask", key: "", conversation: "", running: /** @type {AbortController | null} */ (null), unseen: "" };
  host.append(past.element, h("div", { class: "desk" }, heading, intro, talk, composer.element));

  /** Show what stands at an address. @param {Route} route */
  async function open({ view, id, query }) {
    if (!id && view === state.unseen) {
      id = state.conversation;
      moved(`#/${view}/${id}`);
    }
    state.unseen = "";
    const key = view === "search" ? `?${query}` : id || view;
    const kept = key === state.key && talk.childElementCount;
    state.mode = view;
    composer.setMode(view, id);
    if (!kept) {
      stop();
      show(key, id);
      if (view === "search") openSearch(query);
      else if (id) await openConversation(id);
    }
    past.load(id);
    await introduce();
  }

  /** @param {string} key @param {string} conversation */
  function show(key, conversation) {
    state.key = key;
    state.conversation = conversation;
    put(talk);
  }

  /** @param {URLSearchParams} query */
  function openSearch(query) {
    composer.fill(query);
    if (query.get("q")) run((signal) => search(talk, query, signal));
  }

  /** @param {string} id */
  async function openConversation(id) {
    try {
      const conversation = await get(`/v1/conversations/${encodeURIComponent(id)}`);
      if (state.key !== id) return;
      put(talk, conversation.exchanges.map(shown));
      talk.lastElementChild?.scrollIntoView({ block: "start" });
    } catch (error) {
      put(talk, problem(error, () => openConversation(id)));
    }
  }

  /** What the reader sees before anything was asked. */
  async function introduce() {
    const found = await status().catch(() => null);
    const isEmpty = !talk.childElementCount;
    host.classList.toggle("empty", isEmpty);
    heading.textContent = HEADINGS[state.mode]();
    put(intro, isEmpty && found && welcome(found, state.mode, () => status(true).then(introduce)));
    composer.limit(state.mode === "write" && found && !found.model ? "Writing needs a language model" : "");
    document.querySelector("nav [data-view=work]")?.setAttribute("href", state.conversation ? `#/ask/${state.conversation}` : "#/ask");
  }

  /** @param {string} text @param {import("./composer.js").Options} options */
  function submit(text, options) {
    if (state.mode === "search") {
      const address = `#/search?${new URLSearchParams([["q", text], ...options.query])}`;
      if (location.hash === address) state.key = "";
      moved(address);
      return open({ view: "search", id: "", query: new URLSearchParams(address.split("?")[1]) });
    }
    if (state.mode === "write") put(talk);
    return answer(text, options);
  }

  /** @param {string} text @param {import("./composer.js").Options} options */
  function answer(text, options) {
    const again = () => answer(text, options);
    return run(async (signal) => {
      const answered = state.mode === "write"
        ? await draft(talk, { topic: text, kind: options.kind, words: options.words }, { signal, again })
        : await ask(talk, { question: text, filters: options.filters, conversation_id: state.conversation || undefined }, { signal, again });
      if (answered?.conversation_id) arrived(answered.conversation_id);
    });
  }

  /** What was asked is kept now, at an address of its own. @param {string} conversation */
  function arrived(conversation) {
    state.key = state.conversation = conversation;
    composer.setMode(state.mode, conversation);
    past.load(conversation);
    if (host.hidden) state.unseen = state.mode;
    else moved(`#/${state.mode}/${conversation}`);
  }

  /** One thing at a time, which the reader can stop. @param {(signal: AbortSignal) => Promise<void>} work */
  async function run(work) {
    stop();
    const running = new AbortController();
    state.running = running;
    composer.setRunning(true);
    host.classList.remove("empty");
    put(intro);
    try {
      await work(running.signal);
    } finally {
      if (state.running === running) {
        state.running = null;
        composer.setRunning(false);
      }
    }
  }

  /** Stop what is under way; whether anything was. */
  function stop() {
    if (!state.running) return false;
    state.running.abort();
    state.running = null;
    composer.setRunning(false);
    say("Stopped");
    return true;
  }

  /** Begin anew, with nothing asked. */
  function fresh() {
    stop();
    show("", "");
    state.unseen = "";
    if (location.hash === "#/ask") open({ view: "ask", id: "", query: new URLSearchParams() });
    else location.hash = "#/ask";
    composer.focus();
  }

  return { open, stop, fresh, focus: composer.focus };
}
