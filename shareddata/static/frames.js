// Frame files: the newest frame of each dataset as a picture, one after the other as fast as this browser takes them.
import { ageText, everySecond, listen, now, put } from "./live.js";

const cards = new Map([...document.querySelectorAll(".file")].map((card) => [card.dataset.name, card]));
const part = (element, which) => element.querySelector(`[data-part=${which}]`);
const pause = document.getElementById("pause");
let paused = false;

/** Load a figure's newest frame, unless the one before is still on its way: frames are skipped, never queued. */
function load(figure, name) {
  const { number, shown, path } = figure.dataset;
  if (paused || figure.loading || number === shown) return;
  const image = figure.querySelector("img"), query = new URLSearchParams({ file: name, dataset: path, n: number });
  const ended = () => {
    figure.loading = false;
    put(part(figure, "number"), `frame ${number}`);
    load(figure, name);
  };
  figure.loading = true;
  figure.dataset.shown = number;
  image.onload = image.onerror = ended;
  image.src = `/frame.png?${query}`;
}

function show(card, file) {
  card.dataset.ts = file.written;
  put(part(card, "state"), file.state);
  put(part(card, "writer"), file.writer || "nobody now");
  const rows = new Map([...card.querySelectorAll("[data-path]")].map((row) => [row.dataset.path, row]));
  for (const dataset of file.datasets) {
    const row = rows.get(dataset.path);
    put(part(row, "about"), dataset.about);
    if (!dataset.picture) continue;
    row.dataset.number = dataset.number;
    load(row, file.name);
  }
}

/** Return what the page is made of: when that changes it is loaded anew. */
const shape = (files) => JSON.stringify(files.map((file) =>
  [file.name, file.datasets.map((dataset) => dataset.path + dataset.picture).sort()]).sort());
const shown = JSON.stringify([...cards].map(([name, card]) =>
  [name, [...card.querySelectorAll("[data-path]")].map((row) => row.dataset.path + row.matches("figure")).sort()]).sort());
for (const figure of document.querySelectorAll("figure")) figure.dataset.shown = figure.dataset.number;

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
