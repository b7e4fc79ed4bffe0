// Shows what is alive at the place under the pointer, a finger or the arrow keys. All numbers come from the page's data.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const pointer = document.getElementById("pointer");
const cursor = document.getElementById("cursor");
const readout = document.getElementById("readout");
const drawings = [...document.querySelectorAll(".drawing")];
const [first, ...others] = data.timelines;
const NARROW = matchMedia("(max-width: 520px)");
const UNITS = [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]];
let shown = first.peak;

function human(bytes) {
  const [size, name] = UNITS.find(([size]) => bytes >= size) || [1, "B"];
  return (size === 1 ? bytes : (bytes / size).toFixed(2)) + " " + name;
}

/** The index of the point that covers x: the last edge that is not right of it. */
function pointAt(edges, x) {
  let low = 0, high = edges.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (edges[middle] <= x) low = middle; else high = middle - 1;
  }
  return low;
}

function add(parent, name, text, style) {
  const child = parent.appendChild(document.createElement(name));
  if (text) child.textContent = text;
  if (style) child.className = style;
  return child;
}

function row(list, name, bytes, style) {
  const term = add(list, "dt");
  if (style) add(term, "span", "", "swatch " + style);
  term.append(name);
  add(list, "dd", human(bytes));
}

function show(index) {
  shown = Math.max(0, Math.min(index, first.totals.length - 1));
  const x = (first.edges[shown] + first.edges[shown + 1]) / 2;
  const instant = data.words[first.instants[shown]] || "memory";
  const total = human(first.totals[shown]);
  readout.replaceChildren();
  const head = add(readout, "h2");
  add(head, "span", instant);
  add(head, "span", total);
  const list = add(readout, "dl");
  for (let group = first.groups.length - 1; group >= 0; group--) {
    row(list, first.groups[group], first.bytes[shown][group], "fill" + group);
  }
  for (const other of others) row(list, other.name, other.totals[pointAt(other.edges, x)]);
  if (first.top[shown].length) {
    const tensors = add(readout, "ul");
    for (const word of first.top[shown]) add(tensors, "li", data.words[word]);
  }
  pointer.setAttribute("aria-valuenow", shown);
  pointer.setAttribute("aria-valuetext", instant + ", " + total);
  place(x);
}

function place(x) {
  const frame = data.frames[drawings.findIndex((one) => one.offsetWidth)];
  const at = frame.left + (frame.right - frame.left) * x;
  cursor.style.left = 100 * at + "%";
  cursor.style.top = 100 * frame.top + "%";
  cursor.style.height = 100 * (frame.bottom - frame.top) + "%";
  readout.hidden = cursor.hidden = false;
  const room = pointer.clientWidth, width = readout.offsetWidth, gap = 12;
  const left = at * room + gap + width < room ? at * room + gap : at * room - gap - width;
  readout.style.left = Math.max(0, left) + "px";
  readout.style.top = 100 * frame.top + "%";
}

function hide() {
  if (NARROW.matches || document.activeElement === pointer) return;
  readout.hidden = cursor.hidden = true;
}

/** The first point of the next instant, or of this or the one before. */
function neighbour(step) {
  const names = first.instants;
  let index = shown;
  if (step < 0 && index > 0) index--;
  while (names[index + step] === names[index]) index += step;
  return step > 0 ? index + 1 : index;
}

function follow(event) {
  const frame = data.frames[drawings.findIndex((one) => one.offsetWidth)];
  const box = pointer.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width - frame.left) / (frame.right - frame.left);
  show(pointAt(first.edges, x));
}

const KEYS = {
  ArrowRight: () => shown + 1, ArrowUp: () => shown + 1, ArrowLeft: () => shown - 1, ArrowDown: () => shown - 1,
  PageUp: () => neighbour(1), PageDown: () => neighbour(-1),
  Home: () => 0, End: () => first.totals.length - 1, p: () => first.peak,
};

pointer.addEventListener("pointermove", follow);
pointer.addEventListener("pointerdown", follow);
pointer.addEventListener("pointerleave", hide);
pointer.addEventListener("blur", hide);
pointer.addEventListener("focus", () => show(shown));
pointer.addEventListener("keydown", (event) => {
  const key = KEYS[event.key];
  if (!key || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  show(key());
});
addEventListener("resize", () => { if (!readout.hidden) show(shown); });
NARROW.addEventListener("change", () => { if (NARROW.matches) show(shown); else hide(); });
if (NARROW.matches) show(shown);
