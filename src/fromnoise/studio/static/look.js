// The report page of a run.

import { attempt, element, say, send } from "./api.js";
import { scatter } from "./chart.js";
import { on } from "./events.js";

const page = document.getElementById("look"), run = page.dataset.run;
const frame = document.getElementById("report"), write = document.getElementById("write");
const place = document.getElementById("nearest");
let writing, searching;

write.addEventListener("click", () => attempt(async () => {
  write.disabled = true;
  writing = (await send("POST", `/runs/${run}/report`, {})).id;
}));

function shown({ image, nearest, count }) {
  const figure = (png, text) => element("figure", {}, element("img", { src: png, class: "pixels", alt: text, width: "96", height: "96" }), element("figcaption", {}, text));
  place.replaceChildren(
    element("h2", {}, "The nearest training images"),
    element("div", { class: "tiles" }, figure(image, "the sample"), ...nearest.map(found =>
      figure(found.png, `${found.distance.toFixed(1)}${found.mirrored ? ", mirrored" : ""}`))),
    element("p", { class: "note" }, `Of ${count.toLocaleString()} training images. Distance: root mean square difference of the pixels, in grey levels from 0 to 255.`),
  );
}

on("job", job => {
  if (job.state === "waiting" || job.state === "running") return;
  if (job.id === writing) {
    write.disabled = false;
    write.textContent = "Write it again";
    if (job.state !== "done") { say(job.error); return; }
    document.getElementById("none").hidden = true;
    frame.hidden = false;
    frame.src = `/runs/${run}/report`;
  }
  if (job.id === searching) {
    if (job.state === "done") shown(job.result);
    else { say(job.error); place.hidden = true; }
  }
});

const sweeps = JSON.parse(page.dataset.sweeps);
if (sweeps.length) {
  document.getElementById("sweeps").replaceChildren(...sweeps.map(sweep => scatter(sweep, point => {
    const query = { steps: point.steps, sampler: point.sampler, guidance: point.guidance };
    return `/runs/${run}?${new URLSearchParams(point.times.length ? { ...query, timesteps: `[${point.times}]` } : query)}`;
  })));
}
if (page.dataset.result) {
  place.hidden = false;
  place.replaceChildren(element("p", { class: "quiet" }, "Looking for the nearest training images …"));
  attempt(async () => {
    searching = (await send("POST", `/runs/${run}/nearest`, { result: page.dataset.result, number: Number(page.dataset.number) })).id;
  });
}
