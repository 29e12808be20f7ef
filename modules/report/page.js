"use strict";
// The player, the curves and the tables of a report page. All strings of runs enter the page as
// text (textContent, attributes), never as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const COLOURS = 7, DASHES = ["", "6 3", "2 2", "6 3 1.5 3"]; // as in charts.py

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    } else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
const el = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function number(value, digits = 5) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const short = Number(value.toPrecision(digits));
  return size !== 0 && (size < 0.001 || size >= 1e6) ? short.toExponential() : String(short);
}

// ---------------------------------------------------------------- light and dark

const dark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = (name) => { document.documentElement.dataset.theme = name; };
const theme = document.getElementById("theme");
let chosen = false;
const followSystem = () => { if (!chosen) setTheme(dark.matches ? "dark" : "light"); };
dark.addEventListener("change", followSystem);
followSystem();
theme.addEventListener("click", () => {
  chosen = true;
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
});
theme.hidden = false;

// ---------------------------------------------------------------- lines

const colour = (series) => `var(--c${series.style % COLOURS})`;
const dash = (series) => DASHES[Math.floor(series.style / COLOURS) % DASHES.length];

function dot(shape, x, y, r = 3) { // the path of a marker
  const poly = (points) =>
    "M" + points.map(([a, b]) => `${(x + r * a).toFixed(1)} ${(y + r * b).toFixed(1)}`).join("L") +
    "Z";
  return [
    () => `M${(x - r).toFixed(1)} ${y.toFixed(1)}a${r} ${r} 0 1 0 ${2 * r} 0` +
      `a${r} ${r} 0 1 0 ${-2 * r} 0`,
    () => poly([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]),
    () => poly([[0, -1.3], [1, 0], [0, 1.3], [-1, 0]]),
    () => poly([[0, -1.2], [1.1, 0.9], [-1.1, 0.9]]),
    () => poly([[0, 1.2], [1.1, -0.9], [-1.1, -0.9]]),
    () => poly([[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4],
      [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]]),
    () => poly([[-1.2, -0.7], [-0.7, -1.2], [0, -0.5], [0.7, -1.2], [1.2, -0.7], [0.5, 0],
      [1.2, 0.7], [0.7, 1.2], [0, 0.5], [-0.7, 1.2], [-1.2, 0.7], [-0.5, 0]]),
  ][shape % COLOURS]();
}

function swatch(series) {
  const line = svg("path", { d: "M1 6H27", class: series.baseline ? "baseline" : "line" });
  const parts = [line];
  if (!series.baseline) {
    line.style.stroke = colour(series);
    line.setAttribute("stroke-dasharray", dash(series));
    const mark = svg("path", { d: dot(series.style, 14, 6, 3.4) });
    mark.style.fill = colour(series);
    parts.push(mark);
  }
  line.style.fill = "none";
  line.style.strokeWidth = 2;
  if (series.baseline) {
    line.style.stroke = "var(--soft)";
    line.style.strokeDasharray = "5 4";
  }
  return svg("svg", { class: "swatch", width: 28, height: 12, "aria-hidden": "true" }, ...parts);
}

function legend(names, hidden, changed) { // names: Map of name -> series
  const buttons = new Map();
  const show = () => {
    for (const [name, button] of buttons) button.setAttribute("aria-pressed", !hidden.has(name));
    changed();
  };
  const only = (name) => {
    hidden.clear();
    for (const other of names.keys()) if (other !== name) hidden.add(other);
    show();
  };
  for (const [name, series] of names) {
    const click = (event) => {
      if (event.shiftKey) return only(name);
      if (!hidden.delete(name)) hidden.add(name);
      return show();
    };
    const label = series.note ? `${name} (${series.note})` : name;
    const title = "click: on and off; shift and click: this one alone";
    buttons.set(name, el("button",
      { type: "button", "aria-pressed": !hidden.has(name), title, on: { click } },
      swatch(series), label));
  }
  const all = (on) => () => {
    hidden.clear();
    if (!on) for (const name of names.keys()) hidden.add(name);
    show();
  };
  const more = names.size < 6 ? [] : [
    el("button", { type: "button", class: "controls", on: { click: all(true) } }, "all"),
    el("button", { type: "button", class: "controls", on: { click: all(false) } }, "none")];
  return el("div", { class: "legend", role: "group", "aria-label": "lines on and off" },
    ...more, ...buttons.values());
}

// ---------------------------------------------------------------- one chart

const MARGIN = { left: 56, right: 12, top: 20, bottom: 36 };
let charts = 0;

class Chart {
  // spec: x, y, log and one panel's title and series; box(): the limits that its row shares
  constructor(spec, hidden, row, pick) {
    Object.assign(this, { spec, hidden, row, pick, id: `clip${charts++}`, cursor: null });
    this.tip = el("div", { class: "tip", "aria-live": "polite", hidden: "" });
    const label = [spec.title, spec.panel, `${spec.y} by ${spec.x}`,
      `lines: ${spec.series.map((s) => s.name).join(", ")}`].filter(Boolean).join("; ");
    this.svg = svg("svg", { role: "img", "aria-label": label });
    this.node = el("figure", { class: "chart", tabindex: 0, "aria-label":
      `${label}. Arrow keys: values; + and -: zoom; 0: all`, on: {
      keydown: (event) => this.key(event) } }, this.svg, this.tip);
    const s = this.svg;
    s.addEventListener("pointerdown", (event) => this.down(event));
    s.addEventListener("pointermove", (event) => this.move(event));
    s.addEventListener("pointerup", (event) => this.up(event));
    s.addEventListener("pointercancel", () => { this.from = null; this.overlay(); });
    s.addEventListener("pointerleave", () => { if (!this.from) this.point(null); });
    s.addEventListener("dblclick", () => this.row.zoom(null));
  }

  get shown() { return this.spec.series.filter((s) => !this.hidden.has(s.name)); }

  draw(width, height, [x0, x1], [y0, y1], log) {
    const { left, right, top, bottom } = MARGIN;
    Object.assign(this, { width, height, x0, x1 });
    const scale = log ? (y) => Math.log(y) : (y) => y;
    const [low, high] = [scale(y0), scale(y1)];
    this.px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
    this.py = (y) =>
      height - bottom - ((scale(y) - low) / (high - low || 1)) * (height - top - bottom);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const clip = svg("clipPath", { id: this.id }, svg("rect",
      { x: left, y: top - 4, width: width - left - right, height: height - top - bottom + 8 }));
    const lines = svg("g", { "clip-path": `url(#${this.id})` });
    for (const series of this.shown) lines.append(...this.line(series, y0));
    this.over = svg("g");
    this.svg.replaceChildren(svg("defs", {}, clip), this.axes(y0, y1, log), lines, this.over);
    this.overlay();
  }

  axes(y0, y1, log) {
    const { left, right, top, bottom } = MARGIN, { width, height } = this;
    const group = svg("g");
    const text = (x, y, words, anchor, more = {}) =>
      group.append(svg("text", { x, y, "text-anchor": anchor, ...more }, words));
    for (const tick of log ? logTicks(y0, y1) : ticks(y0, y1, height / 45)) {
      const y = this.py(tick);
      group.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y, y2: y }));
      text(left - 6, y + 4, number(tick, 9), "end");
    }
    for (const tick of ticks(this.x0, this.x1, width / 80)) {
      if (!Number.isInteger(tick)) continue;
      const x = this.px(tick);
      group.append(svg("line", { class: "grid", x1: x, x2: x, y1: top, y2: height - bottom }));
      text(x, height - bottom + 15, number(tick), "middle");
    }
    text((left + width - right) / 2, height - 5, this.spec.x, "middle");
    text(left - 48, 12, this.spec.y + (log ? " (log)" : ""), "start");
    if (this.spec.panel) text(width - right, 12, this.spec.panel, "end", { "font-weight": 600 });
    return group;
  }

  line(series, y0) { // its band, its path, its markers
    const points = series.x.map((x, i) => [x, series.y[i], i])
      .filter(([, y]) => y !== null && (!this.row.log || y > 0));
    const at = (x, y) => `${this.px(x).toFixed(2)} ${this.py(y).toFixed(2)}`;
    const parts = [];
    if (series.spread && points.length > 1) {
      const floor = (y) => (this.row.log ? Math.max(y, y0 / 10) : y);
      const edge = (sign) => points.map(([x, y, i]) => at(x, floor(y + sign * series.spread[i])));
      const band = svg("path", { class: "band",
        d: `M${[...edge(1), ...edge(-1).reverse()].join("L")}Z` });
      band.style.fill = colour(series);
      parts.push(band);
    }
    const path = svg("path", { class: series.baseline ? "line baseline" : "line",
      d: points.length ? `M${points.map(([x, y]) => at(x, y)).join("L")}` : "" });
    if (!series.baseline) {
      path.style.stroke = colour(series);
      if (dash(series)) path.setAttribute("stroke-dasharray", dash(series));
    }
    path.append(svg("title", {}, series.name));
    parts.push(path);
    if (!series.baseline && (points.length === 1 || this.spec.series.length > 1)) {
      const inside = points.filter(([x]) => x >= this.x0 && x <= this.x1);
      const step = Math.ceil(inside.length / 8);
      const some = inside.filter((_, i) => i % step === 0);
      const marks = svg("path",
        { d: some.map(([x, y]) => dot(series.style, this.px(x), this.py(y))).join("") });
      marks.style.fill = colour(series);
      parts.push(marks);
    }
    return parts;
  }

  overlay() { // the player's frame, the cursor, the range being dragged
    if (!this.over) return;
    const { top, bottom } = MARGIN;
    const upright = (name, x) => svg("line",
      { class: name, x1: this.px(x), x2: this.px(x), y1: top, y2: this.height - bottom });
    const parts = [];
    const inside = (x) => x !== null && x !== undefined && x >= this.x0 && x <= this.x1;
    if (inside(this.mark)) parts.push(upright("mark", this.mark));
    if (inside(this.cursor)) parts.push(upright("cursor", this.cursor));
    if (this.from && this.to !== undefined) {
      const [a, b] = [this.from.x, this.to].sort((p, q) => p - q);
      parts.push(svg("rect", { class: "chosen", x: this.px(a), y: top,
        width: this.px(b) - this.px(a), height: this.height - top - bottom }));
    }
    this.over.replaceChildren(...parts);
  }

  setMark(x) { this.mark = x; this.overlay(); }

  // pointer and keys

  xOf(event) {
    const box = this.svg.getBoundingClientRect(), { left, right } = MARGIN;
    const at = ((event.clientX - box.left) / box.width) * this.width;
    const share = (at - left) / (this.width - left - right);
    return this.x0 + Math.min(Math.max(share, 0), 1) * (this.x1 - this.x0);
  }
  yOf(event) {
    const box = this.svg.getBoundingClientRect();
    return ((event.clientY - box.top) / box.height) * this.height;
  }
  down(event) {
    if (event.button) return;
    this.from = { x: this.xOf(event), px: event.clientX };
    this.to = undefined;
    this.svg.setPointerCapture(event.pointerId);
  }
  move(event) {
    const x = this.xOf(event);
    if (this.from && Math.abs(event.clientX - this.from.px) > 5) this.to = x;
    this.point(x, this.yOf(event));
  }
  up(event) {
    const { from, to } = this;
    this.from = null;
    if (!from) return;
    if (to === undefined) {
      if (this.pick) this.pick(Math.round(this.xOf(event)));
    } else if (to !== from.x) this.row.zoom([from.x, to].sort((p, q) => p - q));
    this.overlay();
  }
  key(event) {
    const middle = this.cursor ?? this.mark ?? (this.x0 + this.x1) / 2;
    const about = (factor) => this.row.zoom(
      [this.x0, this.x1].map((x) => middle + (x - middle) * factor));
    const step = (sign) => {
      const places = this.places().filter((x) => x >= this.x0 && x <= this.x1);
      const at = places.indexOf(this.nearest(middle));
      const next = this.cursor === null ? at : at + sign;
      this.point(places[Math.min(Math.max(next, 0), places.length - 1)]);
    };
    const actions = {
      ArrowLeft: () => step(-1), ArrowRight: () => step(1),
      "+": () => about(0.5), "=": () => about(0.5), "-": () => about(2),
      0: () => this.row.zoom(null), Escape: () => { this.row.zoom(null); this.point(null); },
      Enter: () => { if (this.pick && this.cursor !== null) this.pick(this.cursor); },
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    actions[event.key]();
  }

  places() { return [...new Set(this.shown.flatMap((s) => s.x))].sort((a, b) => a - b); }
  nearest(x) {
    let best = null;
    for (const series of this.shown) {
      for (const place of series.x) {
        if (best === null || Math.abs(place - x) < Math.abs(best - x)) best = place;
      }
    }
    return best;
  }

  point(x, y = null) { // the cursor, and the values there; many lines: those next to the pointer
    this.cursor = x === null ? null : this.nearest(x);
    this.overlay();
    this.tip.hidden = this.cursor === null;
    if (this.cursor === null) return;
    let found = this.shown.map((series) => ({ series, i: series.x.indexOf(this.cursor) }))
      .filter(({ series, i }) => i >= 0 && series.y[i] !== null);
    if (y !== null && found.length > 10) {
      const far = ({ series, i }) => Math.abs(this.py(series.y[i]) - y);
      found = found.sort((a, b) => far(a) - far(b)).slice(0, 10);
    }
    found = found.sort((a, b) => b.series.y[b.i] - a.series.y[a.i]).slice(0, 16);
    const rows = found.map(({ series, i }) => el("div", {},
      el("span", {}, swatch(series), series.name),
      el("b", {}, number(series.y[i]) +
        (series.spread ? ` ± ${number(series.spread[i])}` : ""))));
    this.tip.replaceChildren(el("div", {}, `${this.spec.x} ${number(this.cursor)}`), ...rows);
    const right = this.px(this.cursor) > this.width / 2;
    this.tip.style.left = right ? `${(100 * MARGIN.left) / this.width}%` : "auto";
    this.tip.style.right = right ? "auto" : `${(100 * MARGIN.right) / this.width}%`;
  }
}

function ticks(low, high, most) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / Math.max(most, 2), power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) {
    found.push(Number((i * step).toPrecision(12)));
  }
  return found;
}

function logTicks(low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const digits = last - first > 4 ? [1] : [1, 2, 5], step = Math.ceil((last - first) / 8);
  const found = [];
  for (let power = first; power <= last; power += digits.length > 1 ? 1 : step) {
    for (const digit of digits) found.push(Number(`${digit}e${power}`));
  }
  const inside = found.filter((v) => v >= low * 0.999 && v <= high * 1.001);
  return inside.length > 1 ? inside : ticks(low, high, 4).filter((v) => v > 0);
}

// ---------------------------------------------------------------- a row: panels with the same axes

class Row {
  constructor(spec, hidden, { pick = null, height = 230 } = {}) {
    Object.assign(this, { spec, hidden, height, log: spec.log, range: null });
    this.charts = spec.panels.map((panel) => new Chart(
      { title: spec.title, x: spec.x, y: spec.y, panel: panel.title, series: panel.series },
      hidden, this, pick));
    const button = (words, title, click) => el("button", { type: "button", title,
      "aria-label": `${words}: ${title}, ${spec.title}`, on: { click } }, words);
    this.whole = button("all", "show the whole range", () => this.zoom(null));
    this.logButton = button("log", "logarithmic axis", () => { this.log = !this.log; this.draw(); });
    const save = button("SVG", "save as a vector file", () => this.save());
    this.logButton.hidden = spec.panels.some((p) => p.series.some((s) =>
      s.y.some((y) => y !== null && y <= 0)));
    this.node = el("div", { class: spec.panels.length > 1 ? "row wide" : "row" },
      el("div", { class: "bar" }, el("h3", {}, spec.title),
        el("span", { class: "tools controls" }, this.whole, this.logButton, save)),
      el("div", { class: "panels" }, ...this.charts.map((chart) => chart.node)));
  }

  zoom(range) {
    const [low, high] = this.limits();
    this.range = range && [Math.max(range[0], low), Math.min(range[1], high)];
    if (range && this.range[1] - this.range[0] < (high - low) / 1e4) this.range = null;
    if (this.range && this.range[0] <= low && this.range[1] >= high) this.range = null;
    this.draw();
  }

  limits() {
    let low = Infinity, high = -Infinity;
    for (const panel of this.spec.panels) {
      for (const series of panel.series) {
        for (const x of series.x) { low = Math.min(low, x); high = Math.max(high, x); }
      }
    }
    if (low > high) return [0, 1];
    return low === high ? [low - 0.5, high + 0.5] : [low, high];
  }

  heights([x0, x1]) {
    let low = Infinity, high = -Infinity;
    for (const chart of this.charts) {
      for (const series of chart.shown) {
        series.x.forEach((x, i) => {
          const y = series.y[i];
          if (y === null || x < x0 || x > x1) return;
          const band = series.spread ? series.spread[i] ?? 0 : 0;
          const bottom = this.log && y - band <= 0 ? y : y - band;
          low = Math.min(low, bottom);
          high = Math.max(high, y + band);
        });
      }
    }
    if (low > high) return this.log ? [1, 10] : [0, 1];
    if (this.log) return [low / 1.1, high * 1.1];
    const gap = (high - low || Math.abs(high) || 1) * 0.05;
    return [low - gap, high + gap];
  }

  draw() {
    const x = this.range ?? this.limits(), y = this.heights(x);
    this.whole.hidden = !this.range;
    this.logButton.setAttribute("aria-pressed", this.log);
    const height = innerWidth < 760 ? Math.min(this.height, 210) : this.height;
    for (const chart of this.charts) {
      const width = chart.node.clientWidth;
      if (width) chart.draw(Math.max(width, 200), height, x, y, this.log);
    }
  }

  save() { // one file per panel, in the colours of paper
    const before = document.documentElement.dataset.theme;
    setTheme("light");
    for (const chart of this.charts) {
      const copy = chart.svg.cloneNode(true);
      const nodes = [chart.svg, ...chart.svg.querySelectorAll("*")];
      [copy, ...copy.querySelectorAll("*")].forEach((node, i) => {
        const style = getComputedStyle(nodes[i]);
        for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity",
          "font-size", "font-family"]) node.setAttribute(name, style.getPropertyValue(name));
      });
      copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
      const name = [this.spec.name, chart.spec.panel].filter(Boolean).join("_");
      download(`${name.replace(/[^\w.-]+/g, "_")}.svg`, "image/svg+xml", copy.outerHTML);
    }
    setTheme(before);
  }
}

function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function drawToWidth(rows) { // draw again when the width changes
  const node = rows[0].node;
  let width = node.clientWidth;
  rows.forEach((row) => row.draw());
  new ResizeObserver(() => {
    if (node.clientWidth !== width) { width = node.clientWidth; rows.forEach((row) => row.draw()); }
  }).observe(node);
}

function drawCharts() {
  const place = document.getElementById("charts");
  if (!place || !DATA.charts.length) return;
  const names = new Map(), hidden = new Set();
  const rows = DATA.charts.map((spec) => new Row(spec, hidden));
  for (const spec of DATA.charts) {
    for (const panel of spec.panels) for (const s of panel.series) {
      if (!names.has(s.name)) names.set(s.name, s);
    }
  }
  place.append(
    legend(names, hidden, () => rows.forEach((row) => row.draw())),
    el("div", { class: "charts" }, ...rows.map((row) => row.node)),
    el("p", { class: "hint controls" }, "Drag to zoom, double-click for the whole range. Keys on a chart: " +
      "arrows, + and -, 0."));
  drawToWidth(rows);
}

// ---------------------------------------------------------------- the player

async function unpack(text, [time, height, width]) { // as clips.py's unpack
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const values = new Uint8Array(await new Response(stream).arrayBuffer());
  const frame = 3 * height * width;
  if (values.length !== time * frame) throw new Error("a clip on this page is damaged");
  for (let i = 0; i < values.length; i += 3) {
    values[i] += values[i + 1];
    values[i + 2] += values[i + 1];
  }
  for (let i = frame; i < values.length; i += 1) values[i] += values[i - frame];
  return values;
}

// black, violet, orange, white: the error map
const RAMP = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 230]];
const HEAT = Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (RAMP.length - 1), k = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[k].map((c, j) => Math.round(c + (RAMP[k + 1][j] - c) * (at - k)));
});
const GAINS = [1, 2, 4, 8, 16], SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];

class Player {
  constructor(place) {
    Object.assign(this, { place, frame: 0, speed: 1, gain: 4, playing: null, hidden: new Set() });
    this.kinds = { condition: true, truth: true, prediction: true, error: true };
    this.build();
    const asked = /frame=(\d+)/.exec(location.hash);
    this.ready = this.open(0).then(() => { if (asked) this.seek(Number(asked[1])); });
    addEventListener("hashchange", () => {
      const at = /frame=(\d+)/.exec(location.hash);
      if (at) this.seek(Number(at[1]));
    });
  }

  build() {
    const button = (words, label, click) => el("button",
      { type: "button", "aria-label": label, title: label, on: { click } }, words);
    const select = (label, values, now, words, change) => {
      const node = el("select", { on: { change: () => change(node.selectedIndex) } },
        ...values.map((value, i) => el("option",
          i === now ? { selected: "" } : {}, words(value))));
      return el("label", {}, label, node);
    };
    this.playButton = button("▶ play", "play or pause", () => this.toggle());
    this.scrub = el("input", { type: "range", class: "scrub", min: 0, value: 0, "aria-label": "frame",
      on: { input: () => { this.pause(); this.seek(Number(this.scrub.value)); } } });
    this.at = el("output", { class: "at" });
    this.printed = el("p", { class: "printed" }); // what the hidden controls show
    this.screens = el("div", { class: "screens" });
    this.curve = el("div");
    this.switches = el("span", { class: "bar" });
    this.ramp = el("canvas", { class: "ramp", width: 256, height: 1, "aria-hidden": "true" });
    this.rampText = el("span", { class: "note" });
    const choice = DATA.clips.length > 1 ? select("clip", DATA.clips, 0, (c) => c.title,
      (i) => this.open(i)) : el("h3", {}, DATA.clips[0].title);
    this.place.append(
      el("div", { class: "bar controls" }, choice, this.switches),
      this.printed, this.screens,
      el("div", { class: "bar transport controls" }, this.playButton,
        button("◀", "one frame back", () => this.step(-1)),
        button("▶", "one frame on", () => this.step(1)),
        this.scrub, this.at,
        select("speed", SPEEDS, SPEEDS.indexOf(1), (s) => `${s}×`,
          (i) => { this.speed = SPEEDS[i]; this.restart(); }),
        select("error", GAINS, GAINS.indexOf(4), (g) => `${g}×`,
          (i) => { this.gain = GAINS[i]; this.paint(); }), this.ramp, this.rampText),
      this.curve,
      el("p", { class: "hint controls" }, "A click on the curve goes to its frame. Keys: space plays and " +
        "pauses, ← and → step (with shift 10 frames), Home and End."));
    this.place.tabIndex = 0;
    this.place.setAttribute("aria-label", "player of rollouts");
    this.place.addEventListener("keydown", (event) => this.key(event));
    this.paintRamp();
    new ResizeObserver(() => this.resize()).observe(this.screens);
  }

  paintRamp() {
    const image = new ImageData(256, 1);
    HEAT.forEach((rgb, i) => image.data.set([...rgb, 255], 4 * i));
    this.ramp.getContext("2d").putImageData(image, 0, 0);
  }

  async open(index) {
    this.pause();
    const clip = DATA.clips[index];
    this.place.setAttribute("aria-busy", "true");
    const texts = clip.tracks.map((t) => document.getElementById(t.source).textContent);
    let frames;
    try {
      frames = await Promise.all(texts.map((text) => unpack(text, clip.size)));
    } catch (error) {
      this.screens.replaceChildren(el("p", {}, typeof DecompressionStream === "undefined"
        ? "This browser is too old for the player (Chrome 80, Firefox 113, Safari 16.4)."
        : String(error.message)));
      return;
    }
    this.place.removeAttribute("aria-busy");
    Object.assign(this, { clip, index });
    [this.length, this.height, this.width] = clip.size;
    this.scrub.max = this.length - 1;
    this.hidden.clear();
    this.list(frames);
    this.drawCurve();
    this.drawSwitches();
    this.visible();
    this.resize();
    this.seek(Math.min(this.frame, this.length - 1));
  }

  list(frames) { // a screen per track, and per prediction its error: below it, if there are several
    const { clip } = this, truth = clip.tracks.findIndex((t) => t.kind === "truth");
    const several = clip.tracks.filter((t) => t.kind === "prediction").length > 1;
    const cells = [];
    this.shown = [];
    const add = (label, kind, series, values, minus) => {
      const canvas = el("canvas", { width: this.width, height: this.height, role: "img" });
      const value = el("span"), name = el("span");
      if (series && kind === "prediction") name.append(swatch(series));
      name.append(label);
      const node = el("figure", {}, canvas, el("figcaption", {}, name, value));
      const context = canvas.getContext("2d");
      this.shown.push({ label, kind, series, values, minus, canvas, context, value, node });
    };
    clip.tracks.forEach((track, i) => {
      const series = clip.psnr && clip.psnr.panels[0].series.find((s) => s.name === track.label);
      add(track.label, track.kind, series, frames[i], null);
      if (track.kind === "prediction" && truth >= 0) {
        const label = several ? `error: ${track.label}` : "error";
        add(label, "error", series, frames[i], frames[truth]);
      }
    });
    for (const { kind, node } of this.shown) {
      if (several && kind === "error") cells.at(-1).append(node);
      else cells.push(several && kind === "prediction" ? el("div", { class: "pair" }, node) : node);
    }
    this.screens.replaceChildren(...cells);
  }

  drawCurve() {
    this.row = null;
    this.curve.replaceChildren();
    if (!this.clip.psnr) return;
    this.row = new Row(this.clip.psnr, this.hidden,
      { pick: (x) => { this.pause(); this.seek(x); }, height: 200 });
    const names = new Map(this.clip.psnr.panels[0].series.map((s) => [s.name, s]));
    this.curve.append(legend(names, this.hidden, () => { this.row.draw(); this.visible(); }),
      this.row.node);
    drawToWidth([this.row]);
  }

  drawSwitches() {
    const words = { condition: "pose", truth: "truth", prediction: "predictions", error: "error" };
    const there = Object.keys(words).filter((k) => this.shown.some((s) => s.kind === k));
    this.switches.replaceChildren(...there.map((kind) => {
      const box = el("input", { type: "checkbox", on: { change: () => {
        this.kinds[kind] = box.checked;
        this.visible();
      } } });
      box.checked = this.kinds[kind];
      return el("label", {}, box, words[kind]);
    }));
  }

  visible() {
    for (const s of this.shown) {
      s.node.hidden = !this.kinds[s.kind] || Boolean(s.series && this.hidden.has(s.series.name));
    }
    this.resize();
  }

  resize() { // whole multiples of a pixel, where there is room
    if (!this.clip) return;
    const shown = this.shown.filter((s) => !s.node.hidden), room = this.screens.clientWidth;
    const gap = 12, least = room > 700 ? 240 : 150;
    for (const pair of this.screens.querySelectorAll(".pair")) {
      pair.hidden = [...pair.children].every((node) => node.hidden);
    }
    const cells = [...this.screens.children].filter((node) => !node.hidden);
    const columns = Math.max(1, Math.min(cells.length, Math.floor((room + gap) / (least + gap))));
    const share = (room - gap * (columns - 1)) / columns;
    const dots = devicePixelRatio, whole = Math.floor((share * dots) / this.width) / dots;
    const scale = Math.min(6, whole) || share / this.width;
    for (const { canvas } of shown) {
      canvas.style.width = `${scale * this.width}px`;
      canvas.style.height = `${scale * this.height}px`;
    }
    const wide = Math.max(scale * this.width, Math.min(share, 150)); // of a label
    for (const { node } of shown) node.style.width = `${Math.floor(wide)}px`;
  }

  seek(frame) {
    if (!this.clip) return;
    this.frame = Math.min(Math.max(frame, 0), this.length - 1);
    this.paint();
  }
  step(by) { this.pause(); this.seek(this.frame + by); }
  toggle() { if (this.playing) this.pause(); else this.play(); }
  restart() { if (this.playing) { this.pause(); this.play(); } }

  play() {
    const from = this.frame === this.length - 1 ? 0 : this.frame, start = performance.now();
    const next = (now) => {
      const gone = Math.floor((Math.max(now - start, 0) * this.speed) / this.clip.frame_ms);
      this.seek((from + gone) % this.length);
      this.playing = requestAnimationFrame(next);
    };
    this.playing = requestAnimationFrame(next);
    this.playButton.textContent = "❚❚ pause";
  }
  pause() {
    if (this.playing) cancelAnimationFrame(this.playing);
    this.playing = null;
    this.playButton.textContent = "▶ play";
  }

  key(event) {
    if (["SELECT", "BUTTON"].includes(event.target.tagName) && event.key === " ") return;
    if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey) return;
    const stride = event.shiftKey ? 10 : 1;
    const actions = { " ": () => this.toggle(), ArrowLeft: () => this.step(-stride),
      ArrowRight: () => this.step(stride), Home: () => this.step(-this.frame),
      End: () => this.step(this.length) };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  paint() {
    const { frame, clip } = this, count = this.height * this.width;
    const given = frame < clip.given;
    for (const s of this.shown) {
      const image = new ImageData(this.width, this.height), out = image.data;
      const start = 3 * count * frame;
      for (let i = 0, k = start; i < 4 * count; i += 4, k += 3) {
        let rgb = s.values;
        let at = k;
        if (s.minus) {
          const { values: a, minus: b } = s;
          const off = Math.abs(a[k] - b[k]) + Math.abs(a[k + 1] - b[k + 1]) +
            Math.abs(a[k + 2] - b[k + 2]);
          rgb = HEAT[Math.min(255, Math.round((off * this.gain) / 3))];
          at = 0;
        }
        out[i] = rgb[at];
        out[i + 1] = rgb[at + 1];
        out[i + 2] = rgb[at + 2];
        out[i + 3] = 255;
      }
      s.context.putImageData(image, 0, 0);
      s.canvas.setAttribute("aria-label", `${s.label}, frame ${frame}`);
      const psnr = s.kind === "prediction" && s.series ? s.series.y[s.series.x.indexOf(frame)] : null;
      s.value.textContent = given && s.kind === "prediction" ? "given"
        : typeof psnr === "number" ? `${psnr.toFixed(2)} dB` : "";
      s.node.classList.toggle("given", given && s.kind === "prediction");
    }
    this.scrub.value = frame;
    this.at.textContent = `frame ${frame} of 0..${this.length - 1}`;
    this.printed.textContent = `${clip.title}, ${this.at.textContent}`;
    this.rampText.textContent = `0 to ${(255 / this.gain).toFixed(0)} of 255`;
    if (this.row) this.row.charts[0].setMark(frame);
  }
}

// ---------------------------------------------------------------- tables

const cells = (row) => [...row.cells].map((cell) => cell.textContent);
const ESCAPES = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
  "±": "$\\pm$", "<": "$<$", ">": "$>$" };
const latex = (text) => text.replace(/[\\~^±<>]|[&%$#_{}]/g, (c) => ESCAPES[c] ?? `\\${c}`);
const FORMATS = {
  Markdown: (rows) => {
    const lines = rows.map((row) => `| ${row.map((c) => c.replace(/\|/g, "\\|")).join(" | ")} |`);
    return [lines[0], `|${rows[0].map((_, i) => (i ? "---:" : "---")).join("|")}|`,
      ...lines.slice(1)].join("\n");
  },
  CSV: (rows) => rows.map((row) => row.map((c) =>
    (/[",\n]/.test(c) ? `"${c.replace(/"/g, '""')}"` : c)).join(",")).join("\n"),
  LaTeX: (rows) => {
    const lines = rows.map((row) => `${row.map(latex).join(" & ")} \\\\`);
    return [`\\begin{tabular}{l${"r".repeat(rows[0].length - 1)}}`, "\\hline", lines[0], "\\hline",
      ...lines.slice(1), "\\hline", "\\end{tabular}"].join("\n");
  },
};

function sortable(table) {
  const [head] = table.tHead.rows, body = table.tBodies[0];
  [...head.cells].forEach((cell, i) => {
    const click = () => {
      const rows = [...body.rows], key = (row) => row.cells[i].textContent.trim();
      const amount = (text) => parseFloat(text.replace(/^[<>]\s*/, ""));
      const numeric = rows.some((row) => !Number.isNaN(amount(key(row))));
      const down = cell.getAttribute("aria-sort") !== "descending" && numeric
        || (!numeric && cell.getAttribute("aria-sort") === "ascending");
      const order = (a, b) => {
        if (!numeric) return key(a).localeCompare(key(b), undefined, { numeric: true });
        const [x, y] = [amount(key(a)), amount(key(b))];
        return Number.isNaN(x) ? (down ? -1 : 1) : Number.isNaN(y) ? (down ? 1 : -1) : x - y;
      };
      rows.sort((a, b) => (down ? -order(a, b) : order(a, b)));
      for (const other of head.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows);
    };
    cell.replaceChildren(el("button", { type: "button", title: "sort by this column",
      on: { click } }, cell.textContent));
  });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function copyButton(words, text) {
  const button = el("button", { type: "button", on: { click: async () => {
    await copy(text());
    button.textContent = "copied";
    setTimeout(() => { button.textContent = words; }, 1200);
  } } }, words);
  return button;
}

for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length > 1) sortable(table);
  const rows = () => [...table.rows].map(cells);
  table.parentNode.after(el("div", { class: "bar controls" },
    ...Object.entries(FORMATS).map(([name, write]) =>
      copyButton(`copy ${name}`, () => write(rows())))));
}
for (const pre of document.querySelectorAll("pre.command")) {
  pre.after(el("div", { class: "bar controls" }, copyButton("copy", () => pre.textContent)));
}
const place = document.getElementById("player");
const player = place && DATA.clips.length ? new Player(place) : null;
drawCharts();
