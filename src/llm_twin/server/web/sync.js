// Start a sync and watch it: steps as they go, then how every item ended.

import { events, get, post, problemError } from "./api.js";
import { h, put, say } from "./dom.js";
import { problem } from "./problem.js";
import { number, plural } from "./words.js";

/**
 * @param {{wantsAddress?: boolean, done: () => void}} how `wantsAddress` asks for a source to read this once.
 */
export function createSync({ wantsAddress = false, done }) {
  const address = h("input", { type: "text", name: "address", "aria-label": "Address of a source", placeholder: "./posts or https://…", spellcheck: "false", autocapitalize: "off" });
  const button = h("button", { type: "submit", class: "main" }, wantsAddress ? "Read it" : "Sync now");
  const steps = h("ul", { class: "steps" });
  const outcome = h("div", { role: "status" });
  const element = h("form", { class: "sync", onsubmit: start }, h("div", { class: "row" }, wantsAddress && address, button), steps, outcome);
  const leaving = new AbortController();

  /** @param {Event} event */
  async function start(event) {
    event.preventDefault();
    const named = address.value.trim();
    if (wantsAddress && !named) return address.focus();
    put(steps);
    put(outcome, "Starting …");
    try {
      await watch(await post("/v1/sync", named ? { addresses: [named] } : {}));
    } catch (error) {
      put(outcome, problem(error));
    }
  }

  /** Follow a job to its end. @param {{id: string}} job */
  async function watch({ id }) {
    button.disabled = true;
    put(outcome, "Reading the sources …");
    try {
      for await (const [name, data] of events(`/v1/jobs/${encodeURIComponent(id)}?stream=true`, { signal: leaving.signal })) {
        if (name === "progress") step(data);
        if (name === "error") throw problemError(data);
        if (name === "done") finish(data.report ?? {});
      }
    } catch (error) {
      if (!leaving.signal.aborted) put(outcome, problem(error));
    } finally {
      button.disabled = false;
    }
  }

  /** @param {{step: string, done: number, total: number | null}} progress */
  function step({ step: name, done: count, total }) {
    let line = Array.from(steps.children).find((each) => each instanceof HTMLElement && each.dataset.step === name);
    if (!line) steps.append((line = h("li", { "data-step": name })));
    put(line, h("span", {}, name),
      total ? h("progress", { max: total, value: count, "aria-label": name }) : null,
      h("span", { class: "hint" }, total ? `${number(count)} of ${number(total)}` : number(count)));
  }

  /** @param {any} report */
  function finish(report) {
    const counts = Object.entries(report.documents ?? {}).filter(([, count]) => count).map(([name, count]) => `${number(/** @type {number} */ (count))} ${name}`);
    put(outcome, h("p", {}, h("strong", {}, "Done. "), counts.join(", ") || "Nothing changed", `; ${plural(report.chunks ?? 0, "chunk")} indexed, ${number(report.embedded ?? 0)} of them new.`),
      (report.problems ?? []).map((/** @type {string} */ each) => h("p", { class: "problem" }, each)));
    say("Sync done");
    done();
  }

  /** Take up the sync that is running, if one is. */
  async function resume() {
    const running = (await get("/v1/jobs")).find((/** @type {any} */ job) => job.status === "running");
    if (running) await watch(running);
  }

  resume().catch(() => {}); // whoever may not look at jobs is told when they start one
  return { element, leave: () => leaving.abort() };
}
