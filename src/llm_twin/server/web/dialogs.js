// Windows over the page: the key, the shortcuts, and "are you sure".

import { h } from "./dom.js";
import { BINDINGS, singleKeys, useSingleKeys } from "./keys.js";

/**
 * Ask for a key of the service; null when the reader would rather not.
 * @param {boolean} refused Whether the key that was given before was not accepted.
 * @returns {Promise<string | null>}
 */
export function askForKey(refused) {
  const field = h("input", {
    type: "password", id: "key", name: "key", autocomplete: "off", required: true, spellcheck: "false",
    "aria-describedby": "key-help", placeholder: "twin_…",
  });
  return opened("Sign in", [
    refused && h("p", { class: "problem", role: "alert" }, "This key was not accepted. It may have been revoked or be incomplete."),
    h("label", { for: "key" }, "Key of this service"),
    field,
    h("p", { class: "hint", id: "key-help" }, "Whoever runs the service makes one with ", h("code", {}, "twin keys add NAME"),
      ". It is kept in this tab alone and forgotten when you close it."),
  ], "Sign in", () => field.value.trim());
}

/** Whether the reader really means it. @param {string} question @param {string} doing @returns {Promise<boolean>} */
export async function confirmed(question, doing) {
  return (await opened("Are you sure?", [h("p", {}, question)], doing, () => "yes")) !== null;
}

/** Every shortcut, and the switch for those of a single key. */
export function showShortcuts() {
  const choice = h("input", { type: "checkbox", onchange: () => useSingleKeys(choice.checked) });
  choice.checked = singleKeys();
  return opened("Keyboard", [
    h("dl", { class: "keys" }, BINDINGS.map(([keys, meaning]) => [
      h("dt", {}, keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, meaning),
    ])),
    h("label", { class: "choice" }, choice, "Shortcuts of a single key"),
  ], "Close", () => "");
}

/**
 * A dialog; what `result` returns when its button is pressed, null when it is left.
 * @param {string} title
 * @param {import("./dom.js").Child[]} content
 * @param {string} doing
 * @param {() => string} result
 * @returns {Promise<string | null>}
 */
function opened(title, content, doing, result) {
  const needsCancel = doing !== "Close";
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" });
  const form = h("form", { method: "dialog" },
    h("h2", { id: "dialog-title" }, title), ...content,
    h("div", { class: "row end" },
      needsCancel && h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"),
      h("button", { type: "submit", class: "main" }, doing)));
  dialog.append(form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    /** @type {string | null} */
    let given = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault(); // the page's policy allows no form to go anywhere, this one included
      given = result();
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(given);
    });
    dialog.showModal();
  });
}
