// One record: its values, plots of its numbers, and a form to write it where that is switched on.
import { age, ageText, everySecond, listen, put, recordRemark, remark, stateOf } from "./live.js";
import { Plots } from "./plots.js";

const article = document.getElementById("record");
const name = article.dataset.name;
const longest = Number(article.dataset.maxAge) || 0;
const part = (element, which) => element.querySelector(`[data-part=${which}]`);
const head = Object.fromEntries(["sender", "age", "rate", "remark"].map((which) => [which, part(article, which)]));
const rows = [...article.querySelectorAll("[data-field]")];
const number = (text) => (text === undefined ? null : Number(text));
const fields = rows.filter((row) => row.dataset.drawn === "1").map(({ dataset }) => ({
  name: dataset.field, unit: dataset.unit, doc: dataset.doc, type: dataset.type,
  min: number(dataset.min), max: number(dataset.max),
}));

let state = stateOf(article);

function showState(message) {
  for (const found of message.records) state = found;
  if (!state.texts) return;
  rows.forEach((row, i) => {
    put(part(row, "value"), state.texts[i] ?? "");
    remark(part(row, "limit"), state.limits[i] ?? "");
    row.classList.toggle("out", i in state.limits);
  });
  put(head.sender, state.sender || "nobody");
  put(head.rate, state.rate || "-");
  showAge();
}

function showAge() {
  put(head.age, age(state) === null ? "-" : ageText(age(state)));
  const said = recordRemark(state, longest);
  remark(head.remark, said);
  article.classList.toggle("old", said !== "");
}

// -- plots ------------------------------------------------------------------------------------------------------------

function plotsOf(root) {
  const plots = new Plots(root, name, fields, Number(article.dataset.span));
  const told = document.getElementById("told"), pause = document.getElementById("pause");
  const whole = document.getElementById("whole"), spans = [...article.querySelectorAll("button[data-span]")];
  const saves = ["save-png", "save-csv"].map((id) => document.getElementById(id));
  const hasHistory = article.dataset.history === "1";
  let missed = 0, last = "", interrupted = false;

  const tell = () => {
    const count = plots.points.times.length;
    const thinned = plots.stretch > 1 ? `; thinned: two points show the least and the greatest of up to ${plots.stretch}` : "";
    const lost = missed ? `; ${missed} came and went too fast to be drawn` : "";
    const wait = hasHistory ? "reading the history" : "no history: drawn from now on";
    for (const each of saves) each.disabled = !count;
    put(told, last || plots.points.times.length ? `${count.toLocaleString("en")} ${count === 1 ? "point" : "points"}${thinned}${lost}` : wait);
  };
  plots.changed = () => {
    pause.setAttribute("aria-pressed", String(plots.window !== null));
    put(pause, plots.window ? "Go on" : "Pause");
    whole.disabled = plots.window === null;
    for (const each of spans) each.setAttribute("aria-pressed", String(Number(each.dataset.span.replace("inf", "Infinity")) === plots.span));
  };
  const address = () => `/events/record/${encodeURIComponent(name)}?${new URLSearchParams({
    span: plots.span === Infinity ? "inf" : plots.span, after: last })}`;
  const reopen = listen(address, {
    state: showState,
    points(message, identity) {
      if (message.history) {
        if (!message.continued) plots.points.clear();
        plots.stretch = Math.max(message.stretch, message.continued ? plots.stretch : 1);
      }
      if (message.gap || interrupted && !hasHistory) plots.points.gap();
      interrupted = false;
      plots.add(message.columns);
      missed = message.missed ?? missed;
      last = identity || last;
      tell();
      if (!plots.window) plots.draw();
    },
  }, () => { interrupted = true; });
  pause.addEventListener("click", () => (plots.window ? plots.follow() : plots.hold()));
  whole.addEventListener("click", () => plots.follow());
  for (const each of spans) {
    each.addEventListener("click", () => {
      plots.span = Number(each.dataset.span.replace("inf", "Infinity"));
      last = "";
      plots.follow();
      reopen();
    });
  }
  saves[0].addEventListener("click", () => plots.savePicture());
  saves[1].addEventListener("click", () => plots.saveNumbers());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input")) return;
    if (event.key === " " && event.target.closest("button, a")) return;
    const keys = {
      " ": () => pause.click(), "+": () => plots.change(0.5, 0), "-": () => plots.change(2, 0),
      ArrowLeft: () => plots.change(1, -0.25), ArrowRight: () => plots.change(1, 0.25), 0: () => plots.follow(),
    };
    if (!keys[event.key]) return;
    keys[event.key]();
    event.preventDefault();
  });
  plots.changed();
}

const root = document.getElementById("plots");
if (root) plotsOf(root);
else listen(() => `/events/record/${encodeURIComponent(name)}`, { state: showState });
everySecond(showAge);

// -- writing ----------------------------------------------------------------------------------------------------------

const form = document.getElementById("write");
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const values = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
  const written = document.getElementById("written");
  try {
    const answer = await fetch(`/setdata/${encodeURIComponent(name)}`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values),
    });
    const said = await (answer.headers.get("content-type")?.includes("json") ? answer.json() : answer.text());
    put(written, answer.ok ? `written by ${said.values.sender}` : (said.error ?? said));
    written.className = answer.ok ? "" : "remark";
  } catch (error) {
    put(written, `nothing came back: ${error.message}`);
    written.className = "remark";
  }
});
