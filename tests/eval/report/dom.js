// SPDX-License-Identifier: Apache-2.0
// As much of a browser as the report's page needs, for node: `node dom.js page.html scenario.js` runs the page's script
// and then the scenario, and prints the JSON that its last expression gives. No layout: every element is 600 pixels wide.
"use strict";
const { readFileSync } = require("node:fs");
const vm = require("node:vm");

const VOID = new Set(["meta", "input", "br", "link", "img"]);
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', "#x27": "'" };
const decode = (text) => text.replace(/&(amp|lt|gt|quot|#x27);/g, (_, name) => ENTITIES[name]);
const camel = (name) => name.replace(/-(.)/g, (_, letter) => letter.toUpperCase());

class Element {
  constructor(tag, attributes = {}) {
    Object.assign(this, { tag, attributes, children: [], listeners: {}, style: {}, parentElement: null });
    Object.assign(this, { checked: "checked" in attributes, value: attributes.value ?? "", clientWidth: 600, scrollWidth: 600 });
    this.classList = {
      contains: (name) => this.classes().includes(name),
      toggle: (name, on = !this.classList.contains(name)) => {
        const others = this.classes().filter((one) => one !== name);
        this.className = (on ? [...others, name] : others).join(" ");
      },
      add: (name) => this.classList.toggle(name, true),
      remove: (name) => this.classList.toggle(name, false),
    };
  }
  get tagName() { return this.tag.toUpperCase(); }
  get className() { return this.attributes.class ?? ""; }
  set className(text) { this.attributes.class = text; }
  classes() { return this.className.split(/\s+/).filter(Boolean); }
  get dataset() {
    const data = Object.entries(this.attributes).filter(([name]) => name.startsWith("data-"));
    return Object.fromEntries(data.map(([name, value]) => [camel(name.slice(5)), value]));
  }
  get hidden() { return "hidden" in this.attributes; }
  set hidden(on) { if (on) this.attributes.hidden = ""; else delete this.attributes.hidden; }
  get name() { return this.attributes.name; }
  get title() { return this.attributes.title; }
  getAttribute(name) { return this.attributes[name] ?? null; }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  removeAttribute(name) { delete this.attributes[name]; }
  get textContent() { return this.children.map((child) => (typeof child === "string" ? child : child.textContent)).join(""); }
  set textContent(text) { this.children = [String(text)]; }
  set innerHTML(html) { this.replaceChildren(...parse(html)); }
  append(...children) {
    this.children.push(...children);
    for (const child of children) if (child instanceof Element) child.parentElement = this;
  }
  replaceChildren(...children) { this.children = []; this.append(...children); }
  get elements() { return this.children.filter((child) => child instanceof Element); }
  get all() { return this.elements.flatMap((child) => [child, ...child.all]); }
  get tBodies() { return this.elements.filter((child) => child.tag === "tbody"); }
  get rows() { return this.elements.filter((child) => child.tag === "tr"); }
  get cells() { return this.elements.filter((child) => ["td", "th"].includes(child.tag)); }
  contains(other) { return other === this || this.all.includes(other); }
  closest(selector) { return matches(this, selector) ? this : (this.parentElement?.closest(selector) ?? null); }
  querySelectorAll(selector) { return this.all.filter((element) => matches(element, selector)); }
  querySelector(selector) { return this.querySelectorAll(selector)[0] ?? null; }
  getElementById(id) { return this.all.find((element) => element.attributes.id === id) ?? null; }
  createElement(tag) { return new Element(tag); }
  getBoundingClientRect() { return { left: 0, top: 0, width: 0, height: 0 }; }
  addEventListener(type, listener) { (this.listeners[type] ??= []).push(listener); }
  dispatchEvent(event) {
    for (let element = this; element; element = event.bubbles ? element.parentElement : null) {
      for (const listener of element.listeners[event.type] ?? []) listener(event);
    }
  }
}

// Selectors of elements, classes, attributes, :checked and :not, within each other.
function matches(element, selector) {
  const [last, ...above] = selector.split(/\s+(?![^[]*\])/).reverse();
  if (!matchesOne(element, last)) return false;
  return !above.length || Boolean(element.parentElement?.closest(above.reverse().join(" ")));
}

function matchesOne(element, selector) {
  const parts = selector.match(/:not\([^)]*\)|\[[^\]]*\]|[.:#]?[\w-]+/g);
  if (parts.join("") !== selector) throw new Error(`unknown selector ${selector}`);
  return parts.every((part) => {
    if (part.startsWith(":not(")) return !matchesOne(element, part.slice(5, -1));
    if (part === ":checked") return element.checked;
    if (part.startsWith(".")) return element.classList.contains(part.slice(1));
    if (!part.startsWith("[")) return element.tag === part;
    const [, name, value] = part.match(/^\[([\w-]+)(?:="?([^"]*)"?)?\]$/);
    return name in element.attributes && (value === undefined || element.attributes[name] === value);
  });
}

function parse(html) {
  const root = new Element("root");
  let open = root;
  const token = /<(script|style)\b([^>]*)>([^]*?)<\/\1>|<!doctype[^>]*>|<\/(\w+)>|<(\w+)((?:\s+[\w-]+(?:="[^"]*"|=[\w-]+)?)*)\s*(\/?)>|([^<]+)/gi;
  for (const [, raw, rawAttributes, rawText, closed, tag, attributes, empty, text] of html.matchAll(token)) {
    if (closed) open = open.parentElement;
    if (text) open.append(decode(text));
    if (!raw && !tag) continue;
    const pairs = (rawAttributes ?? attributes).matchAll(/([\w-]+)(?:="([^"]*)"|=([\w-]+))?/g);
    const element = new Element(raw ?? tag, Object.fromEntries([...pairs].map(([, name, a, b]) => [name, decode(a ?? b ?? "")])));
    open.append(element);
    if (raw) element.append(rawText);
    else if (!empty && !VOID.has(tag)) open = element;
  }
  if (open !== root) throw new Error(`<${open.tag}> is not closed`);
  return root.children;
}

const [page, scenario] = process.argv.slice(2).map((path) => readFileSync(path, "utf8"));
const document = new Element("#document");
document.innerHTML = page;
document.documentElement = document.querySelector("html");
document.body = document.querySelector("body");
class Event {
  constructor(type, init) { Object.assign(this, { type, ...init }); }
  preventDefault() {}
}
Object.assign(globalThis, { document, Event, KeyboardEvent: Event, location: { hash: "" }, scrollX: 0, scrollY: 0 });
globalThis.ResizeObserver = class { observe() {} };
const scripts = document.querySelectorAll("script").filter((script) => !("type" in script.attributes));
for (const script of scripts) vm.runInThisContext(script.textContent);
console.log(JSON.stringify(vm.runInThisContext(scenario)));
