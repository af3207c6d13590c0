// The sensors: their values as they are written, large ones summed up, pictures as pictures.
import { ageText, everySecond, listen, now, put, putValue, remark } from "./live.js";
import { load } from "./pictures.js";

const cards = [...document.querySelectorAll(".sensor")];
const shown = JSON.stringify(cards.map((card) => card.dataset.name));
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

/** Return a place for a value's picture. */
function place(name) {
  const figure = document.createElement("figure"), image = document.createElement("img");
  const caption = document.createElement("figcaption");
  figure.className = "frame";
  figure.dataset.value = name;
  image.alt = `${name}: as it is now`;
  put(caption, name);
  figure.append(image, caption);
  return figure;
}

function showPictures(box, { path, written, pictures }) {
  const shown = [...box.children].map((each) => each.dataset.value);
  if (JSON.stringify(shown) !== JSON.stringify(pictures)) box.replaceChildren(...pictures.map(place));
  for (const each of box.children) {
    load(each, `/sensor.png?${new URLSearchParams({ sensor: path, value: each.dataset.value, n: written })}`);
  }
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
  showPictures(part(card, "pictures"), sensor);
  sensor.values.forEach(([, text], i) => putValue(body.rows[i].cells[1].firstElementChild, text));
}

function showAges() {
  for (const card of cards) {
    if (card.dataset.ts) put(part(card, "age"), ageText(now() - Number(card.dataset.ts)));
  }
}

listen(() => "/events/sensors", {
  message({ sensors }) {
    if (!sensors) return;
    if (JSON.stringify(sensors.map(({ name }) => name)) !== shown) location.reload();
    else sensors.forEach((sensor, i) => show(cards[i], sensor));
    showAges();
  },
});
everySecond(showAges);
