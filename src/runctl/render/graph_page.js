"use strict";
const picture = document.querySelector("svg.graph");
const about = document.getElementById("about");
const search = document.getElementById("search");
const found = document.getElementById("found");
const boxes = new Map([...picture.querySelectorAll(".box")].map((box) => [box.dataset.id, box]));
const rows = new Map([...document.querySelectorAll("tbody tr")].map((row) => [row.dataset.id, row]));
const edges = [...picture.querySelectorAll("path.edge")];
const whole = picture.viewBox.baseVal;
const page = { x: whole.x, y: whole.y, width: whole.width, height: whole.height };
const view = { ...page };

function show() {
  picture.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
}

// Both directions in the picture's own units, the shape of the window kept.
function shaped(area) {
  const shape = picture.clientWidth / Math.max(picture.clientHeight, 1);
  const width = Math.max(area.width, area.height * shape);
  const height = width / shape;
  return { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
}

function fit() {
  Object.assign(view, shaped(page));
  show();
}

// At least readable: a big graph begins at its top left corner, not as a cloud of dots.
function begin() {
  fit();
  const readable = picture.clientWidth / 0.62;
  if (view.width > readable) {
    Object.assign(view, shaped({ x: 0, y: 0, width: readable, height: 1 }));
    view.x = 0;
    view.y = 0;
    show();
  }
}

function zoom(factor, x = picture.clientWidth / 2, y = picture.clientHeight / 2) {
  const width = Math.min(Math.max(view.width * factor, 200), page.width * 8);
  const ratio = width / view.width;
  const scale = view.width / picture.clientWidth;
  view.x += x * scale * (1 - ratio);
  view.y += y * scale * (1 - ratio);
  view.width = width;
  view.height *= ratio;
  show();
}

function centre(box) {
  const stage = box.transform.baseVal[0].matrix;
  const width = Math.min(view.width, picture.clientWidth / 0.8);
  Object.assign(view, shaped({ x: stage.e + 140 - width / 2, y: stage.f + 46, width, height: 1 }));
  show();
}

function reach(start, from, to) {
  const seen = new Set([start]);
  for (const id of seen) {
    for (const edge of edges) if (edge.dataset[from] === id) seen.add(edge.dataset[to]);
  }
  return seen;
}

function light(ids) {
  picture.classList.toggle("some", ids !== null);
  for (const [id, box] of boxes) box.classList.toggle("lit", ids !== null && ids.has(id));
  for (const edge of edges) {
    edge.classList.toggle("lit", ids !== null && ids.has(edge.dataset.from) && ids.has(edge.dataset.to));
  }
}

function choose(id) {
  for (const box of boxes.values()) box.classList.remove("chosen");
  const box = boxes.get(id);
  about.hidden = !box;
  if (!box) {
    light(null);
    look();
    return;
  }
  box.classList.add("chosen");
  light(new Set([...reach(id, "from", "to"), ...reach(id, "to", "from")]));
  const heads = [...document.querySelectorAll("thead th")].map((head) => head.textContent);
  const list = document.createElement("dl");
  [...rows.get(id).cells].forEach((cell, place) => {
    if (place < 2 || !cell.textContent) return;
    list.append(
      Object.assign(document.createElement("dt"), { textContent: heads[place] }),
      Object.assign(document.createElement("dd"), { textContent: cell.textContent }),
    );
  });
  const close = Object.assign(document.createElement("button"), { textContent: "\u00d7", onclick: () => choose(null) });
  close.setAttribute("aria-label", "Close");
  const head = Object.assign(document.createElement("h2"), { textContent: `${rows.get(id).cells[0].textContent} ${id}` });
  about.replaceChildren(head, list, close);
}

function look() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const hits = new Set();
  for (const [id, row] of rows) {
    const text = row.textContent.toLowerCase();
    const hit = words.every((word) => text.includes(word));
    row.classList.toggle("out", !hit);
    boxes.get(id).classList.toggle("hit", hit && words.length > 0);
    if (hit) hits.add(id);
  }
  found.textContent = words.length ? `${hits.size} of ${rows.size}` : "";
  if (!picture.querySelector(".chosen")) light(words.length ? hits : null);
  return words.length ? [...hits] : [];
}

let next = 0;
search.addEventListener("input", () => {
  next = 0;
  const hits = look();
  if (hits.length) centre(boxes.get(hits[0]));
});
search.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  const hits = look();
  if (hits.length) {
    const id = hits[next++ % hits.length];
    choose(id);
    centre(boxes.get(id));
  }
});

let drag = null;
picture.addEventListener("pointerdown", (event) => {
  drag = { x: event.clientX, y: event.clientY, far: false, box: event.target.closest(".box") };
  picture.setPointerCapture(event.pointerId);
});
picture.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const x = event.clientX - drag.x, y = event.clientY - drag.y;
  if (!drag.far && Math.hypot(x, y) < 4) return;
  drag.far = true;
  picture.classList.add("moving");
  const scale = view.width / picture.clientWidth;
  view.x -= x * scale;
  view.y -= y * scale;
  drag.x = event.clientX;
  drag.y = event.clientY;
  show();
});
picture.addEventListener("pointerup", () => {
  picture.classList.remove("moving");
  if (drag && !drag.far) choose(drag.box ? drag.box.dataset.id : null);
  drag = null;
});
picture.addEventListener("pointercancel", () => { drag = null; });
picture.addEventListener("wheel", (event) => {
  event.preventDefault();
  const edge = picture.getBoundingClientRect();
  zoom(Math.exp(event.deltaY * 0.0015), event.clientX - edge.left, event.clientY - edge.top);
}, { passive: false });
picture.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.dataset.id) choose(event.target.dataset.id);
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") choose(null); });
document.querySelector("tbody").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  choose(row.dataset.id);
  centre(boxes.get(row.dataset.id));
  picture.scrollIntoView({ block: "center" });
});
document.getElementById("in").addEventListener("click", () => zoom(1 / 1.3));
document.getElementById("out").addEventListener("click", () => zoom(1.3));
document.getElementById("fit").addEventListener("click", fit);
window.addEventListener("resize", () => { Object.assign(view, shaped(view)); show(); });
begin();
