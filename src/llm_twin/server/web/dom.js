// Builds DOM nodes. Text from outside only ever becomes a text node: there is no way from here to markup.

/** @typedef {Node | string | number | null | undefined | false | readonly any[]} Child What is false, null or undefined is left out. */
/** @typedef {Record<string, unknown>} Properties */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An HTML element. A property whose value is a function becomes a listener, true an empty attribute; false, null and
 * undefined leave the attribute out.
 * @param {string} tag
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {HTMLElement & Record<string, any>}
 */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/**
 * An SVG element, built in the same way.
 * @param {string} tag
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {SVGElement}
 */
export function s(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

/**
 * An icon of the set below, for a button that has a label of its own.
 * @param {keyof typeof ICONS} name
 */
export function icon(name) {
  return s("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, s("path", { d: ICONS[name] }));
}

const ICONS = {
  up: "M7 11v9H4v-9zM7 11l4-8c2 0 3 1 3 3l-1 4h5c2 0 2.4 1.4 2 3l-1.6 5c-.4 1.3-1 2-2.4 2H7",
  down: "M17 13V4h3v9zM17 13l-4 8c-2 0-3-1-3-3l1-4H6c-2 0-2.4-1.4-2-3l1.6-5C6 4.7 6.6 4 8 4h9",
  pen: "M4 20l1-5L16 4l4 4L9 19zM14 6l4 4",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  bin: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  send: "M4 12h14M12 5l7 7-7 7",
  stop: "M6 6h12v12H6z",
  close: "M5 5l14 14M19 5L5 19",
  out: "M14 4h6v6M20 4l-9 9M18 14v6H4V6h6",
};

/**
 * Where a link may lead: this page (`#…`), the web, or mail. Everything else is no link.
 * @param {unknown} address
 * @returns {string | null}
 */
export function safeHref(address) {
  const text = String(address).trim();
  if (text.startsWith("#")) return text;
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/**
 * A link out of the page that tells its target nothing; only its text where the address is not safe.
 * @param {unknown} address
 * @param {...Child} children
 */
export function linkOut(address, ...children) {
  const href = safeHref(address);
  if (!href || href.startsWith("#")) return h("span", { class: "nolink" }, ...children);
  return h("a", { href, rel: "noopener noreferrer nofollow", target: "_blank" }, ...children);
}

/**
 * The children of an element replaced.
 * @param {Element} host
 * @param {...Child} children
 */
export function put(host, ...children) {
  host.replaceChildren(...nodes(children));
}

/**
 * Children added to an element.
 * @param {Element} host
 * @param {...Child} children
 */
export function add(host, ...children) {
  host.append(...nodes(children));
}

/** Say something to people who listen to the page. @param {string} text */
export function say(text) {
  const live = document.getElementById("live");
  if (live) live.textContent = text;
}

/**
 * @template {Element} T
 * @param {T} element
 * @param {Properties} properties
 * @param {Child[]} children
 * @returns {T}
 */
function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) set(element, name, value);
  element.append(...nodes(children));
  return element;
}

/** @param {Element} element @param {string} name @param {unknown} value */
function set(element, name, value) {
  if (value === false || value === null || value === undefined) return;
  if (typeof value === "function") {
    element.addEventListener(name.replace(/^on/, ""), /** @type {EventListener} */ (value));
  } else if (name === "href") {
    const href = safeHref(value);
    if (href) element.setAttribute("href", href);
  } else {
    element.setAttribute(name, value === true ? "" : String(value));
  }
}

/** @param {Child[]} children @returns {(Node | string)[]} */
function nodes(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : String(child)));
}
