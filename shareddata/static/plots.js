// Plots of one record: a canvas for each field, all of the same time; drawn by uPlot.
/* global uPlot */
import { put } from "./live.js";

const MOST = 60000; // points that are kept, fewer of many fields; what is out of sight goes first, then they are thinned
const MOST_VALUES = 3e6;
const STEP_BACK = 5; // seconds that a time stamp may be behind the one before, and still be put in order
const TALLEST = 16000; // pixels of a saved picture; where more are needed plots stand beside each other
const AXIS = 68; // the width of the numbers beside a plot: the same for all, so that times are below each other

// A canvas understands no variables and no light-dark(): an element that is never seen resolves them.
const probe = document.body.appendChild(document.createElement("i"));
probe.hidden = true;
const colours = new Map();
document.addEventListener("theme", () => colours.clear());

function colour(name) {
  if (!colours.has(name)) {
    probe.style.color = `var(${name})`;
    colours.set(name, getComputedStyle(probe).color);
  }
  return colours.get(name);
}

/** Return a time of the day, UTC, as exactly as ticks of so many seconds want it. */
export function timeText(ts, step = 0.001) {
  const text = new Date(ts * 1000).toISOString();
  if (step >= 86400) return text.slice(5, 10);
  if (step >= 60) return text.slice(11, 16);
  return step >= 1 ? text.slice(11, 19) : text.slice(11, 23).replace(/0+$/, "").replace(/\.$/, "");
}

/** Return a number as exactly as the table of values tells it. */
function numberText(value) {
  if (value === null || value === undefined) return "–";
  return String(Number.isInteger(value) ? value : Number(value.toPrecision(10)));
}

/** Return a number beside a plot, at most nine characters wide. */
function tickText(value) {
  const text = String(Number(value.toPrecision(12)));
  return text.length <= 9 ? text : Number(value.toPrecision(5)).toExponential();
}

/** The points of all fields, in the order of time. */
export class Points {
  constructor(names) {
    this.names = names;
    this.times = [];
    this.values = names.map(() => []);
    this.most = Math.min(MOST, Math.floor(MOST_VALUES / names.length));
  }

  /** Take columns of points: `ts` and one for each field. */
  add(columns) {
    const own = this.names.map((name) => columns[name] ?? []);
    columns.ts.forEach((ts, i) => this.insert(ts, own.map((column) => column[i] ?? null)));
  }

  get surplus() { return this.times.length > this.most; }

  /** Forget the oldest points. */
  drop(count) {
    for (const each of [this.times, ...this.values]) each.splice(0, count);
  }

  /** Put points together: of each four two are left, with each field's least value and its greatest. */
  thin() {
    const { times, values } = this, thinned = [[], ...values.map(() => [])];
    for (let i = 0; i < times.length; i += 4) {
      const rows = Math.min(4, times.length - i);
      const columns = values.map((column) => column.slice(i, i + rows));
      const gaps = times.slice(i, i + rows).filter((_, row) => columns.every((column) => column[row] === null)).length;
      if (rows < 4 || gaps > 0 && gaps < 4) [times.slice(i, i + rows), ...columns].forEach((part, k) => thinned[k].push(...part));
      else [[times[i], times[i + 3]], ...columns.map(extremes)].forEach((part, k) => thinned[k].push(...part));
    }
    [this.times, ...this.values] = thinned;
  }

  insert(ts, row) {
    let at = this.times.length;
    if (at && ts < this.times[at - 1] - STEP_BACK) this.cutFrom(ts); // time began anew: a replay, or a clock set back
    at = this.times.length;
    while (at && this.times[at - 1] > ts) at--;
    this.times.splice(at, 0, ts);
    row.forEach((value, i) => this.values[i].splice(at, 0, value));
  }

  cutFrom(ts) {
    const at = this.times.findIndex((time) => time >= ts);
    for (const each of [this.times, ...this.values]) each.length = at;
  }

  /** Leave a gap: what came in between is not known. */
  gap() {
    if (this.times.length) this.insert(this.times.at(-1), this.names.map(() => null));
  }

  clear() {
    for (const each of [this.times, ...this.values]) each.length = 0;
  }
}

/** Return the least and the greatest of some values, as they came; null where there are none. */
function extremes(column) {
  const known = column.filter((value) => value !== null);
  if (!known.length) return [null, null];
  const least = Math.min(...known), greatest = Math.max(...known);
  return known.indexOf(least) < known.indexOf(greatest) ? [least, greatest] : [greatest, least];
}

/** One field's plot, with its title and what it shows under the pointer. */
class Plot {
  constructor(field, plots) {
    this.field = field;
    this.plots = plots;
    this.card = document.createElement("figure");
    this.card.className = "plot";
    this.card.tabIndex = -1;
    const caption = document.createElement("figcaption");
    this.readout = document.createElement("span");
    this.readout.className = "readout";
    const title = document.createElement("span");
    title.className = "title";
    title.textContent = field.name;
    title.title = field.doc ? `${field.name}: ${field.doc}` : field.name;
    const save = document.createElement("button");
    save.type = "button";
    save.className = "quiet";
    save.textContent = "PNG";
    save.title = `Save the plot of ${field.name} as a picture`;
    save.addEventListener("click", () => plots.savePicture([this]));
    caption.append(title, save, this.readout);
    this.area = document.createElement("div");
    this.card.append(caption, this.area);
    this.shown = null; // the index under the pointer
    this.seen = this.drawn = false; // whether it is in sight: others are drawn once, and again when they come there
  }

  make() {
    const truth = this.field.type === "bool";
    this.chart = new uPlot({
      width: Math.max(50, this.area.clientWidth),
      height: this.plots.height,
      legend: { show: false },
      padding: [10, 28, 0, 0],
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false },
        sync: { key: "record", scales: ["x", null] },
        points: { size: 7, fill: () => colour("--accent"), stroke: () => colour("--surface") },
      },
      tzDate: (ts) => uPlot.tzDate(new Date(ts * 1000), "Etc/UTC"),
      scales: { x: { time: true }, y: { range: truth ? [-0.15, 1.15] : (_, least, most) => around(least, most) } },
      axes: [
        { ...axis(), size: 28, space: 80, values: (_, ticks, i, space, step) => ticks.map((ts) => timeText(ts, step)) },
        { ...axis(), size: AXIS, space: 28,
          ...(truth ? { splits: [0, 1], values: (_, ticks) => ticks.map((tick) => (tick ? "true" : "false")) }
            : { values: (_, ticks) => ticks.map(tickText) }) },
      ],
      series: [{}, {
        stroke: () => colour("--accent"), width: 1.5, spanGaps: false,
        ...(truth ? { paths: uPlot.paths.stepped({ align: 1 }) } : {}),
      }],
      hooks: {
        draw: [(chart) => this.drawLimits(chart)],
        setCursor: [(chart) => { this.shown = chart.cursor.idx ?? null; this.tell(); }],
        setSelect: [(chart) => this.select(chart)],
      },
    }, [[], []], this.area);
    new ResizeObserver(() => this.chart.setSize({ width: Math.max(50, this.area.clientWidth), height: this.plots.height }))
      .observe(this.area); // also when it is shown for the first time
    new IntersectionObserver((entries) => {
      this.seen = entries.at(-1).isIntersecting;
      if (this.seen) this.draw(...this.plots.range);
    }, { rootMargin: "200px" }).observe(this.card);
    this.chart.over.addEventListener("dblclick", () => this.plots.follow());
  }

  select(chart) {
    const { left, width } = chart.select;
    if (width < 3) return;
    const [least, most] = [chart.posToVal(left, "x"), chart.posToVal(left + width, "x")];
    chart.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.plots.zoom(least, most);
  }

  drawLimits(chart) {
    const { ctx, bbox } = chart;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--warn-ink");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([6 * devicePixelRatio, 5 * devicePixelRatio]);
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    for (const [word, limit] of [["min", this.field.min], ["max", this.field.max]]) {
      if (limit === null || limit <= chart.scales.y.min || limit >= chart.scales.y.max) continue;
      const y = chart.valToPos(limit, "y", true);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.fillText(`${word} ${limit}`, bbox.left + 4 * devicePixelRatio, y - 4 * devicePixelRatio);
    }
    ctx.restore();
  }

  get values() { return this.plots.points.values[this.plots.points.names.indexOf(this.field.name)]; }

  /** Whether there is any number to draw. */
  get empty() { return this.values.every((value) => value === null); }

  draw(least, most) {
    this.drawn = true;
    this.chart.batch(() => {
      this.chart.setData([this.plots.points.times, this.values], false);
      this.chart.setScale("x", { min: least, max: most });
    });
    this.tell();
  }

  tell() {
    const { times } = this.plots.points;
    const at = this.shown ?? times.length - 1;
    const value = this.values[at];
    const shown = this.field.type === "bool" && value !== null && value !== undefined ? String(Boolean(value)) : numberText(value);
    const text = `${shown}${this.field.unit ? ` ${this.field.unit}` : ""}`;
    put(this.readout, this.shown === null || times[at] === undefined ? text : `${text} at ${timeText(times[at])}`);
  }
}

function axis() {
  return {
    stroke: () => colour("--muted"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: () => colour("--line"), width: 1 },
    ticks: { stroke: () => colour("--line"), width: 1, size: 4 },
  };
}

/** Return the range of a plot that shows values between two. */
function around(least, most) {
  if (least === null || most === null) return [0, 1];
  const room = most > least ? (most - least) * 0.08 : Math.max(Math.abs(most) * 0.02, 1e-9) || 1;
  return [least - room, most + room];
}

/** All plots of a record: they show the same time, and what the pointer is at. */
export class Plots {
  constructor(root, name, fields, span) {
    this.root = root;
    this.name = name;
    this.fields = fields;
    this.height = fields.length > 4 ? 150 : 210;
    this.span = span;
    this.points = new Points(fields.map((field) => field.name));
    this.window = null; // [from, to] while it stands still
    this.stretch = 1; // how many values two points of the history stand for; 1: each is drawn
    this.changed = () => {};
    this.all = fields.map((field) => new Plot(field, this));
    root.append(...this.all.map((plot) => plot.card));
    this.none = document.createElement("p");
    this.none.className = "hint";
    root.after(this.none);
    for (const plot of this.all) plot.make();
    document.addEventListener("theme", () => this.all.forEach((plot) => plot.chart.redraw(false)));
    addEventListener("beforeprint", () => this.all.forEach((plot) => plot.draw(...this.range)));
    document.addEventListener("mouseleave", () => this.all.forEach((plot) => plot.chart.setCursor({ left: -10, top: -10 })));
  }

  /** Return what is shown: from when to when. */
  get range() {
    if (this.window) return this.window;
    const { times } = this.points;
    if (!times.length) return [0, 1];
    const end = times.at(-1), begin = Math.max(times[0], end - this.span);
    return [begin, Math.max(end, begin + 0.001)];
  }

  /** Take columns of points; where there are too many, those before the time that is shown go, or all are thinned. */
  add(columns) {
    const { points } = this;
    points.add(columns);
    if (!points.surplus) return;
    const begin = Math.min(points.times.at(-1) - this.span, this.range[0]);
    const out = points.times.findIndex((ts) => ts >= begin);
    if (out > points.most / 10) points.drop(out);
    else {
      points.thin();
      if (points.surplus) points.drop(points.most / 2); // it is made of gaps
      this.stretch = this.stretch > 1 ? 2 * this.stretch : 4;
    }
  }

  draw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      for (const plot of this.all) {
        plot.card.hidden = plot.empty;
        if (plot.seen || !plot.drawn) plot.draw(...this.range);
      }
      const empty = this.all.filter((plot) => plot.card.hidden).map((plot) => plot.field.name);
      put(this.none, empty.length ? `No number in this time: ${empty.join(", ")}` : "");
    });
  }

  follow() { this.window = null; this.draw(); this.changed(); }

  hold() { this.window = this.range; this.changed(); }

  zoom(least, most) {
    if (most - least < 0.001) return;
    this.window = [least, most];
    this.draw();
    this.changed();
  }

  /** Show a part of what is shown (factor below 1), or more; `shift` moves it by parts of its width. */
  change(factor, shift) {
    const [least, most] = this.range, middle = (least + most) / 2, half = (most - least) / 2;
    this.zoom(middle - half * factor + 2 * half * shift, middle + half * factor + 2 * half * shift);
  }

  /** Save plots as one picture. */
  async savePicture(plots = this.all.filter((plot) => !plot.card.hidden)) {
    for (const plot of plots) plot.draw(...this.range);
    await new Promise(requestAnimationFrame); // they are drawn a moment later
    const scale = devicePixelRatio, head = 34 * scale, margin = 12 * scale;
    const canvases = plots.map((plot) => plot.chart.ctx.canvas);
    const width = Math.max(300 * scale, ...canvases.map((each) => each.width)) + margin;
    const height = Math.max(0, ...canvases.map((each) => each.height)) + head;
    const rows = Math.min(plots.length, Math.floor(TALLEST / height)), columns = Math.ceil(plots.length / rows) || 1;
    const picture = document.createElement("canvas");
    picture.width = columns * width + margin;
    picture.height = rows * height + head + margin;
    const ctx = picture.getContext("2d");
    ctx.fillStyle = colour("--surface");
    ctx.fillRect(0, 0, picture.width, picture.height);
    ctx.fillStyle = colour("--ink");
    ctx.font = `600 ${14 * scale}px system-ui, sans-serif`;
    const [least, most] = this.range;
    ctx.fillText(this.name, margin, head * 0.7);
    ctx.font = `${11 * scale}px system-ui, sans-serif`;
    ctx.fillStyle = colour("--muted");
    ctx.textAlign = "right";
    const day = new Date(most * 1000).toISOString().slice(0, 10);
    ctx.fillText(`${day}  ${timeText(least, 1)} to ${timeText(most, 1)} UTC`, picture.width - margin, head * 0.7);
    ctx.textAlign = "left";
    plots.forEach((plot, i) => {
      const left = margin + Math.floor(i / rows) * width, top = head + i % rows * height;
      ctx.font = `${12 * scale}px system-ui, sans-serif`;
      ctx.fillStyle = colour("--ink");
      ctx.fillText(plot.field.unit ? `${plot.field.name} [${plot.field.unit}]` : plot.field.name, left, top + head * 0.7);
      ctx.drawImage(canvases[i], left, top + head);
    });
    const what = plots.length === 1 ? `${this.name}_${plots[0].field.name}` : this.name;
    picture.toBlob((blob) => save(blob, `${what}_${fileTime(most)}.png`), "image/png");
  }

  /** Save the points that are shown as CSV. */
  saveNumbers() {
    const { times, values } = this.points, [least, most] = this.range;
    const lines = [["time", "ts", ...this.fields.map((field) => (field.unit ? `${field.name} [${field.unit}]` : field.name))]];
    times.forEach((ts, i) => {
      if (ts < least || ts > most) return;
      const row = values.map((column) => column[i]);
      if (row.some((value) => value !== null)) lines.push([new Date(ts * 1000).toISOString(), ts, ...row.map((value) => value ?? "")]);
    });
    const text = lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
    const thinned = this.stretch > 1 ? "_thinned" : "";
    save(new Blob([text], { type: "text/csv" }), `${this.name}_${fileTime(most)}${thinned}.csv`);
  }
}

function cell(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function fileTime(ts) {
  return new Date(ts * 1000).toISOString().slice(0, 19).replaceAll(":", "-");
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
