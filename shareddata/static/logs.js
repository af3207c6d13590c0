// The logs: what they hold, and how far their readers are behind.
import { listen, put, remark } from "./live.js";

const cards = new Map([...document.querySelectorAll(".log")].map((card) => [card.dataset.name, card]));

function show(card, log) {
  const part = (which) => card.querySelector(`[data-part=${which}]`);
  put(part("length"), String(log.length));
  put(part("numbers"), log.length ? `${log.first} to ${log.last}` : "none");
  put(part("size"), log.size === null ? "not told" : `${log.size.toLocaleString("en")} bytes`);
  put(part("writer"), log.writer.program ?? "nobody yet");
  put(part("durability"), log.durability);
  const rows = new Map([...card.querySelectorAll("[data-reader]")].map((row) => [row.dataset.reader, row]));
  for (const [name, { committed, lag, missing }] of Object.entries(log.readers)) {
    const row = rows.get(name);
    const [, committedCell, lagCell, missedCell, drawn] = row.cells;
    put(committedCell, String(committed));
    put(lagCell, String(lag));
    put(missedCell, String(missing));
    drawn.firstElementChild.max = Math.max(1, log.length);
    drawn.firstElementChild.value = lag;
  }
}

/** Return what the page is made of: when that changes it is loaded anew. */
const shape = (logs) => JSON.stringify(logs.map((log) => [log.name, Object.keys(log.readers).sort()]));
const shown = JSON.stringify([...cards].map(([name, card]) =>
  [name, [...card.querySelectorAll("[data-reader]")].map((row) => row.dataset.reader).sort()]));

listen(() => "/events/logs", {
  message({ logs, trouble }) {
    remark(document.getElementById("trouble"), trouble);
    if (!logs) return;
    if (shape(logs) !== shown) location.reload();
    else for (const log of logs) show(cards.get(log.name), log);
  },
});
