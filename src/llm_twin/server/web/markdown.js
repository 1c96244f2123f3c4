// Markdown as DOM nodes. What stands in a document is data: no piece of it becomes markup, an attribute or an address
// except through `h`, which takes text, and `linkOut`, which takes web and mail addresses only. Images are not loaded.
//
// Every text node knows where its characters stand in the source, so that a passage given by offsets can be marked in
// the rendered text. Nesting is bounded and failed searches are remembered, so that no text takes more than linear time.

import { h, linkOut } from "./dom.js";

/** @typedef {{start: number, end: number}} Line A piece of one source line. */
/** @typedef {{text: string, at: number[], hard: Set<number>, brackets?: Map<number, number>}} Run Inline text and where each character stands. */
/**
 * @typedef {object} Options
 * @property {[number, number][]} [marks] Stretches of the source to mark, in UTF-16 units.
 * @property {(number: number | null, doubted: boolean, before: string) => Node | null} [cite] Makes the node of a citation such as [2], [2?] or [?].
 * @property {number} [shift] Levels of headings above the text, so that its own follow them without a gap.
 */
/** @typedef {Required<Pick<Options, "marks" | "shift">> & Pick<Options, "cite"> & {source: string, addresses: Map<string, string>, failed: Map<string, number>, above: number[]}} Context */

const DEEPEST = 16;

/**
 * @param {string} source
 * @param {Options} [options]
 * @returns {DocumentFragment}
 */
export function markdown(source, { marks = [], cite, shift = 1 } = {}) {
  const context = { source, marks, cite, shift, addresses: definitions(source), failed: new Map(), above: [] };
  const host = document.createDocumentFragment();
  blocks(context, linesOf(source), host, 0);
  return host;
}

/**
 * The source itself, character by character, with its marks: what offsets count in.
 * @param {string} source
 * @param {[number, number][]} marks
 */
export function verbatim(source, marks) {
  const host = document.createDocumentFragment();
  const context = { source, marks, shift: 0, addresses: new Map(), failed: new Map(), above: [] };
  emit(context, { text: source, at: places(0, source.length), hard: new Set() }, 0, source.length, host);
  return host;
}

// --- blocks ------------------------------------------------------------------------------------------------------------

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?=[ \t]|$)/;
const DEFINITION = /^ {0,3}\[([^\]^][^\]]{0,200})\]:[ \t]*<?([^\s>]+)>?(?:[ \t]+["'(].*)?$/;
const UNDERLINE = /^ {0,3}(=+|-+)[ \t]*$/;
const DASHES = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** Every block of these lines into `host`. @param {Context} context @param {Line[]} lines @param {Node} host @param {number} depth */
function blocks(context, lines, host, depth) {
  let at = 0;
  while (at < lines.length) {
    const text = textOf(context, lines[at]);
    if (!text.trim() || DEFINITION.test(text)) at += 1;
    else if (depth >= DEEPEST) at = paragraph(context, lines, at, host);
    else if (FENCE.test(text)) at = fenced(context, lines, at, host);
    else if (indent(text) >= 4) at = indented(context, lines, at, host);
    else if (HEADING.test(text)) at = heading(context, lines, at, host);
    else if (RULE.test(text)) at = rule(at, host);
    else if (QUOTE.test(text)) at = quote(context, lines, at, host, depth);
    else if (ITEM.test(text)) at = list(context, lines, at, host, depth);
    else if (isTable(context, lines, at)) at = table(context, lines, at, host);
    else at = paragraph(context, lines, at, host);
  }
}

/** @param {Context} context @param {Line[]} lines @param {number} from @param {Node} host */
function fenced(context, lines, from, host) {
  const [, fence, language] = /** @type {RegExpExecArray} */ (FENCE.exec(textOf(context, lines[from])));
  const close = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}[ \\t]*$`);
  const width = indent(textOf(context, lines[from]));
  let to = from + 1;
  while (to < lines.length && !close.test(textOf(context, lines[to]))) to += 1;
  const inside = lines.slice(from + 1, to).map((line) => stripped(context, line, width));
  host.appendChild(code(context, inside, language.trim().split(/[\s{,]/)[0]));
  return to + 1;
}

/** @param {Context} context @param {Line[]} lines @param {number} from @param {Node} host */
function indented(context, lines, from, host) {
  let to = from + 1;
  let end = to;
  for (; to < lines.length; to++) {
    const text = textOf(context, lines[to]);
    if (text.trim() && indent(text) < 4) break;
    if (text.trim()) end = to + 1;
  }
  host.appendChild(code(context, lines.slice(from, end).map((line) => stripped(context, line, 4)), ""));
  return end;
}

/** @param {Context} context @param {Line[]} lines @param {string} language */
function code(context, lines, language) {
  const body = h("code");
  for (const [index, line] of lines.entries()) {
    const run = { text: textOf(context, line), at: places(line.start, line.end), hard: new Set() };
    emit(context, run, 0, run.text.length, body);
    if (index < lines.length - 1) body.append("\n");
  }
  return h("pre", { tabindex: 0, role: "region", "aria-label": language ? `Code, ${language}` : "Code" }, body);
}

/** @param {Context} context @param {Line[]} lines @param {number} from @param {Node} host */
function heading(context, lines, from, host) {
  const { start, end } = lines[from];
  const text = textOf(context, lines[from]);
  const opening = /** @type {RegExpExecArray} */ (HEADING.exec(text))[0];
  const closing = /(?:[ \t]+#+)?[ \t]*$/.exec(text.slice(opening.length))?.[0].length ?? 0;
  titled(context, opening.trim().length, [{ start: start + opening.length, end: Math.max(start + opening.length, end - closing) }], host);
  return from + 1;
}

/** A heading; authors skip levels, the page does not, for those who walk it by headings. @param {Context} context @param {number} level @param {Line[]} lines @param {Node} host */
function titled(context, level, lines, host) {
  while ((context.above.at(-1) ?? 0) >= level) context.above.pop();
  context.above.push(level);
  const title = h(`h${Math.min(6, context.shift + context.above.length)}`);
  inlineLines(context, lines, title);
  host.appendChild(title);
}

/** @param {number} from @param {Node} host */
function rule(from, host) {
  host.appendChild(h("hr"));
  return from + 1;
}

/** @param {Context} context @param {Line[]} lines @param {number} from @param {Node} host @param {number} depth */
function quote(context, lines, from, host, depth) {
  let to = from;
  const inside = [];
  for (; to < lines.length; to++) {
    const text = textOf(context, lines[to]);
    const sign = QUOTE.exec(text);
    if (!sign && (!text.trim() || begins(context, lines, to))) break;
    inside.push({ start: lines[to].start + (sign ? sign[0].length : 0), end: lines[to].end });
  }
  const body = h("blockquote");
  blocks(context, inside, body, depth + 1);
  host.appendChild(body);
  return to;
}

/** @param {Context} context @param {Line[]} lines @param {number} from @param {Node} host @param {number} depth */
function list(context, lines, from, host, depth) {
  const sign = /** @type {RegExpExecArray} */ (ITEM.exec(textOf(context, lines[from])))[2];
  const ordered = /\d/.test(sign);
  const body = h(ordered ? "ol" : "ul", ordered && parseInt(sign, 10) !== 1 ? { start: parseInt(sign, 10) } : {});
  let at = from;
  let loose = false;
  while (at < lines.length) {
    const found = ITEM.exec(textOf(context, lines[at]));
    if (!found || found[2].at(-1) !== sign.at(-1) || RULE.test(textOf(context, lines[at]))) break;
    const [inside, next, blank] = item(context, lines, at, found);
    loose ||= blank && (next < lines.length && ITEM.test(textOf(context, lines[next])));
    const entry = h("li");
    blocks(context, inside, entry, depth + 1);
    body.append(entry);
    at = next;
  }
  if (!loose) body.classList.add("tight");
  host.appendChild(body);
  return at;
}

/**
 * The lines of a list item without its sign, where the next one begins, and whether a blank line stands between.
 * @param {Context} context @param {Line[]} lines @param {number} from @param {RegExpExecArray} sign
 * @returns {[Line[], number, boolean]}
 */
function item(context, lines, from, sign) {
  const first = textOf(context, lines[from]);
  const after = /^[ \t]*/.exec(first.slice(sign[0].length))?.[0].length ?? 0;
  const width = sign[0].length + (after >= 1 && after <= 4 ? after : 1);
  const inside = [{ start: Math.min(lines[from].start + width, lines[from].end), end: lines[from].end }];
  let blank = false;
  let to = from + 1;
  for (; to < lines.length; to++) {
    const text = textOf(context, lines[to]);
    if (!text.trim()) {
      blank = true;
      inside.push({ start: lines[to].end, end: lines[to].end });
    } else if (indent(text) >= width) {
      blank = false;
      inside.push(stripped(context, lines[to], width));
    } else if (blank || begins(context, lines, to)) {
      break;
    } else {
      inside.push(stripped(context, lines[to], indent(text)));
    }
  }
  return [inside, to, blank];
}

/** @param {Context} context @param {Line[]} lines @param {number} at */
function isTable(context, lines, at) {
  return at + 1 < lines.length && textOf(context, lines[at]).includes("|") && DASHES.test(textOf(context, lines[at + 1]))
    && cells(context, lines[at]).length === cells(context, lines[at + 1]).length;
}

/** @param {Context} context @param {Line[]} lines @param {number} from @param {Node} host */
function table(context, lines, from, host) {
  const sides = cells(context, lines[from + 1]).map((cell) => side(textOf(context, cell)));
  let to = from + 2;
  while (to < lines.length && textOf(context, lines[to]).includes("|") && textOf(context, lines[to]).trim()) to += 1;
  const row = (/** @type {Line} */ line, /** @type {string} */ tag) =>
    h("tr", {}, sides.map((align, index) => {
      const cell = h(tag, { class: align });
      const inside = cells(context, line)[index];
      if (inside) inlineLines(context, [inside], cell);
      return cell;
    }));
  host.appendChild(
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" },
      h("table", {}, h("thead", {}, row(lines[from], "th")), h("tbody", {}, lines.slice(from + 2, to).map((line) => row(line, "td"))))),
  );
  return to;
}

/** @param {string} dashes */
function side(dashes) {
  const text = dashes.trim();
  if (!text.endsWith(":")) return null;
  return text.startsWith(":") ? "middle" : "right";
}

/** The cells of a row; a pipe after a backslash or in code is text. @param {Context} context @param {Line} line @returns {Line[]} */
function cells(context, { start, end }) {
  const text = context.source.slice(start, end);
  const found = [];
  let from = text.search(/\S|$/);
  if (text[from] === "|") from += 1;
  let ticks = false;
  for (let at = from; at < text.length; at++) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "`") ticks = !ticks;
    else if (text[at] === "|" && !ticks) {
      found.push({ start: start + from, end: start + at });
      from = at + 1;
    }
  }
  if (text.slice(from).trim()) found.push({ start: start + from, end });
  return found;
}

/** @param {Context} context @param {Line[]} lines @param {number} from @param {Node} host */
function paragraph(context, lines, from, host) {
  let to = from + 1;
  for (; to < lines.length; to++) {
    const text = textOf(context, lines[to]);
    const line = UNDERLINE.exec(text);
    if (line) {
      titled(context, line[1][0] === "=" ? 1 : 2, lines.slice(from, to), host);
      return to + 1;
    }
    if (!text.trim() || begins(context, lines, to)) break;
  }
  const body = h("p");
  inlineLines(context, lines.slice(from, to), body);
  host.appendChild(body);
  return to;
}

/** Whether a line begins a block that ends the paragraph before it. @param {Context} context @param {Line[]} lines @param {number} at */
function begins(context, lines, at) {
  const text = textOf(context, lines[at]);
  const sign = ITEM.exec(text)?.[2];
  const item = sign && (!/\d/.test(sign) || parseInt(sign, 10) === 1 || (at > 0 && ITEM.test(textOf(context, lines[at - 1]))));
  return Boolean(item) || FENCE.test(text) || HEADING.test(text) || QUOTE.test(text) || RULE.test(text) || isTable(context, lines, at);
}

// --- inline ------------------------------------------------------------------------------------------------------------

const SPECIAL = /[\\`*_~[!<&\n]|https?:\/\//g;
const TARGET = /\([ \t\n]*(?:<([^<>\n]*)>|((?:[^\s()\\]|\\.|\([^\s()]*\))*))(?:[ \t\n]+(?:"[^"]*"|'[^']*'|\([^()]*\)))?[ \t\n]*\)/y;
const ADDRESS = /https?:\/\/[^\s<>]+/y;
const TAG = /<\/?[a-zA-Z][^<>]*>/y;
const ENTITY = /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-z]{2,6}));/y;
const CITED = /^(\d{1,3}(?:[ ]?,[ ]?\d{1,3})*)?(\??)$/;
const ENTITIES = /** @type {Record<string, string>} */ ({
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", ndash: "–", mdash: "—", hellip: "…", copy: "©",
});

/** @param {Context} context @param {Line[]} lines @param {Node} host */
function inlineLines(context, lines, host) {
  const run = joined(context, lines);
  context.failed.clear();
  inline(context, run, 0, run.text.length, host, 0);
}

/** Several lines as one text; `hard` are the line breaks that the author wants kept. @param {Context} context @param {Line[]} lines @returns {Run} */
function joined(context, lines) {
  const run = { text: "", at: /** @type {number[]} */ ([]), hard: new Set() };
  for (const [index, { start, end }] of lines.entries()) {
    const whole = context.source.slice(start, end);
    const lead = whole.search(/\S|$/);
    const last = index === lines.length - 1;
    const hard = !last && (/ {2,}$/.test(whole) || (whole.endsWith("\\") && !whole.endsWith("\\\\")));
    const text = whole.slice(lead).replace(hard ? /\\?[ \t]*$/ : /[ \t]+$/, "");
    run.text += text;
    for (let at = 0; at < text.length; at++) run.at.push(start + lead + at);
    if (hard) run.hard.add(run.text.length);
    if (!last) {
      run.text += "\n";
      run.at.push(end);
    }
  }
  return run;
}

/** Everything between two places of a run. @param {Context} context @param {Run} run @param {number} from @param {number} to @param {Node} host @param {number} depth */
function inline(context, run, from, to, host, depth) {
  let plain = from;
  let at = from;
  while (at < to) {
    SPECIAL.lastIndex = at;
    const found = SPECIAL.exec(run.text);
    if (!found || found.index >= to) break;
    at = found.index;
    const made = depth < DEEPEST ? special(context, run, at, to, depth) : null;
    if (made) {
      emit(context, run, plain, at, host);
      host.appendChild(made[0]);
      plain = at = made[1];
    } else {
      at += 1;
    }
  }
  emit(context, run, plain, to, host);
}

/** What a special character begins, as its node and where it ends; null where it is text. @param {Context} context @param {Run} run @param {number} at @param {number} to @param {number} depth @returns {[Node, number] | null} */
function special(context, run, at, to, depth) {
  switch (run.text[at]) {
    case "\\": return escaped(context, run, at, to);
    case "`": return codeSpan(context, run, at, to);
    case "\n": return [run.hard.has(at) ? h("br") : emitted(context, run, at, at + 1), at + 1];
    case "[": return citation(context, run, at, to) ?? link(context, run, at, to, depth);
    case "!": return image(context, run, at, to);
    case "<": return angled(context, run, at, to);
    case "&": return entity(run, at, to);
    case "h": return bare(context, run, at, to);
    default: return emphasis(context, run, at, to, depth);
  }
}

/** @param {Context} context @param {Run} run @param {number} at @param {number} to @returns {[Node, number] | null} */
function escaped(context, run, at, to) {
  if (at + 1 >= to || !/[!-/:-@[-`{-~]/.test(run.text[at + 1])) return null;
  return [emitted(context, run, at + 1, at + 2), at + 2];
}

/** @param {Context} context @param {Run} run @param {number} at @param {number} to @returns {[Node, number] | null} */
function codeSpan(context, run, at, to) {
  const ticks = lengthOf(run, at, to);
  const close = ticksAfter(context, run, at + ticks, to, ticks);
  if (close < 0) return [emitted(context, run, at, at + ticks), at + ticks];
  const inner = run.text.slice(at + ticks, close);
  const padded = inner.length > 2 && inner.startsWith(" ") && inner.endsWith(" ") ? 1 : 0;
  const body = h("code");
  emit(context, run, at + ticks + padded, close - padded, body);
  return [body, close + ticks];
}

/** Where a row of exactly so many back-ticks stands; -1 where none does. @param {Context} context @param {Run} run @param {number} from @param {number} to @param {number} ticks */
function ticksAfter(context, run, from, to, ticks) {
  const key = `${ticks}\`${to}`;
  if (from >= (context.failed.get(key) ?? Infinity)) return -1;
  for (let at = run.text.indexOf("`", from); at >= 0 && at < to; ) {
    const found = lengthOf(run, at, to);
    if (found === ticks) return at;
    at = run.text.indexOf("`", at + found);
  }
  context.failed.set(key, from);
  return -1;
}

/** @param {Context} context @param {Run} run @param {number} at @param {number} to @returns {[Node, number] | null} */
function citation(context, run, at, to) {
  if (!context.cite || run.text[at - 1] === "!") return null;
  const close = at + run.text.slice(at, Math.min(to, at + 26)).indexOf("]");
  if (close < at || run.text[close + 1] === "(") return null;
  const found = CITED.exec(run.text.slice(at + 1, close));
  if (!found || (!found[1] && !found[2])) return null;
  const made = document.createDocumentFragment();
  for (const each of found[1]?.split(",") ?? [null]) {
    const node = context.cite(each === null ? null : Number(each), Boolean(found[2]), run.text.slice(0, at));
    if (!node) return null;
    made.append(node);
  }
  return [made, close + 1];
}

/** @param {Context} context @param {Run} run @param {number} at @param {number} to @param {number} depth @returns {[Node, number] | null} */
function link(context, run, at, to, depth) {
  const found = target(context, run, at, to);
  if (!found) return null;
  const body = document.createDocumentFragment();
  // A link in a link is none: brackets inside are text, as deep as they go.
  inline(context, run, at + 1, found.close, body, Math.max(depth + 1, DEEPEST - 2));
  return [linkOut(found.address, body), found.end];
}

/** @param {Context} context @param {Run} run @param {number} at @param {number} to @returns {[Node, number] | null} */
function image(context, run, at, to) {
  if (run.text[at + 1] !== "[") return null;
  const found = target(context, run, at + 1, to);
  if (!found) return null;
  const alt = run.text.slice(at + 2, found.close).trim();
  return [linkOut(found.address, h("span", { class: "image" }, alt ? `Image: ${alt}` : "Image")), found.end];
}

/** The address of the link text that begins at a bracket, and where both end. @param {Context} context @param {Run} run @param {number} at @param {number} to */
function target(context, run, at, to) {
  const close = brackets(context, run).get(at);
  if (close === undefined || close >= to) return null;
  TARGET.lastIndex = close + 1;
  const direct = TARGET.exec(run.text);
  if (direct && TARGET.lastIndex <= to) {
    return { close, end: TARGET.lastIndex, address: (direct[1] ?? direct[2]).replace(/\\([!-/:-@[-`{-~])/g, "$1") };
  }
  const second = run.text[close + 1] === "[" ? brackets(context, run).get(close + 1) : undefined;
  const name = second !== undefined && second > close + 2 ? run.text.slice(close + 2, second) : run.text.slice(at + 1, close);
  const address = context.addresses.get(named(name));
  return address ? { close, end: (second ?? close) + 1, address } : null;
}

/** Which bracket closes which, in one pass. @param {Context} context @param {Run} run */
function brackets(context, run) {
  if (run.brackets) return run.brackets;
  const pairs = new Map();
  const open = [];
  for (let at = 0; at < run.text.length; at++) {
    const character = run.text[at];
    if (character === "\\") at += 1;
    else if (character === "[") open.push(at);
    else if (character === "]" && open.length) pairs.set(open.pop(), at);
    else if (character === "`") {
      const ticks = lengthOf(run, at, run.text.length);
      const close = ticksAfter(context, run, at + ticks, run.text.length, ticks);
      at = (close < 0 ? at : close) + ticks - 1;
    }
  }
  run.brackets = pairs;
  return pairs;
}

/** An address in angles; any other tag is shown as what it is, text. @param {Context} context @param {Run} run @param {number} at @param {number} to @returns {[Node, number] | null} */
function angled(context, run, at, to) {
  const inside = /^<([^<>\n]{1,2000})>/.exec(run.text.slice(at, Math.min(to, at + 2002)))?.[1] ?? "";
  const close = at + 1 + inside.length;
  if (/^(?:https?:\/\/|mailto:)[^\s<]+$/.test(inside)) return [linkOut(inside, emitted(context, run, at + 1, close)), close + 1];
  TAG.lastIndex = at;
  const tag = TAG.exec(run.text);
  if (!tag || TAG.lastIndex > to) return null;
  if (/^<br\s*\/?>$/i.test(tag[0])) return [h("br"), at + tag[0].length];
  return [h("span", { class: "tag" }, emitted(context, run, at, at + tag[0].length)), at + tag[0].length];
}

/** @param {Run} run @param {number} at @param {number} to @returns {[Node, number] | null} */
function entity(run, at, to) {
  ENTITY.lastIndex = at;
  const found = ENTITY.exec(run.text);
  if (!found || ENTITY.lastIndex > to) return null;
  const code = found[1] ? parseInt(found[1], 10) : parseInt(found[2] ?? "0", 16);
  const text = found[3] ? ENTITIES[found[3]] : code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : undefined;
  return text ? [document.createTextNode(text), at + found[0].length] : null;
}

/** An address that stands in the text as it is. @param {Context} context @param {Run} run @param {number} at @param {number} to @returns {[Node, number] | null} */
function bare(context, run, at, to) {
  ADDRESS.lastIndex = at;
  const found = ADDRESS.exec(run.text)?.[0].slice(0, to - at);
  if (!found || /\w/.test(run.text[at - 1] ?? "")) return null;
  let address = found.replace(/[.,;:!?'"*_~\]]+$/, "");
  if (address.endsWith(")") && !address.includes("(")) address = address.replace(/\)+[.,;:!?]*$/, "");
  return [linkOut(address, emitted(context, run, at, at + address.length)), at + address.length];
}

/** @param {Context} context @param {Run} run @param {number} at @param {number} to @param {number} depth @returns {[Node, number] | null} */
function emphasis(context, run, at, to, depth) {
  const sign = run.text[at];
  const length = lengthOf(run, at, to);
  const [width, close] = opens(run, at, length, to) && !(sign === "~" && length !== 2) ? closing(context, run, at, to, sign, length) : [0, -1];
  if (close < 0) return [emitted(context, run, at, at + length), at + length];
  const body = h(sign === "~" ? "del" : width === 2 ? "strong" : "em");
  inline(context, run, at + width, close, body, depth + 1);
  return [body, close + width];
}

/** How many signs emphasis takes and where it ends: of three, the inner ones are those that end first. @param {Context} context @param {Run} run @param {number} at @param {number} to @param {string} sign @param {number} length @returns {[number, number]} */
function closing(context, run, at, to, sign, length) {
  const one = length !== 2 && sign !== "~" ? closer(context, run, at + 1, to, sign, 1) : -1;
  const two = length >= 2 ? closer(context, run, at + 2, to, sign, 2) : -1;
  return two < 0 || (length > 2 && two < one) ? [1, one] : [2, two];
}

/** @param {Run} run @param {number} at @param {number} length @param {number} to */
function opens(run, at, length, to) {
  const before = run.text[at - 1] ?? " ";
  return at + length < to && !/\s/.test(run.text[at + length]) && !(run.text[at] === "_" && /[\p{L}\p{N}]/u.test(before));
}

/** Where emphasis ends; -1 where it does not. @param {Context} context @param {Run} run @param {number} from @param {number} to @param {string} sign @param {number} width */
function closer(context, run, from, to, sign, width) {
  const key = `${sign}${width}${to}`;
  if (from >= (context.failed.get(key) ?? Infinity)) return -1;
  for (let at = from; at < to; ) {
    if (run.text[at] === "\\") at += 2;
    else if (run.text[at] === "`") {
      const ticks = lengthOf(run, at, to);
      const close = ticksAfter(context, run, at + ticks, to, ticks);
      at = (close < 0 ? at : close) + ticks;
    } else if (run.text[at] === sign) {
      const length = lengthOf(run, at, to);
      const fits = width === 2 ? length >= 2 : length !== 2;
      const after = run.text[at + length] ?? " ";
      const ends = !/\s/.test(run.text[at - 1]) && at > from && !(sign === "_" && /[\p{L}\p{N}]/u.test(after));
      if (fits && ends) return at + length - width;
      at += length;
    } else at += 1;
  }
  context.failed.set(key, from);
  return -1;
}

// --- text and where it stands ------------------------------------------------------------------------------------------

/** A stretch of a run as a node of its own. @param {Context} context @param {Run} run @param {number} from @param {number} to */
function emitted(context, run, from, to) {
  const host = document.createDocumentFragment();
  emit(context, run, from, to, host);
  return host;
}

/** Text nodes for a stretch of a run, marked where the source is. @param {Context} context @param {Run} run @param {number} from @param {number} to @param {Node} host */
function emit(context, run, from, to, host) {
  let begin = from;
  while (begin < to) {
    const mark = markAt(context, run.at[begin]);
    let end = begin + 1;
    if (context.marks.length) while (end < to && markAt(context, run.at[end]) === mark) end += 1;
    else end = to;
    const text = document.createTextNode(run.text.slice(begin, end));
    host.appendChild(mark < 0 ? text : h("mark", {}, text));
    begin = end;
  }
}

/** @param {Context} context @param {number} place */
function markAt(context, place) {
  return context.marks.findIndex(([start, end]) => start <= place && place < end);
}

/** @param {number} start @param {number} end @returns {number[]} */
function places(start, end) {
  return Array.from({ length: end - start }, (_, index) => start + index);
}

/** @param {string} source @returns {Line[]} */
function linesOf(source) {
  const lines = [];
  let start = 0;
  for (const text of source.split("\n")) {
    lines.push({ start, end: start + text.length - (text.endsWith("\r") ? 1 : 0) });
    start += text.length + 1;
  }
  return lines;
}

/** @param {Context} context @param {Line} line */
function textOf(context, line) {
  return context.source.slice(line.start, line.end);
}

/** Columns of white space before a text; a tab reaches to the next multiple of four. @param {string} text */
function indent(text) {
  let columns = 0;
  for (const character of text) {
    if (character === " ") columns += 1;
    else if (character === "\t") columns += 4 - (columns % 4);
    else break;
  }
  return columns;
}

/** A line without its first columns of white space. @param {Context} context @param {Line} line @param {number} columns @returns {Line} */
function stripped(context, { start, end }, columns) {
  let taken = 0;
  while (start < end && taken < columns && " \t".includes(context.source[start])) {
    taken += context.source[start] === "\t" ? 4 - (taken % 4) : 1;
    start += 1;
  }
  return { start, end };
}

/** How often the character at a place is repeated before `to`. @param {Run} run @param {number} at @param {number} to */
function lengthOf(run, at, to) {
  let end = at + 1;
  while (end < to && run.text[end] === run.text[at]) end += 1;
  return end - at;
}

/** The addresses of reference links by name. @param {string} source */
function definitions(source) {
  const found = new Map();
  for (const line of source.split("\n")) {
    const match = line.includes("]:") ? DEFINITION.exec(line) : null;
    if (match && !found.has(named(match[1]))) found.set(named(match[1]), match[2]);
  }
  return found;
}

/** @param {string} name */
function named(name) {
  return name.trim().replace(/\s+/g, " ").toLowerCase();
}
