// Charts of the report: drawn from the JSON in the page, no library and no network.
"use strict";

const MARKERS = [
  (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
  (r) => `M${-r} ${-r}H${r}V${r}H${-r}Z`,
  (r) => `M0 ${-1.25 * r}L${1.2 * r} ${r}H${-1.2 * r}Z`,
  (r) => `M0 ${1.25 * r}L${1.2 * r} ${-r}H${-1.2 * r}Z`,
  (r) => `M0 ${-1.35 * r}L${1.35 * r} 0L0 ${1.35 * r}L${-1.35 * r} 0Z`,
  (r) => `M${-r / 2.4} ${-1.2 * r}h${r / 1.2}v${0.78 * r}h${0.78 * r}v${r / 1.2}h${-0.78 * r}v${0.78 * r}h${-r / 1.2}v${-0.78 * r}h${-0.78 * r}v${-r / 1.2}h${0.78 * r}Z`,
  (r) => `M0 ${-1.3 * r}L${1.25 * r} ${-0.4 * r}L${0.8 * r} ${1.1 * r}H${-0.8 * r}L${-1.25 * r} ${-0.4 * r}Z`,
  (r) => `M${-0.5 * r} ${-1.5 * r}H${0.5 * r}V${1.5 * r}H${-0.5 * r}Z`,
];
const DASH = "5 4";
// More lines than this are told apart one by one, and bars of errors hide more than they say.
const MANY = 10;
const MANY_ERRORS = 5;

const escapeText = (text) =>
  String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

const color = (style) => `color: var(--series-${style.color})`;
const marker = (style, r) => MARKERS[style.marker % MARKERS.length](r);

function scale(values, log, from, to, pad) {
  const map = log ? Math.log2 : (value) => value;
  let [low, high] = [Math.min(...values.map(map)), Math.max(...values.map(map))];
  const room = (high - low) * pad || Math.abs(high) * 0.05 || 1;
  [low, high] = [low - room, high + room];
  const at = (value) => from + ((map(value) - low) / (high - low)) * (to - from);
  const back = log ? (value) => 2 ** value : (value) => value;
  return { at, low: back(low), high: back(high) };
}

function ticks(low, high, log) {
  if (log) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      found.push(...[1, 2, 5].map((digit) => digit * 10 ** power));
    }
    const inside = found.filter((value) => value >= low && value <= high);
    if (inside.length >= 2) return inside.length > 8 ? inside.filter((v) => /^0*\.?0*1/.test(String(v))) : inside;
  }
  const raw = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((digit) => digit * unit).find((candidate) => candidate >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(+value.toPrecision(12));
  return found;
}

const shortNumber = (value) => (Math.abs(value) >= 1e5 ? value.toExponential(0) : String(+value.toPrecision(6)));

// A panel: geometry, SVG and the places of its points. With a focus, only that series has points, before the others.
class Panel {
  constructor(panel, figure, focus = null) {
    this.panel = panel;
    this.figure = figure;
    this.chart = figure.chart;
    this.focus = focus;
    this.points = [];
    this.active = -1;
    this.element = document.createElement("div");
    const heading = focus ? focus.name : panel.title;
    const title = heading ? `<h3>${escapeText(heading)}</h3>` : "";
    const name = escapeText([this.chart.title, heading].filter(Boolean).join(", "));
    this.element.innerHTML = `${title}<svg role="application" tabindex="0" aria-roledescription="chart"
      aria-label="${name}. Arrow keys walk through its points; the table below holds the same numbers."></svg>`;
    this.svg = this.element.querySelector("svg");
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerleave", () => this.activate(-1));
    this.svg.addEventListener("blur", () => this.activate(-1));
    this.svg.addEventListener("click", () => this.openSource());
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  draw(state) {
    const width = Math.max(this.focus ? 150 : 260, this.svg.clientWidth || 600);
    const height = Math.round(Math.min(360, Math.max(this.focus ? 150 : 210, width * 0.56)));
    const { categories } = this.panel;
    const turned = categories !== null && (width - 60) / categories.length < 58;
    // Small panels share what their axes are, which is said once.
    const below = this.focus ? 24 : 42;
    const box = { left: this.focus ? 38 : 54, right: width - 14, top: 12, bottom: height - (turned ? below + 26 : below) };
    const visible = ({ series }) => series.filter((one) => state.visible(one) && one.points.length);
    // What is drawn last lies on top.
    const shown = visible(this.panel).sort((a, b) => this.isBehind(b) - this.isBehind(a));
    const all = shown.flatMap((series) => series.points);
    this.points = [];
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.style.height = `${height}px`;
    if (!all.length) {
      this.svg.innerHTML = `<text x="${width / 2}" y="${height / 2}" text-anchor="middle">Nothing is selected</text>`;
      return;
    }
    const scaled = this.chart.shareY ? this.chart.panels.flatMap(visible).flatMap((series) => series.points) : all;
    const logY = state.logY && scaled.every((point) => point.y > 0);
    const heights = scaled.flatMap((p) => (state.errors ? [p.y, p.low, p.high] : [p.y])).filter((y) => !logY || y > 0);
    const y = scale(heights, logY, box.bottom, box.top, 0.06);
    const x = this.horizontal(all, state.logX, box);
    const parts = [
      ...this.yAxis(y, logY, box),
      ...this.xAxis(x, all, box, turned),
      ...(this.focus ? [] : this.axisLabels(box, height)),
      ...shown.map((series, index) => this.series(series, index, shown.length, x, y, logY, box, state.errors)),
    ];
    this.svg.innerHTML = parts.join("");
    this.markers = [...this.svg.querySelectorAll(".marker")];
  }

  axisLabels(box, height) {
    const { xLabel, yLabel } = this.chart;
    return [
      `<text x="${(box.left + box.right) / 2}" y="${height - 6}" text-anchor="middle">${escapeText(xLabel)}</text>`,
      `<text transform="translate(13 ${(box.top + box.bottom) / 2}) rotate(-90)" text-anchor="middle">${escapeText(yLabel)}</text>`,
    ];
  }

  horizontal(all, log, box) {
    const { categories } = this.panel;
    if (categories === null) return scale(all.map((point) => point.x), log, box.left, box.right, 0.05);
    const band = (box.right - box.left) / categories.length;
    return { at: (value) => box.left + band * (value + 0.5), band };
  }

  yAxis(y, log, box) {
    return ticks(y.low, y.high, log).map((value) => {
      const at = y.at(value).toFixed(1);
      return `<line class="grid" x1="${box.left}" x2="${box.right}" y1="${at}" y2="${at}"/>
        <text x="${box.left - 7}" y="${at}" dy="0.35em" text-anchor="end">${shortNumber(value)}</text>`;
    });
  }

  xAxis(x, all, box, turned) {
    const { categories } = this.panel;
    const places = categories ? categories.map((_, index) => index) : [...new Set(all.map((point) => point.x))];
    let last = -Infinity;
    const labels = places.sort((a, b) => a - b).map((place) => {
      const at = x.at(place);
      const text = escapeText(categories ? categories[place] : place);
      const room = categories ? 0 : 7 * text.length;
      const crowded = at - last < room;
      if (!crowded) last = at;
      const label = turned
        ? `<text transform="translate(${at + 4} ${box.bottom + 14}) rotate(-40)" text-anchor="end">${text}</text>`
        : `<text x="${at}" y="${box.bottom + 18}" text-anchor="middle">${text}</text>`;
      return `<line class="axis" x1="${at}" x2="${at}" y1="${box.bottom}" y2="${box.bottom + 4}"/>${crowded ? "" : label}`;
    });
    return [`<line class="axis" x1="${box.left}" x2="${box.right}" y1="${box.bottom}" y2="${box.bottom}"/>`, ...labels];
  }

  isBehind(series) {
    return Boolean(this.focus ? series !== this.focus : series.subject.rest);
  }

  series(series, index, count, x, y, logY, box, errorBars) {
    // Side by side within a category, so that no marker hides another.
    const shift = x.band ? (index - (count - 1) / 2) * Math.min(9, x.band / (count + 1)) : 0;
    const floor = (value) => (logY && value <= 0 ? box.bottom : y.at(value));
    const places = series.points.map((point) => ({ point, series, x: x.at(point.x) + shift, y: y.at(point.y) }));
    const path = places.map((place, i) => `${i && !place.point.gap ? "L" : "M"}${place.x.toFixed(1)} ${place.y.toFixed(1)}`).join("");
    const dash = series.subject.style.dashed ? `stroke-dasharray="${DASH}"` : "";
    const line = x.band ? "" : `<path class="line" d="${path}" ${dash}/>`;
    const open = `<g class="${this.isBehind(series) ? "rest" : ""}" style="${color(series.subject.style)}" data-name="${escapeText(series.name)}">`;
    if (this.focus && this.isBehind(series)) return `${open}${line}</g>`;
    this.points.push(...places);
    const errors = places.filter(({ point }) => errorBars && point.low !== point.high).map(({ point, x: at }) => {
      const [top, bottom] = [y.at(point.high), floor(point.low)];
      return `<path class="error" d="M${at} ${top}V${bottom}M${at - 3} ${top}h6M${at - 3} ${bottom}h6"/>`;
    });
    const markers = places.map(
      (place) => `<path class="marker" transform="translate(${place.x.toFixed(1)} ${place.y.toFixed(1)})" d="${marker(series.subject.style, 4)}"/>`,
    );
    return `${open}${line}${errors.join("")}${markers.join("")}</g>`;
  }

  hover(event) {
    const bounds = this.svg.getBoundingClientRect();
    const [left, top] = [event.clientX - bounds.left, event.clientY - bounds.top];
    const distances = this.points.map((place) => Math.hypot(place.x - left, place.y - top));
    const nearest = distances.indexOf(Math.min(...distances));
    this.activate(distances[nearest] < 30 ? nearest : -1);
  }

  // Left and right go along a series, up and down to the next one at the same place.
  key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const jump = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") this.activate(-1);
    else if (event.key === "Enter") this.openSource();
    else if ((step || jump) && this.points.length) {
      event.preventDefault();
      const current = this.points[this.active];
      let next = this.active + (step || 0);
      if (!current) next = 0;
      else if (jump) {
        const column = this.points.filter((place) => place.point.x === current.point.x);
        next = this.points.indexOf(column[(column.indexOf(current) + jump + column.length) % column.length]);
      }
      this.activate((next + this.points.length) % this.points.length);
      announce(this.words(this.points[this.active]).join(". "));
    }
  }

  words({ point, series }) {
    const { categories } = this.panel;
    const place = categories ? categories[point.x] : `${this.chart.xLabel} ${point.x}`;
    return [series.name, `${place}: ${point.text}`, ...point.places];
  }

  activate(index) {
    if (index === this.active) return;
    this.markers?.[this.active]?.classList.remove("active");
    this.active = index;
    const place = this.points[index];
    this.figure.highlight(place ? place.series.name : null);
    if (!place) return hideTooltip();
    this.markers[index].classList.add("active");
    const [name, value, ...places] = this.words(place);
    const bounds = this.svg.getBoundingClientRect();
    showTooltip(
      `<b style="${color(place.series.subject.style)}">${escapeText(name)}</b><br>${escapeText(value)}` +
        places.map((text) => `<small>${escapeText(text)}</small>`).join(""),
      bounds.left + place.x,
      bounds.top + place.y,
    );
  }

  openSource() {
    const place = this.points[this.active];
    if (place) location.hash = `source-${place.point.source}`;
  }

  fade(name) {
    for (const group of this.svg.querySelectorAll("g[data-name]")) {
      group.classList.toggle("faded", name !== null && group.dataset.name !== name);
    }
  }
}

// A figure: the panels of one table, their legend and the switches of their axes.
class Figure {
  constructor(element, chart) {
    this.chart = chart;
    this.series = chart.panels.flatMap((panel) => panel.series);
    this.points = this.series.flatMap((series) => series.points);
    this.hidden = new Set();
    this.state = {
      logX: chart.logX,
      logY: chart.logY,
      errors: !this.isCrowded(),
      oneByOne: chart.panels.length === 1 && this.series.length > MANY,
      visible: (series) => series.subject.shown && !this.hidden.has(series.name),
    };
    this.section = element.closest("section");
    this.container = document.createElement("div");
    element.append(this.toolbar(), this.container, this.legend());
    new ResizeObserver(() => this.draw()).observe(this.container);
  }

  // Where bars of errors would squash the lines, or lie on each other.
  isCrowded() {
    const range = (values) => Math.max(...values) - Math.min(...values);
    const wide = range(this.points.flatMap((p) => [p.low, p.high])) > 2 * range(this.points.map((p) => p.y));
    return wide || this.chart.panels.some((panel) => panel.series.length > MANY_ERRORS);
  }

  toolbar() {
    const bar = document.createElement("div");
    bar.className = "toolbar";
    const lengths = this.chart.panels.every((panel) => panel.categories === null);
    const positive = (axis) => this.points.every((point) => point[axis] > 0);
    if (lengths) bar.append(this.switch("logX", "log lengths", positive("x")));
    bar.append(this.switch("logY", "log values", positive("y")));
    if (this.points.some((p) => p.low !== p.high)) bar.append(this.switch("errors", "errors", true));
    if (this.chart.panels.length === 1) bar.append(this.switch("oneByOne", "one by one", this.series.length > 1));
    return bar;
  }

  switch(key, text, possible) {
    const button = toggleButton(text, this.state[key], (on) => {
      this.state[key] = on;
      this.draw();
    });
    button.disabled = !possible;
    return button;
  }

  legend() {
    const legend = document.createElement("div");
    legend.className = "legend";
    const series = new Map(this.series.map((one) => [one.name, one]));
    this.buttons = [...series.values()].map((one) => {
      const { style } = one.subject;
      const dash = style.dashed ? `stroke-dasharray="${DASH}"` : "";
      const key = `<svg width="30" height="14" aria-hidden="true" style="${color(style)}">
        <path class="line" d="M1 7H29" ${dash}/><path class="marker" transform="translate(15 7)" d="${marker(style, 4)}"/></svg>`;
      const button = toggleButton(key + escapeText(one.name), true, (on) => {
        this.hidden[on ? "delete" : "add"](one.name);
        this.draw();
      });
      for (const [event, name] of [["pointerenter", one.name], ["pointerleave", null]]) {
        button.addEventListener(event, () => this.highlight(name));
      }
      button.series = one;
      return button;
    });
    legend.append(...this.buttons);
    return legend;
  }

  // Grey all but one, or none.
  highlight(name) {
    for (const panel of this.panels) panel.fade(name);
  }

  arrange() {
    const { panels } = this.chart;
    const shown = this.state.oneByOne ? this.series.filter((one) => this.state.visible(one) && !one.subject.rest) : [];
    const key = shown.map((focus) => focus.name).join("\n");
    if (key === this.key) return;
    this.key = key;
    this.panels = shown.length
      ? shown.map((focus) => new Panel(panels[0], this, focus))
      : panels.map((panel) => new Panel(panel, this));
    this.container.className = `panels ${shown.length ? "small" : panels.length > 1 ? "" : "single"}`;
    const legend = document.createElement("p");
    legend.textContent = shown.length ? `${this.chart.yLabel} by ${this.chart.xLabel}, each with the others in grey` : "";
    this.container.replaceChildren(legend, ...this.panels.map((panel) => panel.element));
  }

  draw() {
    this.arrange();
    for (const button of this.buttons) {
      button.hidden = !button.series.subject.shown;
      button.classList.toggle("rest", button.series.subject.rest);
    }
    for (const panel of this.panels) {
      panel.activate(-1);
      panel.draw(this.state);
    }
  }
}

function toggleButton(html, on, change) {
  const button = document.createElement("button");
  button.type = "button";
  button.innerHTML = html;
  button.setAttribute("aria-pressed", on);
  button.addEventListener("click", () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", now);
    change(now);
  });
  return button;
}

function showTooltip(html, left, top) {
  const tooltip = document.getElementById("tooltip");
  tooltip.innerHTML = html;
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const x = Math.max(8, Math.min(left + 14, document.documentElement.clientWidth - width - 8));
  const y = top - height - 12 < 0 ? top + 16 : top - height - 12;
  tooltip.style.left = `${x + scrollX}px`;
  tooltip.style.top = `${y + scrollY}px`;
}

function hideTooltip() {
  document.getElementById("tooltip").hidden = true;
}
