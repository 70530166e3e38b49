// The form of a training, the findings of the doctor, and the list of trainings.

import { attempt, element, say, send } from "./api.js";
import { on } from "./events.js";

const form = document.getElementById("train"), fields = form.elements;
const findings = document.getElementById("findings");
let doctor;

function request() {
  const value = name => fields[name].value.trim();
  const number = name => (value(name) === "" ? null : Number(value(name)));
  return {
    recipe: fields.recipe.value, name: value("name"), place: form.dataset.place || null, path: form.dataset.path,
    minutes: number("minutes"), size: number("size"), labels: fields.labels.checked, settings: value("settings"),
  };
}

let timer;
function preview() {
  const [chosen] = fields.recipe.selectedOptions;
  document.getElementById("about").textContent = [chosen.dataset.about, chosen.dataset.time].filter(Boolean).join("; ");
  clearTimeout(timer);
  timer = setTimeout(async () => {
    const command = document.getElementById("command"), recipe = document.getElementById("recipe");
    try {
      const found = await send("POST", "/train/command", request());
      [command.textContent, recipe.textContent] = [found.command ?? found.problem, found.recipe ?? ""];
    } catch (error) {
      [command.textContent, recipe.textContent] = [error.message, ""];
    }
  }, 200);
}
form.addEventListener("input", preview);
fields.recipe.addEventListener("change", () => {
  if (!form.dataset.place) fields.name.value = fields.recipe.value;
  preview();
});
preview();

form.addEventListener("submit", event => {
  event.preventDefault();
  attempt(async () => {
    const { run } = await send("POST", "/train/start", request());
    location.href = `/training?run=${run}`;
  });
});
document.getElementById("doctor").addEventListener("click", () => attempt(async () => {
  doctor = (await send("POST", "/train/doctor", request())).id;
  findings.hidden = false;
  findings.replaceChildren(element("p", { class: "quiet" }, "The doctor counts operations and times some steps. This takes about 20 seconds …"));
}));

on("job", job => {
  if (job.id !== doctor) return;
  if (job.state === "failed") { say(job.error); findings.hidden = true; }
  if (job.state !== "done") return;
  findings.replaceChildren(element("h2", {}, "The doctor"), element("ul", { class: "findings" }, ...job.result.map(found =>
    element("li", { class: found.level }, element("strong", {}, found.level), ` ${found.topic}: ${found.message}`,
      ...(found.advice ? [element("span", { class: "quiet" }, ` ${found.advice}`)] : [])))));
});
on("training", state => {
  const row = document.querySelector(`#trainings [data-run="${state.id}"] .state`);
  if (row) row.textContent = state.step ? `${state.state}, step ${state.step.toLocaleString()}` : state.state;
});
