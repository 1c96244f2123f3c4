// What the reader thinks of an answer: good or not, why, and what they would have said instead.

import { post, remove } from "./api.js";
import { cited } from "./answer.js";
import { h, icon, put, say } from "./dom.js";
import { markdown } from "./markdown.js";
import { problem } from "./problem.js";

const REASONS = ["Not true", "Not what I asked", "Not how I say it", "Something is missing"];

/**
 * @param {{exchange: string, kind: "ask" | "write", text: HTMLElement, answer: any, feedback?: any}} about
 *   `text` is where the answer stands; it is edited in place.
 */
export function createFeedback({ exchange, kind, text, answer, feedback }) {
  const state = {
    id: feedback?.id ?? "", rating: feedback?.rating ?? null, reason: feedback?.reason ?? "", edit: feedback?.edit ?? "",
    kept: /** @type {Record<string, string>} */ ({}), shows: feedback?.edit ? "own" : "theirs",
  };
  state.kept = opinion();
  const up = h("button", { type: "button", class: "quiet", "aria-label": "Good answer", title: "Good answer", onclick: () => rate("up") }, icon("up"));
  const down = h("button", { type: "button", class: "quiet", "aria-label": "Bad answer", title: "Bad answer", onclick: () => rate("down") }, icon("down"));
  const edit = h("button", { type: "button", class: "quiet", onclick: startEditing }, icon("pen"), kind === "write" ? "Edit the draft" : "What I would have said");
  const copy = h("button", { type: "button", class: "quiet", onclick: copyText }, icon("copy"), "Copy");
  const why = h("form", { class: "why", hidden: true, onsubmit: sendReason });
  const said = h("p", { class: "hint", role: "status" });
  const own = h("p", { class: "own", hidden: true });
  const element = h("div", { class: "feedback" }, h("div", { class: "row" }, up, down, edit, copy), why, own, said);

  /** What the reader thinks now, by what they gave. */
  function opinion() {
    const { rating, reason, edit: version } = state;
    return Object.fromEntries(Object.entries({ rating, reason, edit: version }).filter(([, given]) => given));
  }

  function draw() {
    drawOpinion();
    put(text, markdown(state.shows === "own" ? state.edit : answer.text, { cite: cited(answer), shift: 2 }));
  }

  function drawOpinion() {
    up.setAttribute("aria-pressed", String(state.rating === "up"));
    down.setAttribute("aria-pressed", String(state.rating === "down"));
    own.hidden = !state.edit;
    text.closest(".exchange")?.classList.toggle("edited", Boolean(state.edit) && state.shows === "own");
    put(own, state.shows === "own" ? "This is your version. " : "You wrote a version of your own. ",
      h("button", { type: "button", class: "link", onclick: swap }, state.shows === "own" ? "Show the twin's" : "Show yours"));
  }

  function swap() {
    state.shows = state.shows === "own" ? "theirs" : "own";
    draw();
  }

  /** @param {"up" | "down"} rating */
  async function rate(rating) {
    state.rating = state.rating === rating ? null : rating;
    if (state.rating !== "down") state.reason = "";
    if (await save(state.rating ? "Thank you, noted" : "Taken back")) askWhy();
  }

  /** A thumb down is worth more with its reason. */
  function askWhy() {
    why.hidden = state.rating !== "down";
    if (why.hidden) return;
    const box = h("input", { type: "text", name: "reason", maxlength: 2000, "aria-label": "What is wrong with it?", placeholder: "In your words …" });
    put(why, h("p", {}, "What is wrong with it?"),
      h("div", { class: "row" }, REASONS.map((reason) => h("button", { type: "button", class: "chip", onclick: () => give(reason) }, reason))),
      h("div", { class: "row" }, box, h("button", { type: "submit" }, "Send")));
    box.focus();
  }

  /** @param {Event} event */
  function sendReason(event) {
    event.preventDefault();
    give(new FormData(/** @type {HTMLFormElement} */ (event.target)).get("reason")?.toString().trim() ?? "");
  }

  /** @param {string} reason */
  async function give(reason) {
    state.reason = reason;
    if (await save(`Thank you, noted: ${reason}`)) why.hidden = true;
  }

  /** The text becomes a box that holds its Markdown, where it stands. */
  function startEditing() {
    const box = h("textarea", { class: "editor", "aria-label": kind === "write" ? "The draft" : "What I would have said", maxlength: 40000 });
    box.value = state.edit || answer.text;
    const grow = () => {
      box.style.height = "auto";
      box.style.height = `${box.scrollHeight + 2}px`;
    };
    box.addEventListener("input", grow);
    box.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) keep();
      if (event.key === "Escape") stopEditing();
      if (event.key === "Escape") event.stopPropagation();
    });
    const keep = async () => {
      state.edit = box.value.trim() === answer.text.trim() ? "" : box.value.trim();
      if (await save("Your version is kept")) stopEditing();
    };
    put(text, box, h("div", { class: "row end" },
      h("button", { type: "button", class: "quiet", onclick: stopEditing }, "Cancel"),
      h("button", { type: "button", class: "main", onclick: keep }, "Keep my version")));
    grow();
    box.setSelectionRange(0, 0);
    box.focus();
    text.scrollIntoView({ block: "nearest" });
    edit.disabled = true;
  }

  function stopEditing() {
    edit.disabled = false;
    state.shows = state.edit ? "own" : "theirs";
    draw();
    edit.focus();
  }

  async function copyText() {
    try {
      // Browsers give the clipboard to pages of https and of this machine only.
      await navigator.clipboard.writeText(state.shows === "own" ? state.edit : answer.text);
      tell("Copied");
    } catch {
      tell("The browser does not allow copying here; mark the text and copy it by hand.");
    }
  }

  /** Tell the service. What is taken back has to be deleted first, because what is not given again stays. @param {string} thanks */
  async function save(thanks) {
    const given = opinion();
    try {
      if (state.id && Object.keys(state.kept).some((name) => !(name in given))) {
        await remove(`/v1/feedback/${encodeURIComponent(state.id)}`);
        state.id = "";
      }
      if (Object.keys(given).length) state.id = (await post("/v1/feedback", { exchange_id: exchange, ...given })).id;
      state.kept = given;
      tell(thanks);
      return true;
    } catch (error) {
      Object.assign(state, { rating: null, reason: "", edit: "", ...state.kept });
      put(said, problem(error));
      return false;
    } finally {
      drawOpinion();
    }
  }

  /** @param {string} words */
  function tell(words) {
    put(said, words);
    say(words);
  }

  if (state.edit) draw();
  else drawOpinion();
  return element;
}
