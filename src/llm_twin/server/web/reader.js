// A document beside the view it was opened from: rendered or as written, with the quoted passage marked.

import { get } from "./api.js";
import { h, icon, linkOut, put } from "./dom.js";
import { markdown, verbatim } from "./markdown.js";
import { problem } from "./problem.js";
import { day, platform, unitAt } from "./words.js";

/**
 * @param {HTMLElement} host
 * @param {import("./app.js").Route} route
 * @param {() => void} close
 */
export async function openDocument(host, { id, query }, close) {
  const button = h("button", { type: "button", class: "quiet close", "aria-label": "Close the document", title: "Close (Esc)", onclick: close }, icon("close"));
  put(host, button, h("p", { class: "progress" }, "Opening …"));
  try {
    const document = await get(`/v1/documents/${encodeURIComponent(id)}`);
    put(host, button, h("article", { class: "document" }, head(document), body(document, query)));
    const title = /** @type {HTMLElement} */ (host.querySelector("h1"));
    title.focus({ preventScroll: true });
    toQuote(host);
  } catch (error) {
    put(host, button, problem(error, () => openDocument(host, { view: "documents", id, query }, close)));
  }
}

/** @param {any} document */
function head(document) {
  const places = [document.url, ...(document.also_at ?? [])].filter((url) => url?.startsWith("http"));
  return h("header", {},
    h("h1", { tabindex: -1 }, document.title),
    h("p", { class: "hint" }, [document.author, day(document.published_at), platform(document.source), document.kind].join(" · ")),
    places.length > 0 && h("p", { class: "hint" }, "Published at ", places.map((url, index) => [index > 0 && ", ", linkOut(url, url)])));
}

/** The text both ways. Offsets count characters of the text as written. @param {any} document @param {URLSearchParams} query */
function body(document, query) {
  const marks = marked(document.text, query);
  const text = h("div", { class: "text" });
  const asWritten = h("button", { type: "button", class: "quiet", "aria-pressed": "false", onclick: swap }, "As written");
  const quote = marks.length > 0 && h("button", { type: "button", class: "quiet", onclick: () => toQuote(text) }, "Back to the quote");
  let rendered = true;

  function draw() {
    text.className = rendered ? "text" : "text source-text";
    put(text, rendered ? markdown(document.text, { marks, shift: 1 }) : verbatim(document.text, marks));
    asWritten.setAttribute("aria-pressed", String(!rendered));
  }

  function swap() {
    rendered = !rendered;
    draw();
    toQuote(text);
  }

  draw();
  return [h("div", { class: "row" }, asWritten, quote), text];
}

/** Bring the marked passage into view; beside another view only the document moves. @param {HTMLElement} host */
function toQuote(host) {
  const mark = host.querySelector("mark");
  const reader = /** @type {HTMLElement} */ (host.closest("#reader"));
  if (!mark) return;
  if (reader.scrollHeight <= reader.clientHeight) return mark.scrollIntoView({ block: "center" });
  reader.scrollTop += mark.getBoundingClientRect().top - reader.getBoundingClientRect().top - reader.clientHeight / 3;
}

/** The passage of an address, in UTF-16 units. @param {string} text @param {URLSearchParams} query @returns {[number, number][]} */
function marked(text, query) {
  const start = Number.parseInt(query.get("start") ?? "", 10);
  const end = Number.parseInt(query.get("end") ?? "", 10);
  return start >= 0 && end > start ? [[unitAt(text, start), unitAt(text, end)]] : [];
}
