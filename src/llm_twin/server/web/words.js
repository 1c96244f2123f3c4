// How the page says things: counts, dates, times, names, and the arithmetic of offsets.

/** "1 document", "12 documents". @param {number} count @param {string} one @param {string} [many] */
export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

/** With separators, and at most `digits` decimals. @param {number} value @param {number} [digits] */
export function number(value, digits = 0) {
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** "4 March 2021". @param {string | null | undefined} iso */
export function day(iso) {
  return iso
    ? new Date(iso).toLocaleDateString("en-GB", { day: "numeric", month: "long", year: "numeric", timeZone: "UTC" })
    : "undated";
}

/** Date and time where the reader is. @param {string} iso */
export function moment(iso) {
  return new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** "just now", "5 minutes ago", "2 days ago". @param {string} iso @param {number} [now] */
export function ago(iso, now = Date.now()) {
  const seconds = Math.max(0, (now - Date.parse(iso)) / 1000);
  if (seconds < 60) return "just now";
  for (const [size, name] of /** @type {[number, string][]} */ ([[86400, "day"], [3600, "hour"], [60, "minute"]])) {
    if (seconds >= size) return `${plural(Math.floor(seconds / size), name)} ago`;
  }
  return "just now";
}

/** "0.4 ms", "187 ms", "2.31 s". @param {number} ms */
export function duration(ms) {
  if (ms >= 1000) return `${number(ms / 1000, 2)} s`;
  return `${number(ms, ms < 10 ? 1 : 0)} ms`;
}

const PLATFORMS = /** @type {Record<string, string>} */ ({
  github: "GitHub", linkedin: "LinkedIn", medium: "Medium", substack: "Substack", files: "files", web: "web", x: "X",
});

/** A platform as people write it. @param {string} source */
export function platform(source) {
  return PLATFORMS[source] ?? source;
}

/** Text for a list: its beginning on one line. @param {string} text @param {number} [limit] */
export function excerpt(text, limit = 240) {
  const line = text.split(/\s+/).join(" ").trim();
  return line.length <= limit ? line : `${line.slice(0, limit).replace(/\s\S*$/, "")} …`;
}

/**
 * The service counts characters (code points), JavaScript UTF-16 units: where the n-th character begins.
 * @param {string} text
 * @param {number} characters
 */
export function unitAt(text, characters) {
  let unit = 0;
  for (let count = 0; count < characters && unit < text.length; count++) {
    unit += /** @type {number} */ (text.codePointAt(unit)) > 0xffff ? 2 : 1;
  }
  return unit;
}
