// The switch between the colours of the system, light and dark ones; theme.js applies the choice before the first paint.

const CHOICES = { auto: "like the system", light: "light", dark: "dark" };
const SIGNS = { auto: "◐", light: "○", dark: "●" };

/** @param {HTMLElement} button */
export function switchColours(button) {
  const show = () => {
    const now = /** @type {keyof typeof CHOICES} */ (document.documentElement.dataset.theme ?? "auto");
    button.textContent = SIGNS[now];
    button.setAttribute("aria-label", `Colours: ${CHOICES[now]}`);
    button.title = `Colours: ${CHOICES[now]}`;
  };
  button.addEventListener("click", () => {
    const names = Object.keys(CHOICES);
    const next = names[(names.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % names.length];
    document.documentElement.dataset.theme = next;
    localStorage.setItem("theme", next);
    show();
  });
  show();
}
