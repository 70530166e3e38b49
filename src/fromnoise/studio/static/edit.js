// The edit page.

import { attempt, element, say, send } from "./api.js";
import { on } from "./events.js";
import { Gallery } from "./gallery.js";
import { Paint } from "./paint.js";

const form = document.getElementById("edit"), fields = form.elements, run = form.dataset.run;
const told = document.getElementById("told"), results = document.getElementById("results");
const stop = document.getElementById("stop"), undo = document.getElementById("undo");
const paint = new Paint(document.getElementById("picture"), () => { undo.disabled = !paint.before.length; });
const second = document.getElementById("second"), chosen = {}, waiting = new Set(), shown = new Set();

function update() {
  const kind = fields.kind.value.replace(" ", "-");
  for (const part of document.querySelectorAll("[data-for]")) part.hidden = !part.dataset.for.split(" ").includes(kind);
  document.querySelector(".inputs").hidden = kind === "walk-seeds";
  paint.active = kind === "inpaint";
  paint.radius = Number(document.getElementById("brush").value) / 2 + 0.5;
  paint.erasing = fields.tool.value === "eraser";
  document.querySelector("[name=strength]").previousElementSibling.textContent = fields.strength.value;
  paint.draw();
}
form.addEventListener("input", update);
undo.addEventListener("click", () => paint.undo());
document.getElementById("clear").addEventListener("click", () => paint.clear());
for (const button of document.querySelectorAll("[data-half]")) button.addEventListener("click", () => paint.half(button.dataset.half));
update();

async function show(id, which) {
  const image = new Image();
  image.src = `/runs/${run}/inputs/${id}`;
  await image.decode();
  chosen[which] = id;
  if (which === "image") {
    paint.image = image;
    paint.draw();
    told.textContent = "Paint the area to inpaint.";
  } else second.getContext("2d").drawImage(image, 0, 0);
}

async function take(file, which) {
  const response = await fetch(`/runs/${run}/inputs/${encodeURIComponent(file.name)}`, { method: "PUT", body: file, headers: { accept: "application/json" } });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  await show(answer.input, which);
}
for (const which of ["image", "other"]) {
  document.getElementById(which).addEventListener("change", event => {
    const [file] = event.target.files;
    if (file) attempt(() => take(file, which));
    event.target.value = "";
  });
}
if (form.dataset.result) {
  attempt(async () => {
    const { input } = await send("POST", `/runs/${run}/inputs`, { result: form.dataset.result, number: Number(form.dataset.number) });
    await show(input, "image");
  });
}

form.addEventListener("submit", event => {
  event.preventDefault();
  const kind = fields.kind.value;
  const number = name => (fields[name].value === "" ? null : Number(fields[name].value));
  attempt(async () => {
    if (kind !== "walk seeds" && !chosen.image) throw new Error("No image is chosen. Choose one first.");
    if (kind === "walk" && !chosen.other) throw new Error("The other image is missing. Choose it first.");
    const job = await send("POST", `/runs/${run}/edit`, {
      kind, image: chosen.image ?? null, other: chosen.other ?? null, mask: kind === "inpaint" ? paint.png() : null,
      seeds: kind === "walk" ? "0" : fields.seeds.value, frames: number("frames"), steps: number("steps"),
      labels: fields.labels?.value.trim() || null, strength: kind === "vary" ? number("strength") : null,
    });
    waiting.add(job.id);
    stop.disabled = false;
  });
});
stop.addEventListener("click", () => attempt(() => Promise.all([...waiting].map(id => send("DELETE", `/jobs/${id}`)))));

// Show the image before and after an edit, divided by a slider.
function beforeAfter(gallery, result) {
  const [h, w] = result.size;
  const source = { width: String(w), height: String(h), class: "pixels" };
  const before = element("img", { ...source, src: `/runs/${run}/inputs/${result.inputs[0]}`, alt: "before" });
  const after = element("img", { ...source, src: gallery.url(0), alt: "after" });
  const slider = element("input", { type: "range", min: "0", max: "100", value: "50", "aria-label": "Before and after" });
  const part = () => { after.style.clipPath = `inset(0 0 0 ${slider.value}%)`; };
  slider.addEventListener("input", part);
  part();
  gallery.tiles.forEach((tile, i) => {
    const button = element("button", { type: "button", class: "link" }, "compare");
    button.addEventListener("click", () => { after.src = gallery.url(i); });
    if (gallery.tiles.length > 1) tile.querySelector("figcaption").append(" ", button);
  });
  return element("div", { class: "before-after" }, element("div", { class: "over" }, before, after), element("label", {}, "before and after ", slider));
}

// Show one image of an interpolation at a time, by a slider.
function scrubber(gallery, result) {
  const [h, w] = result.size, last = result.files.length - 1;
  const image = element("img", { class: "pixels", width: String(w), height: String(h), src: gallery.url(0), alt: "an image of the interpolation" });
  const slider = element("input", { type: "range", min: "0", max: String(last), value: "0", "aria-label": "Position in the interpolation" });
  slider.addEventListener("input", () => {
    image.src = gallery.url(Number(slider.value));
    slider.setAttribute("aria-valuetext", `${slider.value} of ${last}`);
  });
  return element("div", { class: "before-after" }, element("div", { class: "over" }, image), element("label", {}, "interpolation ", slider));
}

function add(result) {
  if (shown.has(result.id)) return;
  shown.add(result.id);
  const walk = result.kind.startsWith("walk");
  const names = walk ? { ...result, captions: result.files.map(() => "") } : result;
  const gallery = new Gallery(run, names, null);
  gallery.element.insertBefore(walk ? scrubber(gallery, result) : beforeAfter(gallery, result), gallery.grid);
  results.prepend(gallery.element);
}

on("job", job => {
  if (job.task === "edit" && job.run === run && job.state === "done") add(job.result);
  if (!waiting.has(job.id) || job.state === "waiting" || job.state === "running") return;
  waiting.delete(job.id);
  stop.disabled = !waiting.size;
  if (job.state === "failed") say(job.error);
});
attempt(async () => {
  const found = await send("GET", `/runs/${run}/results?edits`);
  found.reverse().forEach(add);
});
