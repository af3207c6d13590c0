// The sensors: their values as they are written, large ones summed up.
import { ageText, everySecond, listen, now, put, putValue, remark } from "./live.js";

const cards = new Map([...document.querySelectorAll(".sensor")].map((card) => [card.dataset.name, card]));
const part = (card, which) => card.querySelector(`[data-part=${which}]`);

/** Return a line of the table, of two texts. */
function line(name) {
  const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
  const value = document.createElement("span");
  head.scope = "row";
  cell.className = "number";
  value.className = "value";
  put(head, name);
  cell.append(value);
  row.append(head, cell);
  return row;
}

function show(card, sensor) {
  card.dataset.ts = sensor.written ?? "";
  put(part(card, "kept"), String(sensor.kept));
  put(part(card, "packed"), sensor.packed || "nothing");
  remark(part(card, "note"), sensor.note);
  remark(part(card, "more"), sensor.more ? `and ${sensor.more} more` : "");
  const body = card.querySelector("tbody");
  const names = [...body.rows].map((row) => row.cells[0].textContent);
  if (JSON.stringify(names) !== JSON.stringify(sensor.values.map(([name]) => name))) {
    body.replaceChildren(...sensor.values.map(([name]) => line(name)));
  }
  sensor.values.forEach(([, text], i) => putValue(body.rows[i].cells[1].firstElementChild, text));
}

function showAges() {
  for (const card of cards.values()) {
    if (card.dataset.ts) put(part(card, "age"), ageText(now() - Number(card.dataset.ts)));
  }
}

listen(() => "/events/sensors", {
  message({ sensors }) {
    if (!sensors) return;
    if (JSON.stringify(sensors.map(({ name }) => name)) !== JSON.stringify([...cards.keys()])) location.reload();
    else for (const sensor of sensors) show(cards.get(sensor.name), sensor);
    showAges();
  },
});
everySecond(showAges);
