// How the author writes, measured, and how far the latest answers are from it.

import { get } from "./api.js";
import { h, s } from "./dom.js";
import { number, plural } from "./words.js";

/** What the measures are called here, in the order in which they are shown. @type {[string, string][]} */
const LENGTHS = [
  ["sentence_words", "Words in a sentence"],
  ["sentence_words_deviation", "Spread of sentence length"],
  ["paragraph_words", "Words in a paragraph"],
  ["word_letters", "Letters in a word"],
  ["lexical_diversity", "Richness of words (MTLD)"],
];
/** @type {[string, string][]} */
const RATES = [
  ["contractions", "Contractions"], ["first_person", "“I”"], ["first_person_plural", "“We”"], ["second_person", "“You”"],
  ["commas", "Commas"], ["semicolons", "Semicolons"], ["colons", "Colons"], ["dashes", "Dashes"], ["parentheses", "Parentheses"],
  ["questions", "Questions"], ["exclamations", "Exclamation marks"], ["ellipses", "Ellipses"], ["quotes", "Quotations"], ["emoji", "Emoji"],
  ["headings", "Headings"], ["list_items", "List items"], ["code_blocks", "Code blocks"],
];
/** A rate that is smaller, for both, is not worth a row. */
const RARE = 0.3;
/** Ratios beyond this many doublings are drawn at the edge. */
const EDGE = 2;

/** @type {import("./app.js").View} */
export const view = { title: "Voice", show };

/** @param {HTMLElement} host */
async function show(host) {
  const { profiles, recent } = await get("/v1/voice");
  const found = Object.values(profiles);
  if (!found.length) return void host.append(h("p", { class: "blank" }, "No voice was measured yet: it is measured from the documents with every sync. ", h("a", { href: "#/coverage" }, "Start a sync"), "."));
  host.append(...found.map((profile) => portrait(profile, found.length === 1 || recent?.author === profile.author ? recent : null)));
}

/** @param {any} profile @param {any} recent */
function portrait(profile, recent) {
  return h("section", { class: "portrait" },
    h("h2", {}, profile.author),
    h("p", { class: "lead" }, `Measured from ${number(profile.words)} words in ${plural(profile.documents, "document")}. ${compared(recent)}`),
    comparison("Lengths", LENGTHS, profile.measures, recent?.measures ?? {}),
    comparison("Per 1,000 words", RATES, profile.measures, recent?.measures ?? {}),
    words("Sentences often begin with", profile.openers),
    words("Turns that come back", profile.phrases));
}

/** Words below which a style says little. */
const ENOUGH = 300;

/** @param {any} recent */
function compared(recent) {
  if (!recent?.words) return "Once a language model has answered, its answers are compared with the author here; quotes are the author's own and prove nothing.";
  const little = recent.words < ENOUGH ? ", too few to say much yet" : "";
  return `Beside it, what a language model wrote in the latest ${plural(recent.answers, "answer")}: ${number(recent.words)} words${little}.`;
}

/** @param {string} title @param {[string, string][]} measures @param {Record<string, number>} author @param {Record<string, number>} twin */
function comparison(title, measures, author, twin) {
  const has = Object.keys(twin).length > 0;
  const shown = measures.filter(([name]) => name in author && Math.max(author[name], twin[name] ?? 0) >= RARE);
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, h("table", { class: has ? "measures" : "measures fit" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, title), h("th", { scope: "col", class: "right" }, "Author"),
      has && [h("th", { scope: "col", class: "right" }, "Answers"), h("th", { scope: "col" }, "less or more")])),
    h("tbody", {}, shown.map(([name, called]) => h("tr", {},
      h("th", { scope: "row" }, called),
      h("td", { class: "right" }, number(author[name], 1)),
      has && [h("td", { class: "right" }, name in twin ? number(twin[name], 1) : "–"), h("td", { class: "when" }, name in twin && needle(author[name], twin[name]))])))));
}

/** Where the twin stands: half as much to the left, twice as much to the right. @param {number} author @param {number} twin */
function needle(author, twin) {
  const doublings = Math.log2((twin + 0.1) / (author + 0.1));
  const place = 50 + (Math.max(-EDGE, Math.min(EDGE, doublings)) / EDGE) * 46;
  const said = Math.abs(doublings) < 0.3 ? "about as the author" : `${number(2 ** Math.abs(doublings), 1)} times ${doublings > 0 ? "as much" : "less"}`;
  return s("svg", { class: "needle", role: "img", "aria-label": said }, s("title", {}, said),
    s("line", { x1: "4%", x2: "96%", y1: "50%", y2: "50%", class: "base" }), s("line", { x1: "50%", x2: "50%", y1: "15%", y2: "85%", class: "base" }),
    s("circle", { cx: `${place}%`, cy: "50%", r: 5, class: Math.abs(doublings) < 1 ? "bar" : "bar far" }));
}

/** @param {string} title @param {string[]} found */
function words(title, found) {
  return found?.length > 0 && h("section", { class: "turns" }, h("h3", {}, title), h("ul", {}, found.map((each) => h("li", {}, each))));
}
