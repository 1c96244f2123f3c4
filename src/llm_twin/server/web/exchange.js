// A question and its answer, or a topic and its draft: as it streams in, and as it was kept.

import { events, problemError } from "./api.js";
import { answerBody, cited, isFinding } from "./answer.js";
import { h, put, say } from "./dom.js";
import { createFeedback } from "./feedback.js";
import { told } from "./filters.js";
import { markdown } from "./markdown.js";
import { problem } from "./problem.js";
import { plural } from "./words.js";

/** @typedef {"ask" | "write"} Kind */

/** Exchanges shown so far; each has an id of its own on the page. */
let count = 0;

/** @typedef {{signal: AbortSignal, again: () => void}} Control Stops it, and tries once more. */

/**
 * Ask, and show the answer as it comes. Returns the whole answer; undefined where there is none.
 * @param {HTMLElement} talk
 * @param {{question: string, filters: object, conversation_id?: string}} body
 * @param {Control} control
 */
export function ask(talk, body, control) {
  return streamed(talk, "/v1/ask", "ask", body.question, body, control);
}

/**
 * The same for a draft.
 * @param {HTMLElement} talk
 * @param {{topic: string, kind: string, words: number}} body
 * @param {Control} control
 */
export function draft(talk, body, control) {
  return streamed(talk, "/v1/write", "write", body.topic, body, control);
}

/** An exchange that the service kept. @param {any} exchange */
export function shown(exchange) {
  const card = createCard(exchange.question, exchange.kind, told(typed(exchange.filters)));
  card.done({ ...exchange.answer, exchange_id: exchange.id }, exchange.feedback);
  return card.element;
}

/** A kept filter as a person types it: whole days, the last one included. @param {any} filter */
function typed({ sources, kinds, since, until }) {
  const last = until && new Date(Date.parse(until) - 1).toISOString();
  return { sources, kinds, since: since?.slice(0, 10).replace(/-01-01$/, ""), until: last?.slice(0, 10).replace(/-12-31$/, "") };
}

/**
 * @param {HTMLElement} talk
 * @param {string} path
 * @param {Kind} kind
 * @param {string} question
 * @param {any} body
 * @param {Control} control
 */
async function streamed(talk, path, kind, question, body, { signal, again }) {
  const card = createCard(question, kind, told(body.filters ?? {}));
  talk.append(card.element);
  card.element.scrollIntoView({ block: "start", behavior: "smooth" });
  say(kind === "write" ? "Drafting" : "Looking through the writing");
  try {
    for await (const [name, data] of events(path, { method: "POST", body: { ...body, stream: true }, signal })) {
      if (name === "error") throw problemError(data);
      if (name === "done") return card.done(data);
      card.take(name, data);
    }
    throw problemError({ title: "The answer broke off", detail: "The connection ended before the answer did; ask again." }, 0);
  } catch (error) {
    card.failed(signal.aborted ? null : error, () => {
      card.element.remove();
      again();
    });
  }
}

/**
 * One exchange on the page; `take` puts in the events of a stream, `done` the whole answer.
 * @param {string} question
 * @param {Kind} kind
 * @param {string} filter The filter that was set, in words.
 */
function createCard(question, kind, filter) {
  const id = `exchange-${(count += 1)}`;
  const notes = h("ul", { class: "notes" });
  const progress = h("p", { class: "progress" }, kind === "write" ? "Looking for what to draft from …" : "Looking through the writing …");
  const text = h("div", { class: kind === "write" ? "text draft" : "text", "aria-live": "polite", "aria-busy": "true" });
  const after = h("div", { class: "after" });
  const element = h("article", { class: "exchange running", "aria-labelledby": id },
    h("h2", { class: "question", id }, kind === "write" ? `Draft: ${question}` : question), filter && h("p", { class: "hint" }, filter), notes, progress, text, after);
  const state = { text: "", passages: /** @type {any[]} */ ([]), drawn: 0 };

  /** @type {Record<string, (data: any) => void>} */
  const TAKES = {
    understood: ({ notes: found }) => note(found),
    passages: ({ passages }) => {
      state.passages = passages;
      progress.textContent = reading(passages);
      say(progress.textContent);
    },
    delta: ({ text: piece }) => {
      state.text += piece;
      progress.textContent = "Writing …";
      state.drawn ||= requestAnimationFrame(draw);
    },
    withdrawn: ({ reason }) => {
      state.text = "";
      draw();
      note([reason]);
      progress.textContent = "Beginning again …";
      say(reason);
    },
    verified: () => (progress.textContent = "Checked against the sources"),
  };

  function draw() {
    cancelAnimationFrame(state.drawn);
    state.drawn = 0;
    put(text, markdown(state.text, { cite: cited({ citations: [], passages: state.passages }), shift: 2 }));
  }

  /** @param {string[]} found */
  function note(found) {
    const known = Array.from(notes.children, (each) => each.textContent);
    notes.append(...found.filter((each) => !known.includes(each)).map((each) => h("li", {}, each)));
  }

  /** @param {string} name @param {any} data */
  function take(name, data) {
    TAKES[name]?.(data);
  }

  /** @param {any} answer @param {any} [feedback] */
  function done(answer, feedback) {
    cancelAnimationFrame(state.drawn);
    element.classList.remove("running");
    element.classList.add(answer.mode);
    progress.remove();
    note(answer.notes ?? []);
    for (const each of [...notes.children]) if (isFinding(each.textContent ?? "", answer)) each.remove();
    put(text, markdown(answer.text, { cite: cited(answer), shift: 2 }));
    const opinion = answer.exchange_id && createFeedback({ exchange: answer.exchange_id, kind, text, answer, feedback });
    put(after, answerBody(answer, kind), opinion);
    text.removeAttribute("aria-busy");
    say(`${kind === "write" ? "Draft" : "Answer"} complete, ${plural(answer.citations.length, "quote")}`);
    return answer;
  }

  /** @param {unknown} error Null where the reader stopped it. @param {() => void} again */
  function failed(error, again) {
    element.classList.remove("running");
    progress.remove();
    text.removeAttribute("aria-busy");
    const stopped = h("p", { class: "hint" }, "Stopped. What is above was not checked. ", h("button", { type: "button", class: "link", onclick: again }, "Ask again"));
    put(after, error === null ? stopped : problem(error, again));
  }

  return { element, take, done, failed };
}

/** @param {any[]} passages */
function reading(passages) {
  if (!passages.length) return "Nothing was found …";
  const titles = [...new Set(passages.map((passage) => passage.document.title))];
  const named = titles.slice(0, 3).map((title) => `“${title}”`).join(", ");
  return `Reading ${plural(passages.length, "passage")} of ${named}${titles.length > 3 ? ` and ${titles.length - 3} more` : ""} …`;
}
