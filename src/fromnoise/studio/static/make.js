// The sample page of a model: its form, the images that are being sampled, and earlier ones.

import { attempt, element, say, send } from "./api.js";
import { compare } from "./compare.js";
import { on } from "./events.js";
import { Gallery } from "./gallery.js";
import { conditioning, watchLabels } from "./labels.js";
import { Live } from "./live.js";

const form = document.getElementById("make"), run = form.dataset.run;
const size = [Number(form.dataset.height), Number(form.dataset.width)];
const number = document.getElementById("number"), stop = document.getElementById("stop");
const place = { live: document.getElementById("live"), results: document.getElementById("results"),
  empty: document.getElementById("empty"), compare: document.getElementById("compare") };
const fields = form.elements, lives = new Map();
let galleries = [], pins = JSON.parse(localStorage.getItem(`pins-${run}`) ?? "[]");

// ---- the form

function request() {
  const value = name => fields[name].value.trim();
  return {
    seeds: value("seeds"),
    steps: value("steps") === "" ? null : Number(value("steps")),
    sampler: value("sampler") || null,
    ...conditioning(form),
    settings: value("settings"),
    every: value("every") === "" ? null : Number(value("every")),
    gif: fields.gif.checked, npz: fields.npz.checked, trajectory: fields.trajectory.checked,
  };
}

function seedsOf(text) { // of a text that the server accepts
  return text.split(",").flatMap(part => {
    const [first, last] = part.split("-").map(Number);
    return Array.from({ length: (last ?? first) - first + 1 }, (_, i) => first + i);
  });
}

function setSeeds(first, count) {
  fields.seeds.value = count === 1 ? String(first) : `${first}-${first + count - 1}`;
}

function firstSeed() {
  return Number(/^\s*\d+/.exec(fields.seeds.value)?.[0] ?? 0);
}

number.addEventListener("input", () => {
  if (number.validity.valid && number.value) setSeeds(firstSeed(), Number(number.value));
});
document.getElementById("next").addEventListener("click", () => {
  const last = Math.max(...seedsOf(fields.seeds.value).filter(Number.isFinite), -1);
  setSeeds(last + 1, Number(number.value) || 1);
  preview();
});

let timer;
function preview() { // shows the command
  clearTimeout(timer);
  timer = setTimeout(async () => {
    const shown = document.getElementById("command");
    try {
      const { command, count, problem } = await send("POST", `/runs/${run}/command`, request());
      shown.textContent = command ?? problem;
      if (count && document.activeElement !== number) number.value = count;
    } catch (error) {
      shown.textContent = error.message;
    }
  }, 200);
}
const given = new URLSearchParams(location.search); // of a point of a sweep
for (const name of ["steps", "sampler", "guidance"]) {
  if (given.has(name) && fields[name]) fields[name].value = given.get(name);
}
if (given.has("timesteps")) {
  fields.steps.value = "";
  fields.settings.value = `timesteps=${given.get("timesteps")}`;
}
form.addEventListener("input", preview);
watchLabels(form);
preview();

form.addEventListener("submit", event => {
  event.preventDefault();
  attempt(async () => {
    sending += 1;
    try {
      const wanted = request(), job = await send("POST", `/runs/${run}/make`, wanted);
      const seeds = seedsOf(wanted.seeds), caption = wanted.labels ?? wanted.compose ?? "";
      const live = new Live(run, { seeds, size, captions: seeds.map(() => caption) }, togglePin);
      lives.set(job.id, live);
      keepLive();
      place.live.prepend(live.element);
      place.empty.hidden = true;
      live.above.scrollIntoView({ block: "nearest" });
      stop.disabled = false;
    } finally {
      sending -= 1;
      if (!sending) early.splice(0).forEach(handle => handle());
    }
  });
});
stop.addEventListener("click", () => attempt(() => Promise.all([...lives].filter(([, live]) => !live.ended).map(([id]) => send("DELETE", `/jobs/${id}`)))));

function keepLive() { // moves an ended set to the earlier ones
  for (const [id, live] of lives) {
    if (live.ended && live.element.isConnected) {
      live.element.remove();
      lives.delete(id);
      if (live.result) add(live.result);
    }
  }
}

let sending = 0; // requests without an answer; events wait for it, since it has the id of the job
const early = [];
const inOrder = handle => event => (sending ? early.push(() => handle(event)) : handle(event));
on("frame", inOrder(frame => lives.get(frame.job)?.add(frame)));
on("job", inOrder(job => {
  const live = lives.get(job.id);
  if (job.state === "done" && job.run === run && job.result && !live) add(job.result); // of another page
  if (!live || job.state === "waiting" || job.state === "running") return;
  live.ended = true;
  live.end();
  stop.disabled = ![...lives.values()].some(one => !one.ended);
  if (job.state === "done") {
    live.finish(job.result);
    galleries.unshift(live);
    showPins();
  } else {
    live.heading.textContent = job.state === "stopped" ? "Stopped. Nothing was written." : "Failed.";
    if (job.state === "failed") say(job.error);
    if (!live.frames.length) live.element.remove();
  }
}));

// ---- earlier images

function add(result) {
  galleries = galleries.filter(gallery => gallery.result.id !== result.id);
  const gallery = new Gallery(run, result, togglePin);
  galleries.push(gallery);
  galleries.sort((a, b) => (a.result.id < b.result.id ? 1 : -1));
  const after = galleries[galleries.indexOf(gallery) + 1]?.element;
  place.results.insertBefore(gallery.element, after?.parentElement === place.results ? after : null);
  place.empty.hidden = true;
  showPins();
}

function togglePin(gallery) {
  const { id } = gallery.result;
  pins = pins.includes(id) ? pins.filter(pin => pin !== id) : [...pins, id].slice(-2);
  localStorage.setItem(`pins-${run}`, JSON.stringify(pins));
  showPins();
}

function showPins() {
  for (const gallery of galleries) gallery.markPinned(pins.includes(gallery.result.id));
  compare(place.compare, pins.map(id => galleries.find(gallery => gallery.result.id === id)).filter(Boolean));
}

attempt(async () => {
  const found = await send("GET", `/runs/${run}/results`);
  found.forEach(add);
  place.empty.hidden = found.length > 0 || lives.size > 0;
});
