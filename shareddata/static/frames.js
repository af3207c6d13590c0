// Frame files: the newest frame of each dataset as a picture.
import { ageText, everySecond, listen, now, put } from "./live.js";
import { load } from "./pictures.js";

const cards = new Map([...document.querySelectorAll(".file")].map((card) => [card.dataset.name, card]));
const part = (element, which) => element.querySelector(`[data-part=${which}]`);
const pause = document.getElementById("pause");
let paused = false;

const address = (file, { path, number }) => `/frame.png?${new URLSearchParams({ file, dataset: path, n: number })}`;

function show(card, file) {
  card.dataset.ts = file.written;
  put(part(card, "state"), file.state);
  put(part(card, "writer"), file.writer || "nobody now");
  const rows = new Map([...card.querySelectorAll("[data-name]")].map((row) => [row.dataset.name, row]));
  for (const dataset of file.datasets) {
    const row = rows.get(dataset.shown);
    put(part(row, "about"), dataset.about);
    if (!dataset.picture) continue;
    const wanted = address(file.name, dataset);
    row.address ??= row.dataset.number === String(dataset.number) ? wanted : ""; // what the page came with
    load(row, wanted, () => put(part(row, "number"), `frame ${dataset.number}`));
  }
}

/** Return what the page is made of: when that changes it is loaded anew. */
const shape = (files) => JSON.stringify(files.map((file) =>
  [file.name, file.datasets.map((dataset) => dataset.shown + dataset.picture).sort()]).sort());
const shown = JSON.stringify([...cards].map(([name, card]) =>
  [name, [...card.querySelectorAll("[data-name]")].map((row) => row.dataset.name + row.matches("figure")).sort()]).sort());

function showAges() {
  for (const card of cards.values()) put(part(card, "age"), ageText(now() - Number(card.dataset.ts)));
}

function setPaused(to) {
  paused = to;
  pause.setAttribute("aria-pressed", String(paused));
  put(pause, paused ? "Go on" : "Pause");
}

pause?.addEventListener("click", () => setPaused(!paused));
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || event.target.closest("button, a, input") || !pause) return;
  event.preventDefault();
  setPaused(!paused);
});

listen(() => "/events/frames", {
  message({ files }) {
    if (!files || paused) return;
    if (shape(files) !== shown) location.reload();
    else for (const file of files) show(cards.get(file.name), file);
    showAges();
  },
});
everySecond(() => { if (!paused) showAges(); });
