// Show the queue: the progress and remaining time of each job, and a button to stop it.

import { attempt, duration, element, send } from "./api.js";
import { on } from "./events.js";

const place = document.getElementById("queue");
const jobs = new Map(), rows = new Map(), dismissed = new Set();
for (const job of JSON.parse(document.body.dataset.jobs)) jobs.set(job.id, job);

function shown(job) {
  if (job.state === "failed") return !dismissed.has(job.id);
  return job.state === "waiting" || job.state === "running";
}

function row(job) {
  const name = element("span", { class: "title" }, job.title);
  const bar = element("progress", { "aria-label": job.title });
  const note = element("span", { class: "quiet time" });
  const button = element("button", { class: "plain", type: "button" });
  button.addEventListener("click", () => {
    const now = jobs.get(job.id);
    if (now.state === "failed") { dismissed.add(job.id); draw(); return; }
    button.disabled = true;
    attempt(() => send("DELETE", `/jobs/${job.id}`));
  });
  return { element: element("div", { class: "job" }, name, bar, note, button), bar, note, button };
}

function update(job) {
  if (!rows.has(job.id)) rows.set(job.id, row(job));
  const { element: whole, bar, note, button } = rows.get(job.id);
  whole.classList.toggle("failed", job.state === "failed");
  bar.hidden = job.state === "failed";
  if (job.state === "running" && job.total) { bar.max = job.total; bar.value = job.done; }
  else if (job.state === "waiting") { bar.max = 1; bar.value = 0; }
  else bar.removeAttribute("value");
  note.textContent = {
    failed: job.error,
    waiting: "waiting",
    running: job.left === null ? "" : `${duration(job.left)} left`,
  }[job.state];
  button.textContent = job.state === "failed" ? "Dismiss" : "Stop";
  button.setAttribute("aria-label", `${button.textContent}: ${job.title}`);
  return whole;
}

function draw() {
  const visible = [...jobs.values()].filter(shown);
  place.hidden = !visible.length;
  const wanted = visible.map(update);
  for (const child of [...place.children]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((whole, i) => { if (place.children[i] !== whole) place.insertBefore(whole, place.children[i] ?? null); });
  const running = visible.find(job => job.state === "running");
  const percent = running?.total ? `${Math.round(100 * running.done / running.total)} % ` : "";
  document.title = percent + document.title.replace(/^\d+ % /, "");
}

on("job", job => {
  jobs.set(job.id, job);
  draw();
});
draw();
