// Show trainings side by side, during and after the training.

import { attempt, duration, element, say, send } from "./api.js";
import { chart, smooth } from "./chart.js";
import { on } from "./events.js";

const QUARTERS = ["quarter 1, least noise", "quarter 2", "quarter 3", "quarter 4, most noise"];
const place = document.getElementById("charts"), runs = new Map();

class Run {
  constructor(card, i) {
    this.card = card;
    this.id = card.dataset.run;
    this.name = card.dataset.name;
    this.colour = `run${i + 1}`;
    this.rows = [];
    this.previews = [];
    this.image = card.querySelector("img");
    this.slider = card.querySelector("input");
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    card.querySelector(".stop").addEventListener("click", () => this.ask("stop", {}));
    card.querySelector(".resume").addEventListener("click", () => this.ask("resume", {}));
    this.image.addEventListener("load", () => { this.image.hidden = false; });
  }

  ask(what, body) {
    attempt(() => send("POST", `/training/${this.id}/${what}`, body));
  }

  async load() {
    const { state, rows, previews, recipe } = await send("GET", `/training/${this.id}/history`);
    const last = rows.at(-1)?.step ?? -1; // events may have been faster than this answer
    this.rows = [...rows, ...this.rows.filter(row => row.step > last)];
    this.previews = [...new Set([...previews, ...this.previews])].sort((a, b) => a - b);
    this.card.querySelector(".recipe").textContent = recipe || "The training writes it when it starts.";
    this.move();
    this.set(state);
  }

  set(state) {
    const find = name => this.card.querySelector(name);
    find(".state").textContent = state.state;
    find(".problem").textContent = state.problem;
    find(".problem").hidden = !state.problem;
    find("progress").max = state.steps || 1;
    find("progress").value = state.step;
    const facts = [["step", state.steps ? `${state.step.toLocaleString()} of ${state.steps.toLocaleString()}` : state.state === "running" ? "timing the first steps" : "–"],
      ["images per second", state.rate ? Math.round(state.rate).toLocaleString() : "–"],
      ["time left", state.left === null ? "–" : duration(state.left)],
      ["memory", state.memory ? `${Math.round(state.memory / 2 ** 20).toLocaleString()} MiB` : "–"]];
    find("dl").replaceChildren(...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    const active = state.state === "running" || state.state === "starting";
    find(".stop").hidden = !active;
    find(".resume").hidden = active || !state.can_resume;
    find(".make").hidden = !this.previews.length;
    if (active && !this.active && this.seen) this.load().then(draw); // resumed
    this.active = active;
    this.seen = true;
  }

  move() { // to the newest preview, unless an earlier one is shown
    const atEnd = Number(this.slider.value) === Number(this.slider.max);
    this.card.querySelector(".none").hidden = this.previews.length > 0;
    this.card.querySelector(".slider").hidden = this.previews.length < 2;
    if (!this.previews.length) return;
    this.slider.max = String(this.previews.length - 1);
    if (atEnd) this.show(this.previews.length - 1);
    this.card.querySelector(".make").hidden = false;
  }

  show(i) {
    const step = this.previews[i];
    this.slider.value = String(i);
    this.card.querySelector("output").textContent = step.toLocaleString();
    this.slider.setAttribute("aria-valuetext", `step ${step}`);
    this.image.src = `/runs/${this.id}/picture?step=${step}&whole`;
  }

  points(key) {
    return this.rows.filter(row => typeof row[key] === "number").map(row => [row.step, row[key]]);
  }
}

function draw() {
  const all = [...runs.values()], several = all.length > 1;
  const curves = (key, change = points => points) => all.map(run => ({ name: run.name, colour: run.colour, points: change(run.points(key)) }));
  const positive = points => smooth(points.filter(([x, y]) => x > 0 && y > 0));
  const faint = all.map(run => ({ colour: run.colour, points: run.points("loss"), faint: true }));
  const charts = [chart("Loss", [...faint, ...curves("loss", positive)], { note: "As logged, and the geometric mean over ± 10 % of the step." })];
  for (const run of all) {
    const of = several ? `, ${run.name}` : "";
    charts.push(chart(`Loss by noise level${of}`, QUARTERS.map((name, i) => ({ name, colour: `quarter${i + 1}`, points: positive(run.points(`loss_q${i + 1}`)) }))));
    charts.push(chart(`Loss of held-out images${of}`, [{ name: "held-out images", colour: run.colour, points: run.points("held_out_loss") },
      { name: "trained images", colour: "quarter1", points: run.points("trained_loss") }], { note: "If the two diverge, the model memorizes." }));
  }
  charts.push(chart("Images per second", curves("images_per_second"), { log: false }));
  const found = charts.filter(Boolean);
  place.replaceChildren(...(found.length ? found : [element("p", { class: "quiet" }, "There are no curves yet. They appear during the training.")]));
}

document.querySelectorAll(".run-card").forEach((card, i) => runs.set(card.dataset.run, new Run(card, i)));
on("rows", ({ run, rows }) => {
  const of = runs.get(run);
  if (!of) return;
  const last = of.rows.at(-1)?.step ?? -1;
  if (rows.length && rows[0].step < last) of.rows = []; // the log was replaced
  of.rows.push(...rows);
  draw();
});
on("preview", ({ run, step }) => {
  const of = runs.get(run);
  if (!of || of.previews.includes(step)) return;
  of.previews.push(step);
  of.move();
});
on("training", state => {
  const of = runs.get(state.id);
  const began = of && of.card.querySelector(".state").textContent === "starting" && state.state === "running";
  of?.set(state);
  if (began) of.load().then(draw);
  if (of && state.problem) say("");
});
attempt(async () => {
  await Promise.all([...runs.values()].map(run => run.load()));
  draw();
});
