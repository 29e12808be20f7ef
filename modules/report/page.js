"use strict";
// The player, the curves and the tables of a report page. All strings of runs enter the page as
// text (textContent, attributes), never as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const COLOURS = 7, DASHES = ["none", "6 3", "2 2", "6 3 1.5 3"]; // as in charts.py

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

const root = document.documentElement.dataset, theme = document.getElementById("theme");
const stored = (use) => { try { return use(localStorage); } catch { return null; } }; // if allowed
root.theme = stored((s) => s.getItem("theme"))
  || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
theme.addEventListener("click", () => {
  root.theme = root.theme === "dark" ? "light" : "dark";
  stored((s) => s.setItem("theme", root.theme));
});
theme.hidden = false;

// ---------------------------------------------------------------- lines

// Markers of lines, as commands from their middle: circle, square, diamond, triangles, plus, cross.
const SHAPES = ["m-3 0a3 3 0 0 0 6 0a3 3 0 0 0-6 0z", "m-3-3h6v6h-6z", "m0-4l3 4l-3 4l-3-4z",
  "m0-4l3 7h-6z", "m0 4l3-7h-6z", "m-1-4h2v3h3v2h-3v3h-2v-3h-3v-2h3z",
  "m0-1.5l2-2l2 2l-2 2l2 2l-2 2l-2-2l-2 2l-2-2l2-2l-2-2l2-2z"];
const ink = (series) => `--hue: var(--c${series.style % COLOURS})`;
const stroke = (series) => (series.baseline ? { class: "baseline" } : { class: "line",
  style: ink(series),
  "stroke-dasharray": DASHES[Math.floor(series.style / COLOURS) % DASHES.length] });
const dots = (series, points) => svg("path", { class: "dots", style: ink(series), d: points
  .map(([x, y]) => `M${x.toFixed(1)} ${y.toFixed(1)}${SHAPES[series.style % COLOURS]}`).join("") });

function swatch(series) {
  const parts = [svg("path", { d: "M1 6H27", ...stroke(series) })];
  if (!series.baseline) parts.push(dots(series, [[14, 6]]));
  return svg("svg", { class: "swatch", width: 28, height: 12, "aria-hidden": "true" }, ...parts);
}

function legend(names, hidden, changed) { // names: Map of name -> series
  const buttons = [...names].map(([name, series]) => el("button", { type: "button",
    title: "on and off", "aria-pressed": true, on: { click: ({ currentTarget }) => {
      if (!hidden.delete(name)) hidden.add(name);
      currentTarget.setAttribute("aria-pressed", !hidden.has(name));
      changed();
    } } }, swatch(series), series.note ? `${name} (${series.note})` : name));
  return el("div", { class: "legend", role: "group" }, ...buttons);
}

// ---------------------------------------------------------------- one panel of a chart

const MARGIN = { left: 56, right: 12, top: 20, bottom: 36 };
const MOST = 12; // values that are shown at once
const extent = (values) => values.reduce(([low, high], value) =>
  [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);

class Panel {
  // hidden: names of lines that are switched off; pick(x): called with the x that is clicked
  constructor(spec, { title, series }, hidden, pick) {
    Object.assign(this, { spec, title, series, hidden, pick, cursor: null, mark: null });
    this.tip = el("div", { class: "tip", "aria-live": "polite", hidden: "" });
    const label = [spec.title, title, `${spec.y} by ${spec.x}`,
      `lines: ${series.map((s) => s.name).join(", ")}`].filter(Boolean).join("; ");
    this.svg = svg("svg", { role: "img", "aria-label": label, on: {
      pointermove: (event) => this.point(...this.at(event)),
      pointerleave: () => this.point(null),
      click: (event) => { if (pick) pick(Math.round(this.at(event)[0])); },
    } });
    this.node = el("figure", { class: "chart" }, this.svg, this.tip);
  }

  get shown() { return this.series.filter((s) => !this.hidden.has(s.name)); }

  draw(width, height, [x0, x1], [y0, y1], log) {
    const { left, right, top, bottom } = MARGIN;
    const scale = log ? Math.log : (y) => y;
    const [low, high] = [scale(y0), scale(y1)];
    Object.assign(this, { width, height, x0, x1, log });
    this.places = [...new Set(this.shown.flatMap((s) => s.x))].sort((a, b) => a - b);
    this.px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
    this.py = (y) => height - bottom - ((scale(y) - low) / (high - low)) * (height - top - bottom);
    this.over = svg("g");
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...this.axes(y0, y1), ...this.shown.flatMap((s) => this.line(s, y0)),
      this.over);
    this.overlay();
  }

  axes(y0, y1) {
    const { left, right, top, bottom } = MARGIN, { width, height, spec } = this;
    const text = (x, y, words, anchor) => svg("text", { x, y, "text-anchor": anchor }, words);
    const grid = (x1, x2, y1_, y2) => svg("line", { class: "grid", x1, x2, y1: y1_, y2 });
    const parts = [];
    for (const tick of this.log ? logTicks(y0, y1) : ticks(y0, y1, height / 45)) {
      const y = this.py(tick);
      parts.push(grid(left, width - right, y, y), text(left - 6, y + 4, number(tick, 9), "end"));
    }
    for (const tick of ticks(this.x0, this.x1, width / 80).filter(Number.isInteger)) {
      const x = this.px(tick);
      parts.push(grid(x, x, top, height - bottom),
        text(x, height - bottom + 15, number(tick), "middle"));
    }
    parts.push(text((left + width - right) / 2, height - 5, spec.x, "middle"),
      text(left - 48, 12, spec.y + (this.log ? " (log)" : ""), "start"));
    if (this.title) parts.push(text(width - right, 12, this.title, "end"));
    return parts;
  }

  line(series, y0) { // its band, its path, its markers
    const points = series.x.map((x, i) => [x, series.y[i], series.spread?.[i] ?? 0])
      .filter(([, y]) => y !== null && (!this.log || y > 0));
    const at = (x, y) =>
      `${this.px(x).toFixed(2)} ${this.py(this.log ? Math.max(y, y0) : y).toFixed(2)}`;
    const path = (ends) => (ends.length ? `M${ends.join("L")}` : "");
    const parts = [];
    if (series.spread && points.length > 1) {
      const edge = (sign) => points.map(([x, y, spread]) => at(x, y + sign * spread));
      const d = `${path([...edge(1), ...edge(-1).reverse()])}Z`;
      parts.push(svg("path", { class: "band", style: ink(series), d }));
    }
    parts.push(svg("path", { ...stroke(series), d: path(points.map(([x, y]) => at(x, y))) }));
    if (!series.baseline && (points.length === 1 || this.series.length > 1)) {
      const step = Math.ceil(points.length / 8);
      const marked = points.filter((_, i) => i % step === 0);
      parts.push(dots(series, marked.map(([x, y]) => [this.px(x), this.py(y)])));
    }
    return parts;
  }

  overlay() { // the player's frame, and the cursor
    const lines = [["mark", this.mark], ["cursor", this.cursor]].filter(([, x]) => x !== null);
    this.over.replaceChildren(...lines.map(([name, value]) => {
      const x = this.px(Math.min(Math.max(value, this.x0), this.x1));
      return svg("line", { class: name, x1: x, x2: x, y1: MARGIN.top,
        y2: this.height - MARGIN.bottom });
    }));
  }

  at(event) { // -> x as a value, y in pixels
    const box = this.svg.getBoundingClientRect(), { left, right } = MARGIN;
    const pixels = ((event.clientX - box.left) / box.width) * this.width;
    const share = Math.min(Math.max((pixels - left) / (this.width - left - right), 0), 1);
    return [this.x0 + share * (this.x1 - this.x0),
      ((event.clientY - box.top) / box.height) * this.height];
  }

  point(x, y) { // the cursor, and the values there; many lines: those next to the pointer
    this.cursor = x === null ? null : this.places.reduce((best, place) =>
      (best === null || Math.abs(place - x) < Math.abs(best - x) ? place : best), null);
    this.overlay();
    this.tip.hidden = this.cursor === null;
    if (this.tip.hidden) return;
    const values = this.shown.map((series) => {
      const i = series.x.indexOf(this.cursor);
      return { series, value: series.y[i] ?? null, spread: series.spread?.[i] };
    }).filter(({ value }) => value !== null);
    const far = ({ value }) => Math.abs(this.py(value) - y);
    const near = values.sort((a, b) => far(a) - far(b)).slice(0, MOST);
    this.tip.replaceChildren(el("div", {}, `${this.spec.x} ${number(this.cursor)}`),
      ...near.sort((a, b) => b.value - a.value).map(({ series, value, spread }) => el("div", {},
        el("span", {}, swatch(series), series.name),
        el("b", {}, number(value) + (spread === undefined ? "" : ` ± ${number(spread)}`)))));
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
  const digits = last - first > 4 ? [1] : [1, 2, 5];
  const found = Array.from({ length: last - first + 1 }, (_, i) => first + i)
    .flatMap((power) => digits.map((digit) => Number(`${digit}e${power}`)))
    .filter((v) => v >= low * 0.999 && v <= high * 1.001);
  return found.length > 1 ? found : ticks(low, high, 4).filter((v) => v > 0);
}

// ---------------------------------------------------------------- panels with the same axes

class Chart {
  constructor(spec, hidden, { pick = null, height = 230 } = {}) {
    Object.assign(this, { spec, height, log: spec.log });
    this.panels = spec.panels.map((panel) => new Panel(spec, panel, hidden, pick));
    this.logButton = el("button", { type: "button", title: "logarithmic axis",
      "aria-label": `log: logarithmic axis, ${spec.title}`,
      on: { click: () => { this.log = !this.log; this.draw(); } } }, "log");
    const lines = spec.panels.flatMap((panel) => panel.series);
    this.logButton.hidden = lines.some((s) => s.y.some((y) => y !== null && y <= 0));
    const [low, high] = extent(lines.flatMap((s) => s.x));
    this.limits = low < high ? [low, high] : [low - 0.5, low + 0.5];
    this.node = el("div", { class: spec.panels.length > 1 ? "row wide" : "row" },
      el("div", { class: "bar" }, el("h3", { title: spec.about }, spec.title),
        this.logButton),
      el("div", { class: "panels" }, ...this.panels.map((panel) => panel.node)));
  }

  mark(x) { for (const panel of this.panels) { panel.mark = x; panel.overlay(); } }

  heights() {
    const lines = this.panels.flatMap((panel) => panel.shown);
    const values = lines.flatMap((s) => s.y.flatMap((y, i) => {
      const spread = s.spread?.[i] ?? 0;
      return y === null ? [] : [y - spread, y, y + spread];
    })).filter((y) => !this.log || y > 0);
    const [low, high] = values.length ? extent(values) : [1, 10];
    if (this.log) return [low / 1.1, high * 1.1];
    const gap = (high - low || Math.abs(high) || 1) * 0.05;
    return [low - gap, high + gap];
  }

  draw() {
    this.logButton.setAttribute("aria-pressed", this.log);
    const height = innerWidth < 760 ? Math.min(this.height, 210) : this.height;
    const heights = this.heights();
    for (const panel of this.panels) {
      const width = Math.max(panel.node.clientWidth, 200);
      panel.draw(width, height, this.limits, heights, this.log);
    }
  }
}

function drawCharts() {
  const place = document.getElementById("charts");
  if (!place) return [];
  const hidden = new Set(), charts = DATA.charts.map((spec) => new Chart(spec, hidden));
  const lines = DATA.charts.flatMap((spec) => spec.panels).flatMap((panel) => panel.series);
  const names = new Map();
  for (const series of lines) if (!names.has(series.name)) names.set(series.name, series);
  place.append(legend(names, hidden, () => charts.forEach((chart) => chart.draw())),
    el("div", { class: "charts" }, ...charts.map((chart) => chart.node)));
  charts.forEach((chart) => chart.draw());
  return charts;
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
    const [, asked] = /frame=(\d+)/.exec(location.hash) ?? [];
    this.ready = this.open(0).then(() => // unless asked, where prediction and truth differ
      this.seek(Number(asked ?? Math.floor(this.length / 2))));
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
    this.scrub = el("input", { type: "range", class: "scrub", min: 0, value: 0,
      "aria-label": "frame", on: { input: () => this.go(Number(this.scrub.value)) } });
    this.at = el("output", { class: "at" });
    this.screens = el("div", { class: "screens" });
    this.curve = el("div");
    this.switches = el("span", { class: "bar switches" });
    this.rampText = el("span", { class: "note" });
    const choice = DATA.clips.length > 1 ? select("clip", DATA.clips, 0, (c) => c.title,
      (i) => this.open(i)) : el("h3", {}, DATA.clips[0].title);
    this.place.append(
      el("div", { class: "bar" }, choice, this.switches), this.screens,
      el("div", { class: "bar transport" }, this.playButton,
        button("◀", "one frame back", () => this.step(-1)),
        button("▶", "one frame on", () => this.step(1)),
        this.scrub, this.at,
        select("speed", SPEEDS, SPEEDS.indexOf(1), (s) => `${s}×`,
          (i) => { this.speed = SPEEDS[i]; if (this.playing) { this.pause(); this.play(); } }),
        select("error", GAINS, GAINS.indexOf(4), (g) => `${g}×`,
          (i) => { this.gain = GAINS[i]; this.paint(); }),
        el("span", { class: "ramp", "aria-hidden": "true" }), this.rampText),
      this.curve,
      el("p", { class: "hint" }, "Keys: space plays and pauses, ← and → step (with shift 10 " +
        "frames), Home and End. A click on the curve goes to its frame."));
    this.place.setAttribute("aria-label", "player of rollouts");
    addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.resize()).observe(this.screens);
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
      this.screens.replaceChildren(el("p", {}, `This clip cannot be played: ${error.message}`));
      return;
    }
    this.place.removeAttribute("aria-busy");
    this.clip = clip;
    [this.length, this.height, this.width] = clip.size;
    this.scrub.max = this.length - 1;
    this.hidden.clear();
    this.list(frames);
    this.drawCurve();
    this.drawSwitches();
    this.visible();
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
    this.chart = null;
    this.curve.replaceChildren();
    if (!this.clip.psnr) return;
    this.chart = new Chart(this.clip.psnr, this.hidden,
      { pick: (x) => this.go(x), height: 200 });
    const names = new Map(this.clip.psnr.panels[0].series.map((s) => [s.name, s]));
    this.curve.append(legend(names, this.hidden, () => { this.chart.draw(); this.visible(); }),
      this.chart.node);
    this.chart.draw();
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

  resize() { // as large as the column and most of the window allow, in whole multiples of a pixel
    if (!this.clip) return;
    const shown = this.shown.filter((s) => !s.node.hidden), room = this.screens.clientWidth;
    const gap = 12, text = 28, dots = devicePixelRatio, tall = innerHeight * (room < 700 ? 1 : 0.8);
    for (const pair of this.screens.querySelectorAll(".pair")) {
      pair.hidden = [...pair.children].every((node) => node.hidden);
    }
    const cells = [...this.screens.children].filter((node) => !node.hidden);
    const pictures = Math.max(1, ...cells.map((cell) => cell.querySelectorAll("canvas").length));
    let scale = 0, share = room;
    for (let columns = 1; columns <= cells.length; columns += 1) {
      const width = (room - gap * (columns - 1)) / columns;
      const high = tall / Math.ceil(cells.length / columns) / pictures - text;
      const fit = Math.min(width / this.width, Math.max(high, 64) / this.height);
      const whole = Math.floor(fit * dots) / dots || fit;
      if (whole > scale) [scale, share] = [whole, width];
    }
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
  go(frame) { this.pause(); this.seek(frame); }
  step(by) { this.go(this.frame + by); }
  toggle() { if (this.playing) this.pause(); else this.play(); }

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
    const focus = event.target.tagName;
    if (focus === "SELECT" || (event.key === " " && /BUTTON|^A$|INPUT/.test(focus))) return;
    const box = this.place.getBoundingClientRect(); // out of sight, keys scroll the page
    if (box.bottom < 0 || box.top > innerHeight) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
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
    const given = frame < clip.given, off = (s, k) => Math.abs(s.values[k] - s.minus[k]);
    const error = (s, k) => Math.min(255, Math.round(
      ((off(s, k) + off(s, k + 1) + off(s, k + 2)) * this.gain) / 3));
    for (const s of this.shown) {
      const image = new ImageData(this.width, this.height), out = image.data;
      const start = 3 * count * frame;
      for (let i = 0, k = start; i < 4 * count; i += 4, k += 3) {
        const rgb = s.minus ? HEAT[error(s, k)] : s.values, at = s.minus ? 0 : k;
        for (let c = 0; c < 3; c += 1) out[i + c] = rgb[at + c];
        out[i + 3] = 255;
      }
      s.context.putImageData(image, 0, 0);
      s.canvas.setAttribute("aria-label", `${s.label}, frame ${frame}`);
      if (s.kind !== "prediction") continue;
      const psnr = s.series?.y[s.series.x.indexOf(frame)];
      s.value.textContent = given ? "given" : Number.isFinite(psnr) ? `${psnr.toFixed(2)} dB` : "";
      s.node.classList.toggle("given", given);
    }
    this.scrub.value = frame;
    const seconds = clip.fps ? `, ${(frame / clip.fps).toFixed(2)} s` : "";
    this.at.textContent = `frame ${frame} of 0..${this.length - 1}${seconds}`;
    this.rampText.textContent = `0 to ${(255 / this.gain).toFixed(0)} of 255`;
    if (this.chart) this.chart.mark(frame);
  }
}

// ---------------------------------------------------------------- tables

function sortable(table) {
  const [head] = table.tHead.rows, body = table.tBodies[0];
  [...head.cells].forEach((cell, i) => {
    const text = (row) => row.cells[i].textContent.trim();
    const amount = (row) => (/^-?\d/.test(text(row)) ? parseFloat(text(row)) : -Infinity);
    const click = () => {
      const down = cell.getAttribute("aria-sort") !== "descending";
      const rows = [...body.rows].sort((a, b) => amount(a) - amount(b)
        || text(a).localeCompare(text(b), undefined, { numeric: true }));
      for (const other of head.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...(down ? rows.reverse() : rows));
    };
    cell.replaceChildren(el("button", { type: "button", on: { click },
      title: `${cell.title ? `${cell.title}; ` : ""}click: sort` }, cell.textContent));
  });
}

for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length > 1) sortable(table);
}
for (const pre of document.querySelectorAll("pre.command")) {
  const button = el("button", { type: "button", on: { click: async () => {
    await navigator.clipboard.writeText(pre.textContent);
    button.textContent = "copied";
  } } }, "copy");
  const box = el("div", { class: "copied" });
  pre.replaceWith(box);
  box.append(pre, button);
}
const place = document.getElementById("player");
const player = place && DATA.clips.length ? new Player(place) : null;
const charts = drawCharts();
if (DATA.reload_s) { // the run goes on
  setInterval(() => {
    if (player?.playing || document.hidden) return;
    if (player?.clip) history.replaceState(null, "", `#frame=${player.frame}`);
    location.reload();
  }, 1000 * DATA.reload_s);
}
addEventListener("resize", () => [...charts, player?.chart].forEach((chart) => chart?.draw()));
