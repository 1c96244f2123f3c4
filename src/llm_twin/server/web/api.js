// The service, as functions: JSON, streams of events, and what to say when it does not answer.

/** What the service or the way to it says went wrong. `status` is 0 where it was not reached. */
export class ServiceError extends Error {
  /** @param {number} status @param {string} title @param {string} detail */
  constructor(status, title, detail) {
    super(detail);
    this.name = "ServiceError";
    this.status = status;
    this.title = title;
  }
}

const KEY = "llm-twin-key";

/** Asked for a key when the service wants one; the page puts its dialog here. */
export const access = {
  /** @type {(refused: boolean) => Promise<string | null>} */
  ask: async () => null,
  /** Told whether the service could be reached. @type {(reached: boolean) => void} */
  reached: () => {},
};

/** Whether a key is kept in this tab. */
export function signedIn() {
  return sessionStorage.getItem(KEY) !== null;
}

/** Forget the key of this tab. */
export function signOut() {
  sessionStorage.removeItem(KEY);
}

/** @param {string} path */
export function get(path) {
  return json("GET", path);
}

/** @param {string} path @param {unknown} body */
export function post(path, body) {
  return json("POST", path, body);
}

/** @param {string} path */
export function remove(path) {
  return json("DELETE", path);
}

/**
 * The events of a stream as [name, data], in order. Leaving the loop or aborting hangs up, which cancels the work.
 * @param {string} path
 * @param {{method?: string, body?: unknown, signal?: AbortSignal}} [how]
 * @returns {AsyncGenerator<[string, any]>}
 */
export async function* events(path, { method = "GET", body, signal } = {}) {
  const response = await request(method, path, body, signal);
  const reader = /** @type {ReadableStream} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(lost);
      if (done) return;
      held = (held + value).replaceAll("\r\n", "\n");
      const blocks = held.split("\n\n");
      held = /** @type {string} */ (blocks.pop());
      for (const block of blocks) {
        const event = parsed(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {string} block @returns {[string, any] | null} */
function parsed(block) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  return data.length ? [name, JSON.parse(data.join("\n"))] : null;
}

/** @param {string} method @param {string} path @param {unknown} [body] @returns {Promise<any>} */
async function json(method, path, body) {
  const response = await request(method, path, body);
  return response.status === 204 ? null : response.json();
}

/**
 * One request, with the key of this tab; where a key is missing or refused, the reader is asked for one.
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body]
 * @param {AbortSignal} [signal]
 */
async function request(method, path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const response = await sent(method, path, key, body, signal);
    if (response.status !== 401) return checked(response);
    // Another request may have been given a key while this one was under way.
    if (sessionStorage.getItem(KEY) === key && !(await signIn(key !== null))) await checked(response);
  }
}

/** @type {Promise<boolean> | null} */
let asking = null;

/** One dialog, however many requests wait for it. @param {boolean} refused */
function signIn(refused) {
  asking ??= access.ask(refused).then((key) => {
    asking = null;
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
    return Boolean(key);
  });
  return asking;
}

/**
 * @param {string} method
 * @param {string} path
 * @param {string | null} key
 * @param {unknown} body
 * @param {AbortSignal} [signal]
 */
async function sent(method, path, key, body, signal) {
  /** @type {Record<string, string>} */
  const headers = { Accept: "application/json, text/event-stream" };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const how = { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) };
  const response = await fetch(path, how).catch(lost);
  access.reached(true);
  return response;
}

/** The error for a service that was not reached; the page is told. @param {unknown} error @returns {never} */
export function lost(error) {
  if (error instanceof DOMException && error.name === "AbortError") throw error;
  access.reached(false);
  throw new ServiceError(
    0, "The service cannot be reached", "It stopped, or the network did; start it with: twin serve. This page keeps trying.",
  );
}

/** @param {Response} response */
async function checked(response) {
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw problemError(problem, response.status, response.headers.get("Retry-After"));
}

/**
 * A problem of the service (RFC 9457) as an error, also one that came as an event.
 * @param {{status?: number, title?: string, detail?: string, errors?: {at: string, message: string}[]}} problem
 * @param {number} [status]
 * @param {string | null} [retryAfter]
 */
export function problemError(problem, status = problem.status ?? 500, retryAfter = null) {
  const detail = problem.detail ?? `The service answered with status ${status}; its log says why.`;
  const wait = retryAfter ? ` Try again in ${retryAfter} s.` : "";
  return new ServiceError(status, problem.title ?? "The request failed", detail + wait);
}
