// What the twin runs on, in one plain line; and whether the service answers at all.

import { get, signOut, signedIn } from "./api.js";
import { h, put } from "./dom.js";
import { ago, plural } from "./words.js";

const RETRY_MS = 2000;

/** The status of the service as last seen. @type {any} */
let latest = null;
/** @type {Promise<any> | null} */
let asking = null;

/** What `GET /v1/status` says in short; asked once and kept, `anew` asks again. @param {boolean} [anew] @returns {Promise<any>} */
export function status(anew = false) {
  if (latest && !anew) return Promise.resolve(latest);
  asking ??= get("/v1/status?brief=true").then(
    (found) => {
      asking = null;
      return show((latest = found));
    },
    (error) => {
      asking = null;
      throw error;
    },
  );
  return asking;
}

/** Whose twin it is, for sentences: "Jane", or "the author" where nobody is named. */
export function authorName() {
  return latest?.author || "the author";
}

/** @param {any} found */
function show(found) {
  const brand = document.getElementById("brand");
  if (brand && found.author) brand.textContent = found.author;
  const line = document.getElementById("status");
  if (line) {
    put(line, [documents(found), model(found), synced(found)].filter(Boolean).join(" · "),
      signedIn() && h("button", { type: "button", class: "link", onclick: leave }, "Sign out"));
  }
  return found;
}

function leave() {
  signOut();
  location.reload();
}

/** @param {any} found */
function documents(found) {
  return found.documents ? plural(found.documents, "document") : "No documents yet";
}

/** @param {any} found */
function model(found) {
  return found.model ? `Answers are written by ${found.model} and checked` : "No language model: answers quote the author";
}

/** @param {any} found */
function synced(found) {
  const at = found.last_sync?.finished_at ?? found.last_sync?.started_at;
  return at ? `Synced ${ago(at)}` : "Never synced";
}

/**
 * Show that the service is away, look for it, and take up again when it is back.
 * @param {() => void} back
 */
export function watchConnection(back) {
  const banner = /** @type {HTMLElement} */ (document.getElementById("offline"));
  /** @type {number | undefined} */
  let timer;
  const look = async () => {
    try {
      if ((await fetch("/healthz", { cache: "no-store" })).ok) back();
    } catch {
      timer = window.setTimeout(look, RETRY_MS);
    }
  };
  return (/** @type {boolean} */ reached) => {
    if (reached === banner.hidden) return;
    banner.hidden = reached;
    banner.textContent = reached ? "" : "The service cannot be reached. Trying again every two seconds; if you stopped it, start it with: twin serve";
    window.clearTimeout(timer);
    if (!reached) timer = window.setTimeout(look, RETRY_MS);
  };
}
