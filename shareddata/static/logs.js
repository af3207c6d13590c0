// The logs: what they hold, and how far their readers are behind.
import { listen, put } from "./live.js";

const cards = [...document.querySelectorAll(".log")];

function show(card, log) {
  if (log.note) return;
  const part = (which) => card.querySelector(`[data-part=${which}]`);
  put(part("length"), String(log.length));
  put(part("numbers"), log.length ? `${log.first} to ${log.last}` : "none");
  put(part("size"), log.size === null ? "not told" : `${log.size.toLocaleString("en")} bytes`);
  put(part("writer"), log.writer);
  put(part("durability"), log.durability);
  const rows = card.querySelectorAll("[data-reader]");
  log.readers.forEach(([, committed, lag, missing], i) => {
    const [, committedCell, lagCell, missedCell, drawn] = rows[i].cells;
    put(committedCell, String(committed));
    put(lagCell, String(lag));
    put(missedCell, String(missing));
    drawn.firstElementChild.max = Math.max(1, log.length);
    drawn.firstElementChild.value = lag;
  });
}

/** What the page is made of: when that changes it is loaded anew. */
const shape = (logs) => JSON.stringify(logs.map((log) => [log.name, log.note, log.readers.map(([name]) => name)]));
const shown = JSON.stringify(cards.map((card) =>
  [card.dataset.name, card.dataset.note, [...card.querySelectorAll("[data-reader]")].map((row) => row.dataset.reader)]));

listen(() => "/events/logs", {
  message({ logs }) {
    if (!logs) return;
    if (shape(logs) !== shown) location.reload();
    else logs.forEach((log, i) => show(cards[i], log));
  },
});
