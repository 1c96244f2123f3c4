// Keyboard shortcuts. Those of a single key can be switched off, because dictation software types single keys.

/** What the help shows: keys and meaning. @type {[string, string][]} */
export const BINDINGS = [
  ["/", "Put the cursor into the question"],
  ["Enter", "Send"],
  ["Shift Enter", "A new line"],
  ["Esc", "Stop an answer, close the document or a window"],
  ["n", "A new conversation"],
  ["g a", "Ask"],
  ["g w", "Write"],
  ["g s", "Search"],
  ["g d", "Documents"],
  ["g c", "Coverage"],
  ["g t", "Traces"],
  ["g v", "Voice"],
  ["?", "This list"],
];

const PLACES = /** @type {Record<string, string>} */ ({
  a: "#/ask", w: "#/write", s: "#/search", d: "#/documents", c: "#/coverage", t: "#/traces", v: "#/voice",
});

/** Whether shortcuts of a single key are on. */
export function singleKeys() {
  return localStorage.getItem("single-keys") !== "off";
}

/** @param {boolean} on */
export function useSingleKeys(on) {
  localStorage.setItem("single-keys", on ? "on" : "off");
}

/**
 * Listen for shortcuts.
 * @param {{help: () => void, focus: () => void, fresh: () => void, escape: () => void}} actions
 */
export function listen({ help, focus, fresh, escape }) {
  let going = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") return escape();
    if (isTyping(event.target) || !singleKeys()) return;
    const place = going ? PLACES[event.key] : undefined;
    going = event.key === "g";
    const action = { "?": help, "/": focus, n: fresh }[event.key];
    if (place) go(place);
    else if (action) action();
    else return;
    event.preventDefault();
  });
}

/** @param {string} place */
function go(place) {
  location.hash = place;
}

/** @param {EventTarget | null} target */
function isTyping(target) {
  return target instanceof HTMLElement && target.matches("input:not([type=checkbox], [type=radio]), textarea, select");
}
