// What stands under an answer: how it came about, its sources with their quotes, doubts, and how it was made.

import { h, linkOut } from "./dom.js";
import { markdown } from "./markdown.js";
import { day, duration, excerpt, number, platform, plural } from "./words.js";
import { authorName } from "./status.js";

const NEAREST = 3;

/**
 * The address of a passage in its document; of the document alone where it changed since, and the offsets mean nothing.
 * @param {{document_id: string, start: number, end: number, outdated?: boolean}} place
 */
export function placeOf({ document_id, start, end, outdated }) {
  return `#/documents/${encodeURIComponent(document_id)}${outdated ? "" : `?start=${start}&end=${end}`}`;
}

/**
 * Makes citations out of [2], [2?] and [?]; while an answer streams in they lead to passages, later to exact quotes.
 * @param {{citations: any[], passages: any[]}} answer
 * @returns {(number: number | null, doubted: boolean, before: string) => Node | null}
 */
export function cited({ citations, passages }) {
  return (wanted, doubted, before) => {
    if (wanted === null) return doubt("No source was given for this");
    const quotes = citations.filter((citation) => citation.number === wanted);
    const passage = passages.find((each) => each.number === wanted);
    if (!quotes.length && !passage) return doubt("There is no such source", `${wanted}?`);
    const place = quotes.length ? nearest(quotes, before) : { ...passage, document_id: passage.document.id };
    const title = place.title ?? passage.document.title;
    const why = doubted ? "This source does not support what is said here" : `Source ${wanted}`;
    return h("a", { class: doubted ? "cite doubt" : "cite", href: placeOf(place), title: `${why}: ${title}`, "aria-label": `${why}: ${title}` },
      `${wanted}${doubted ? "?" : ""}`);
  };
}

/** @param {string} why @param {string} [sign] */
function doubt(why, sign = "?") {
  return h("span", { class: "cite doubt", role: "note", title: why, "aria-label": why }, sign);
}

/** Of several quotes of one passage, the one that shares most words with the sentence before. @param {any[]} quotes @param {string} before */
function nearest(quotes, before) {
  const scored = quotes.map((citation) => {
    const words = citation.quote.toLowerCase().match(/\p{L}+/gu) ?? [];
    const said = new Set(before.slice(-citation.quote.length - 80).toLowerCase().match(/\p{L}+/gu));
    const shared = words.filter((/** @type {string} */ word) => said.has(word)).length;
    return { citation, share: shared / Math.max(1, words.length) };
  });
  return scored.reduce((best, each) => (each.share > best.share ? each : best)).citation;
}

/**
 * Everything under the text of an answer.
 * @param {any} answer
 * @param {"ask" | "write"} kind
 */
export function answerBody(answer, kind) {
  return [
    h("p", { class: "origin" }, origin(answer, kind)),
    repeated(answer),
    findings(answer),
    unsupported(answer),
    answer.mode === "abstained" ? nearestPassages(answer) : sources(answer),
    making(answer),
  ];
}

/** Who speaks here, in plain words. @param {any} answer @param {"ask" | "write"} kind */
function origin({ mode, model, citations, guarded }, kind) {
  if (guarded?.some((/** @type {any} */ finding) => finding.action === "blocked" && finding.stage !== "passage")) return "A guard stopped this.";
  if (mode === "extractive") return `Quoted word for word from ${authorName()}; no language model wrote this.`;
  if (mode === "abstained") return "Nothing was answered, because the writing does not cover this.";
  const what = kind === "write" ? "Drafted" : "Written";
  return `${what} by ${model ?? "a language model"} in the voice of ${authorName()}, checked against ${plural(citations.length, "quote")}.`;
}

const GUARDED = /** @type {Record<string, string>} */ ({
  "blocked question": "The question was not answered",
  "blocked passage": "A passage was not used",
  "blocked answer": "The answer was not shown",
  "removed question": "Part of the question was left out",
  "removed passage": "Part of a passage was kept from the model",
  "removed answer": "Part of the answer was taken out",
  "flagged question": "Something about the question was noticed",
  "flagged passage": "Something in a passage was noticed",
  "flagged answer": "Something in the answer was noticed",
});

/** Whether a note says what the list of findings says as well. @param {string} note @param {any} answer */
export function isFinding(note, { guarded }) {
  return guarded?.some((/** @type {any} */ { guard, reason }) => note.startsWith(`Guard ${guard} `) && note.endsWith(`: ${reason}.`)) ?? false;
}

/** What guards found and did, but for what the text itself gives as its reason. @param {any} answer */
function findings({ guarded, text }) {
  const untold = (guarded ?? []).filter((/** @type {any} */ { action, reason }) => action !== "blocked" || !text.includes(reason));
  return untold.length > 0 && h("ul", { class: "guarded", "aria-label": "What the guards found" }, untold.map((/** @type {any} */ finding) =>
    h("li", {}, `${GUARDED[`${finding.action} ${finding.stage}`] ?? `${finding.action}, ${finding.stage}`}: ${finding.reason}. `,
      finding.document_id && h("a", { href: `#/documents/${encodeURIComponent(finding.document_id)}` }, "the document"))));
}

/** Whether the answer was given before. @param {any} answer */
function repeated({ cached }) {
  if (!cached) return null;
  return h("p", { class: "hint" }, cached === "exact" ? "This was asked before, and nothing changed since: it is the earlier answer." : "Nearly this was asked before, and nothing changed since: it is the earlier answer.");
}

/** @param {any} answer */
function unsupported({ unsupported: claims }) {
  return claims?.length > 0 && h("details", { class: "unsupported" },
    h("summary", {}, `${plural(claims.length, "sentence")} without support in the sources`),
    h("ul", {}, claims.map((/** @type {string} */ claim) => h("li", {}, claim))));
}

/** Every source once, with all that is quoted of it; where the answer itself is quotes, they are not repeated. @param {any} answer */
function sources({ citations, passages, mode }) {
  const numbers = [...new Set(citations.map((/** @type {any} */ citation) => citation.number))].sort((one, other) => one - other);
  return numbers.length > 0 && h("section", { class: "sources" }, h("h3", {}, "Sources"),
    h("ol", {}, numbers.map((wanted) => {
      const quotes = citations.filter((/** @type {any} */ citation) => citation.number === wanted);
      const document = passages.find((/** @type {any} */ passage) => passage.number === wanted)?.document;
      return h("li", {}, h("span", { class: "number", "aria-hidden": "true" }, wanted),
        h("div", {}, heading(quotes[0], document), mode !== "extractive" && quotes.map(quoted)));
    })));
}

/** @param {any} quote */
function quoted(quote) {
  return h("blockquote", {}, markdown(quote.quote, { shift: 3 }),
    h("a", { class: "there", href: placeOf(quote), "aria-label": `In the document: ${excerpt(quote.quote, 60)}` },
      quote.outdated ? "in the document, which has changed since" : "in the document"));
}

/** Title, place in it, date and platform. @param {any} place @param {any} document */
function heading(place, document) {
  const path = (place.heading_path ?? []).filter((/** @type {string} */ each) => each !== place.title);
  return h("p", { class: "source" },
    h("a", { class: "title", href: placeOf(place) }, place.title),
    path.length > 0 && h("span", { class: "path" }, ` › ${path.join(" › ")}`),
    h("span", { class: "hint" }, [day(place.published_at), document && platform(document.source)].filter(Boolean).join(" · "),
      place.url?.startsWith("http") && [" · ", linkOut(place.url, "original")]));
}

/** Where nothing was answered: what comes nearest. @param {any} answer */
function nearestPassages({ passages }) {
  const documents = new Map(passages.map((/** @type {any} */ passage) => [passage.document.id, passage]).reverse());
  const found = [...documents.values()].reverse().slice(0, NEAREST);
  return found.length > 0 && h("section", { class: "sources" }, h("h3", {}, "What comes nearest"),
    h("ul", {}, found.map((passage) => h("li", {}, h("div", {},
      heading({ ...passage, ...passage.document, document_id: passage.document.id, start: passage.start, end: passage.end }, passage.document),
      h("blockquote", {}, markdown(excerpted(passage.text), { shift: 3 })))))));
}

/** The first paragraphs of a passage that is only near. @param {string} text */
function excerpted(text) {
  const end = text.indexOf("\n\n", 200);
  return end < 0 ? text : text.slice(0, end);
}

/** Times, tokens and the trace. @param {any} answer */
function making({ timings_ms: timings = {}, usage, model, trace_id: trace }) {
  const steps = Object.entries(timings).filter(([name]) => !["ask", "write"].includes(name)).sort(([, one], [, other]) => other - one);
  const total = timings.ask ?? timings.write;
  return h("details", { class: "making" },
    h("summary", {}, "How it was made", total !== undefined && h("span", { class: "hint" }, ` in ${duration(total)}`)),
    steps.length > 0 && h("dl", {}, steps.map(([name, ms]) => [h("dt", {}, name), h("dd", {}, duration(ms))])),
    model && h("p", {}, usage.completion_tokens ? `${model} read ${number(usage.prompt_tokens)} tokens and wrote ${number(usage.completion_tokens)}.` : `${model}; its server counts no tokens.`),
    trace && h("p", {}, h("a", { href: `#/traces/${trace}` }, "Every step, as a trace")));
}
