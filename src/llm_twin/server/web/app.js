// The page: which view stands at which address, and what all views share.
//
//   #/ask  #/ask/CONVERSATION  #/write  #/search?q=…      the desk (desk.js), kept while other views are open
//   #/documents  #/documents/ID?start=…&end=…             the list, and a document beside whatever was open
//   #/coverage  #/traces  #/traces/ID  #/voice

import { access, lost } from "./api.js";
import { switchColours } from "./colours.js";
import { createDesk } from "./desk.js";
import { askForKey, showShortcuts } from "./dialogs.js";
import { h, put, say } from "./dom.js";
import { listen } from "./keys.js";
import { problem } from "./problem.js";
import { openDocument } from "./reader.js";
import { status, watchConnection } from "./status.js";

/** @typedef {{view: string, id: string, query: URLSearchParams}} Route */
/** @typedef {{title: string, show: (host: HTMLElement, route: Route) => Promise<void | (() => void)>}} View */

/** Views that are fetched when they are first opened. A browser remembers that a module could not be fetched, so the
 * next try has an address of its own.
 * @type {Record<string, (again: string) => Promise<{view: View}>>} */
const VIEWS = {
  documents: (again) => import(`./documents.js${again}`),
  coverage: (again) => import(`./coverage.js${again}`),
  traces: (again) => import(`./traces.js${again}`),
  voice: (again) => import(`./voice.js${again}`),
};
const MODES = ["ask", "write", "search"];

const main = part("main");
const work = part("work");
const page = part("page");
const reader = part("reader");
const desk = createDesk(work, (address) => {
  if (work.hidden) return;
  beside = address;
  if (reader.hidden) history.replaceState(null, "", address);
});

/** Ends what the shown view left running. @type {void | (() => void)} */
let leave;
/** The address of the view that is shown, beside which a document is read. @type {string | null} */
let beside = null;
/** Counts navigations, so that a view that loads slowly does not overwrite a later one. */
let turn = 0;

/** @param {string} id */
function part(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @returns {Route} */
function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, id] = path.split("/");
  return { view: view || "ask", id: decoded(id ?? ""), query: new URLSearchParams(query) };
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // an address that somebody broke names nothing, and the service will say so
  }
}

async function navigate() {
  const here = route();
  if (here.view === "main") return; // the skip link
  turn += 1;
  if (here.view === "documents" && here.id) return openBeside(here);
  reader.hidden = true;
  document.body.classList.remove("reading");
  if (location.hash === beside) return arrived(here, false);
  beside = location.hash;
  if (MODES.includes(here.view)) await openDesk(here);
  else await openView(here);
}

/** A document beside what is open. @param {Route} here */
async function openBeside(here) {
  document.body.classList.add("reading");
  reader.hidden = false;
  marked(work.hidden && page.hidden ? "documents" : null);
  await openDocument(reader, here, () => (location.hash = beside ?? "#/documents"));
  document.title = titled(reader.querySelector("h1")?.textContent ?? "Document");
}

/** @param {Route} here */
async function openDesk(here) {
  end();
  page.hidden = true;
  work.hidden = false;
  await desk.open(here);
  arrived(here, true);
}

/** @param {Route} here */
async function openView(here) {
  end();
  work.hidden = true;
  page.hidden = false;
  const mine = turn;
  const load = VIEWS[here.view];
  if (!load) {
    put(page, h("h1", {}, "There is no such page"), h("p", {}, "The address ", h("code", {}, location.hash), " leads nowhere. ", h("a", { href: "#/ask" }, "Ask something"), "."));
    return arrived(here, true);
  }
  try {
    const { view } = await load("").catch(() => load(`?${Date.now()}`)).catch(lost);
    if (mine !== turn) return;
    put(page, h("h1", { tabindex: -1 }, view.title));
    page.setAttribute("aria-label", view.title);
    arrived(here, true);
    const ending = await view.show(page, here);
    if (mine === turn) leave = ending;
    else ending?.();
  } catch (error) {
    if (mine === turn) page.append(problem(error, again));
  }
}

function end() {
  leave?.();
  leave = undefined;
  put(page);
}

/** Tell where we are: title, navigation, focus. @param {Route} here @param {boolean} anew */
function arrived(here, anew) {
  const open = work.hidden ? page : work;
  const heading = open.querySelector("h1");
  document.title = titled(heading?.textContent ?? "");
  marked(MODES.includes(here.view) ? "work" : here.view);
  if (anew && turn > 1) {
    if (open === page) heading?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
    say(heading?.textContent ?? "");
  }
}

/** @param {string} heading */
function titled(heading) {
  return heading ? `${heading} · LLM Twin` : "LLM Twin";
}

/** The entry of the navigation that is open. @param {string | null} view */
function marked(view) {
  if (view === null) return;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link instanceof HTMLElement && link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Show the view of this address once more, from the beginning. */
function again() {
  beside = null;
  navigate();
}

function escape() {
  if (desk.stop()) return;
  if (!reader.hidden) location.hash = beside ?? "#/documents";
}

access.ask = askForKey;
access.reached = watchConnection(() => {
  access.reached(true);
  status(true).catch(() => {});
  if (document.querySelector(".problem")) again();
});
window.addEventListener("hashchange", navigate);
document.addEventListener("visibilitychange", () => document.hidden || status(true).catch(() => {}));
part("help").addEventListener("click", showShortcuts);
document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
switchColours(part("theme"));
listen({ help: showShortcuts, escape, fresh: desk.fresh, focus: () => (work.hidden ? (location.hash = "#/ask") : desk.focus()) });
status().catch((error) => put(part("status"), error.title ?? String(error)));
navigate();
