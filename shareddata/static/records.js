// The table of all records: newest values, ages, remarks; filter and keys.
import { age, ageText, everySecond, listen, put, putValue, recordRemark, remark, stateOf } from "./live.js";

const table = document.getElementById("records");
const words = document.getElementById("words");
const onlyRemarks = document.getElementById("trouble-only");
const unwritten = document.getElementById("unwritten");

class Row {
  constructor(element) {
    this.element = element;
    this.name = element.dataset.name;
    this.longest = Number(element.dataset.maxAge) || 0;
    this.link = element.querySelector("a");
    this.parts = Object.fromEntries(
      ["remark", "sender", "age", "rate"].map((part) => [part, element.querySelector(`[data-part=${part}]`)]));
    this.values = [...element.querySelectorAll("[data-part=value]")];
    this.limits = [...element.querySelectorAll("[data-part=limit]")];
    this.state = { ...stateOf(element), sender: this.parts.sender.textContent };
    this.fixed = `${element.querySelector("th").textContent} ${element.querySelector("ul").textContent}`.toLowerCase();
    this.seen = false; // whether it is in sight: others are drawn when they come there
    this.fresh = false;
    this.had = false;
  }

  /** Whether it has a value, or had one while this page was open. */
  get written() {
    this.had ||= this.state.ts !== null;
    return this.had;
  }

  get said() { return this.written ? recordRemark(this.state, this.longest) : ""; }

  get remarks() { return this.said !== "" || Object.keys(this.state.limits).length > 0; }

  fits(parts) {
    if (!this.written && !unwritten.checked && !parts.length) return false;
    if (onlyRemarks.checked && !this.remarks) return false;
    const text = `${this.fixed} ${this.state.sender.toLowerCase()}`;
    return parts.every((part) => text.includes(part));
  }

  draw() {
    if (!this.seen) return;
    if (this.fresh) {
      const { texts, limits, sender, rate } = this.state;
      this.values.forEach((element, i) => putValue(element, texts[i] ?? ""));
      this.limits.forEach((element, i) => {
        remark(element, limits[i] ?? "");
        element.parentElement.classList.toggle("out", i in limits);
      });
      put(this.parts.sender, sender);
      put(this.parts.rate, rate);
      this.fresh = false;
    }
    put(this.parts.age, age(this.state) === null ? "" : ageText(age(this.state)));
    remark(this.parts.remark, this.said);
    this.element.classList.toggle("old", this.said !== "");
  }
}

const rows = new Map([...(table?.tBodies[0].rows ?? [])].map((element) => [element.dataset.name, new Row(element)]));

let asked = false;
function drawSoon() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    for (const row of rows.values()) if (row.fresh) row.draw();
  });
}

const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const row = rows.get(entry.target.dataset.name);
    row.seen = entry.isIntersecting;
    row.draw();
  }
}, { rootMargin: "200px" });
for (const row of rows.values()) sight.observe(row.element);

function filter() {
  const parts = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0, remarks = 0, never = 0;
  for (const row of rows.values()) {
    const fits = row.fits(parts);
    if (row.element.hidden === fits) row.element.hidden = !fits;
    shown += fits;
    remarks += row.remarks;
    never += !row.written;
  }
  put(document.getElementById("remarks"), String(remarks));
  put(document.getElementById("never"), String(never));
  put(document.getElementById("count"), `${shown} of ${rows.size} records`);
  document.getElementById("empty").hidden = shown > 0;
}

function keepFilter() {
  const query = new URLSearchParams();
  if (words.value) query.set("q", words.value);
  if (onlyRemarks.checked) query.set("remarks", "1");
  if (unwritten.checked) query.set("never", "1");
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  filter();
}

function clear() {
  words.value = "";
  onlyRemarks.checked = false;
  unwritten.checked = true;
  keepFilter();
}

function move(step) {
  const links = [...rows.values()].filter((row) => !row.element.hidden).map((row) => row.link);
  const at = links.indexOf(document.activeElement);
  links[Math.min(links.length - 1, Math.max(0, at < 0 ? 0 : at + step))]?.focus();
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (words.value || onlyRemarks.checked) clear();
    words.blur();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    move(event.key === "ArrowDown" ? 1 : -1);
    event.preventDefault();
  } else if (event.key === "/" && event.target !== words) {
    words.focus();
    event.preventDefault();
  }
}

if (table) {
  const query = new URLSearchParams(location.search);
  words.value = query.get("q") ?? "";
  onlyRemarks.checked = query.has("remarks");
  unwritten.checked = query.has("never") || ![...rows.values()].some((row) => row.written);
  document.getElementById("filter").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("clear").addEventListener("click", clear);
  for (const each of [words, onlyRemarks, unwritten]) each.addEventListener("input", keepFilter);
  document.addEventListener("keydown", key);
}

listen(() => "/events/records", {
  message(message) {
    for (const state of message.records) {
      const row = rows.get(state.name);
      if (!row) continue;
      row.state = state;
      row.fresh = true;
    }
    drawSoon();
  },
});

everySecond(() => {
  for (const row of rows.values()) row.draw();
  if (table) filter();
});
