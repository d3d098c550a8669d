// SPDX-License-Identifier: Apache-2.0
// What a reader does with a report's page, and what they see of it, as JSON.
(() => {
  const section = document.querySelector("section");
  const one = (id) => document.getElementById(id);
  const all = (selector, root = section) => [...root.querySelectorAll(selector)];
  const isShown = (element) => !element.hidden && (!element.parentElement || isShown(element.parentElement));
  const change = (element, values) => {
    Object.assign(element, values);
    element.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const button = (text) => all("button").find((element) => element.textContent === text);
  const press = (element, key) => element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const names = (elements) => elements.map((element) => element.textContent);
  const box = (run) => all("input[name=run]", one("filters")).find((element) => element.value === run);
  const look = () => ({
    rows: names(all("tr[data-subjects]").filter(isShown).map((row) => row.querySelector("small"))),
    greyRows: names(all("tr[data-subjects]").filter((row) => isShown(row) && row.classList.contains("rest")).map((row) => row.querySelector("small"))),
    best: names(all("td.best").filter(isShown).map((cell) => cell.parentElement.querySelector("small"))),
    lines: all("path.line", section.querySelector(".panels")).map((path) => path.getAttribute("d").replace(/[\d. -]/g, "")),
    greyLines: all("g.rest").map((group) => group.getAttribute("data-name")),
    panels: all("h3").length,
    runs: names(all("input[name=run]", one("filters")).map((input) => input.parentElement).filter((label) => !label.hidden)),
    sections: all("section.result", document).filter((element) => !element.hidden).length,
  });
  const seen = { start: look() };
  seen.errorBars = all("path.error").length;
  button("errors").dispatchEvent(new Event("click"));
  seen.errorBarsAfter = all("path.error").length;

  change(one("search"), { value: "FULL-attn 5" });
  seen.search = look();
  change(one("search"), { value: "nothing like it" });
  seen.nothing = { ...look(), text: section.querySelector("figure").textContent };
  change(one("search"), { value: "" });

  change(box("out/run3"), { checked: true });
  seen.picked = look();
  seen.count = one("picked").textContent;
  change(one("only"), { checked: true });
  seen.alone = look();
  change(one("only"), { checked: false });
  change(box("out/run3"), { checked: false });

  const attention = all("input[name=trained]", one("filters"))[0];
  change(attention, { checked: false });
  seen.filtered = { attention: attention.value, ...look() };
  change(attention, { checked: true });

  const svg = section.querySelector(".panels svg");
  seen.words = ["ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp", "ArrowLeft"].map((key) => {
    press(svg, key);
    return one("announcement").textContent;
  });
  seen.faded = all("g.faded").map((group) => group.getAttribute("data-name"));
  seen.tooltip = [one("tooltip").hidden, one("tooltip").textContent];
  press(svg, "Enter");
  seen.hash = location.hash.replace("#", "");
  press(svg, "Escape");
  seen.after = [one("tooltip").hidden, all("g.faded").length];

  const row = all("tr[data-subjects]")[1];
  row.dispatchEvent(new Event("pointerenter"));
  seen.hovered = [row.querySelector("small").textContent, all("g[data-name]").filter((group) => !group.classList.contains("faded")).length];
  row.dispatchEvent(new Event("pointerleave"));

  if (button("one by one")) button("one by one").dispatchEvent(new Event("click"));
  seen.switched = look();
  return seen;
})();
