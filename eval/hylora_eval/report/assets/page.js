// The page around the charts: what is shown, picked and best among the rest, and where a number is from.
const { subjects, charts } = JSON.parse(document.getElementById("data").textContent);
const announce = (text) => (document.getElementById("announcement").textContent = text);
const filters = document.getElementById("filters");
const marked = [...document.querySelectorAll("[data-subjects]")].map((element) => ({
  element,
  subjects: element.dataset.subjects.split(" ").map((place) => subjects[place]),
}));
for (const series of charts.flatMap((chart) => chart.panels.flatMap((panel) => panel.series))) {
  series.subject = subjects[series.subject];
}
select();
const figures = charts.map((chart) => new Figure(document.querySelector(`[data-chart="${chart.slug}"]`), chart));

// Filters and the search hide; picking greys the others, or hides them too.
function select() {
  const boxes = (selector) => [...filters.querySelectorAll(`input${selector}`)];
  const off = boxes("[name]:not([name=run]):not(:checked)");
  const picked = new Set(boxes("[name=run]:checked").map((box) => box.value));
  const words = (document.getElementById("search")?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  const alone = document.getElementById("only")?.checked && picked.size;
  for (const subject of subjects) {
    // A number is meant whole: rank 8 is not rank 128.
    const own = subject.words.split(/[\s,]+/);
    subject.found = words.every((word) => (/^\d+$/.test(word) ? own.includes(word) : subject.words.includes(word)));
    subject.rest = picked.size > 0 && !picked.has(subject.run);
    subject.shown = subject.found && !(alone && subject.rest) && !off.some((box) => box.value === subject[box.name]);
  }
  const found = new Set(subjects.filter((subject) => subject.found).map((subject) => subject.run));
  for (const box of boxes("[name=run]")) box.parentElement.hidden = !found.has(box.value) && !box.checked;
  if (document.getElementById("picked")) document.getElementById("picked").textContent = picked.size;
  for (const { element, subjects } of marked) {
    element.hidden = !subjects.some((subject) => subject.shown);
    element.classList.toggle("rest", subjects.every((subject) => subject.rest));
  }
  for (const table of document.querySelectorAll("table[data-better]")) markBest(table);
  document.body.classList.toggle("no-errors", !document.getElementById("errors").checked);
}

// In tables whose rows are compared; filters leave the columns of the others alone. The best of what is shown knows
// from which value on others are clearly worse.
function markBest(table) {
  const sign = table.dataset.better === "higher" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => row.dataset.subjects !== undefined);
    for (let column = 0; column < (rows[0]?.cells.length ?? 0); column++) {
      const cells = rows.map((row) => row.cells[column]).filter((cell) => cell.dataset.value !== undefined);
      const shown = cells.filter((cell) => !cell.parentElement.hidden);
      const value = (cell) => sign * Number(cell.dataset.value);
      const top = Math.max(...shown.map(value));
      const limits = shown.filter((cell) => value(cell) === top).map((cell) => sign * Number(cell.dataset.worse ?? NaN));
      const limit = limits.find((one) => shown.some((cell) => value(cell) <= one));
      for (const cell of cells) cell.classList.toggle("best", shown.includes(cell) && value(cell) > limit);
    }
  }
}

// A tooltip instead of the browser's, which neither keyboards nor fingers reach.
for (const link of document.querySelectorAll("td a[title]")) {
  const places = link.title;
  link.removeAttribute("title");
  link.setAttribute("aria-description", places);
  const show = () => {
    const { left, top } = link.getBoundingClientRect();
    showTooltip(`<small>${escapeText(places).replaceAll("\n", "<br>")}</small>`, left, top);
  };
  for (const event of ["pointerenter", "focus"]) link.addEventListener(event, show);
  for (const event of ["pointerleave", "blur"]) link.addEventListener(event, hideTooltip);
}

// A row under the pointer stands out in the chart above it.
for (const figure of figures) {
  for (const { element, subjects } of marked.filter((one) => one.element.tagName === "TR" && figure.section.contains(one.element))) {
    const own = figure.series.find((series) => series.subject === subjects[0]);
    element.addEventListener("pointerenter", () => figure.highlight(own?.name ?? null));
    element.addEventListener("pointerleave", () => figure.highlight(null));
  }
}

// Fingers see no scroll bar: say so where a table is wider than the screen.
for (const box of document.querySelectorAll(".scroll")) {
  new ResizeObserver(() => box.classList.toggle("overflows", box.scrollWidth > box.clientWidth)).observe(box);
}

filters.hidden = false;
filters.addEventListener("input", () => {
  select();
  for (const figure of figures) figure.draw();
});
filters.addEventListener("submit", (event) => event.preventDefault());
for (const figure of figures) figure.draw();
