// What all pages have in common: the stream of events, the server's clock, ages, remarks.
// Texts from records are only ever put in as text (textContent), never as HTML.

const SILENT = 15000; // ms without an event, of which one comes every five seconds, after which a stream is given up

let offset = 0; // of the server's clock to this browser's, in seconds

/** Return the server's time in seconds since 1970. */
export function now() {
  return Date.now() / 1000 + offset;
}

/** Set a text where it differs: an unchanged one costs no drawing. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set a value; one that may be cut is shown whole under the pointer. */
export function putValue(element, text) {
  put(element, text);
  const title = text.length > 12 ? text : "";
  if (element.title !== title) element.title = title;
}

/** Show a remark, or hide it when it is empty. */
export function remark(element, text) {
  put(element, text);
  element.hidden = !text;
}

/** Return a time that passed, as short as the table wants it. */
export function ageText(seconds) {
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 100) return `${seconds.toFixed(0)} s`;
  if (seconds < 6000) return `${(seconds / 60).toFixed(1)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} d`;
}

/** Return what a record's element says of it before there is any news. */
export function stateOf(element) {
  const number = (text) => (text === undefined ? null : Number(text));
  const { ts, received, note } = element.dataset;
  return { ts: number(ts), received: number(received), note: note ?? "", limits: {} };
}

/** Return a record's age, by the writer's time and by the server's, whichever is longer ago; null when unknown. */
export function age(state) {
  if (typeof state.ts !== "number") return null;
  return now() - Math.min(state.ts, state.received ?? Infinity);
}

/** Return what is wrong with a record as a whole. The server's word counts; here is counted on while it is silent. */
export function recordRemark(state, longest) {
  if (state.note) return state.note;
  return longest && age(state) > longest ? `old: over ${ageText(longest)}` : "";
}

/** Call something now and then every second. */
export function everySecond(work) {
  work();
  setInterval(work, 1000);
}

function linkState(state, text) {
  const link = document.getElementById("link");
  link.hidden = false;
  link.dataset.state = state;
  put(link, text);
}

function note(message) {
  if (message.now) offset = message.now - Date.now() / 1000;
  remark(document.getElementById("trouble"), message.trouble ?? "");
  linkState(message.trouble ? "away" : "live", message.trouble ? "server away" : "live");
  const before = document.body.dataset.described;
  if (message.described && message.described !== before) location.reload(); // the records were described anew
}

/** Ask for the token where a stream is refused for want of it: the page's program was started anew. */
async function loginAgain(address) {
  const asked = new AbortController();
  const { status } = await fetch(address, { signal: asked.signal }).catch(() => ({}));
  asked.abort();
  if (status === 401) location.reload();
}

/**
 * Listen to a stream of events, as long as the page can be seen: browsers have six connections to a machine.
 * `address()` is asked at each new beginning, `begun()` called then; `handlers` has a function for each kind of event.
 */
export function listen(address, handlers, begun = () => {}) {
  let source = null, heard = 0;
  const open = () => {
    source?.close();
    source = null;
    if (document.hidden) return;
    heard = Date.now();
    source = new EventSource(address());
    source.onopen = begun;
    for (const [kind, handle] of Object.entries(handlers)) {
      source.addEventListener(kind, (event) => {
        heard = Date.now();
        const message = JSON.parse(event.data);
        if (kind !== "points") note(message);
        handle(message, event.lastEventId);
      });
    }
    source.onerror = () => {
      linkState("away", "no connection");
      if (source?.readyState !== EventSource.CLOSED) return; // it tries again by itself
      setTimeout(open, 3000);
      loginAgain(address());
    };
  };
  setInterval(() => {
    if (!source || Date.now() - heard < SILENT) return;
    linkState("away", "no connection"); // a frozen server, or a link that was cut, closes nothing
    open();
  }, 1000);
  document.addEventListener("visibilitychange", open);
  addEventListener("pagehide", () => source?.close());
  open();
  return open;
}
