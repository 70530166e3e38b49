// Choose a folder, upload files, and show the check of the data.

import { attempt, element, say, send } from "./api.js";
import { report } from "./report.js";
import { on } from "./events.js";
import { dropped, upload } from "./upload.js";

const page = document.getElementById("data"), place = document.getElementById("report");
const where = document.getElementById("where"), list = document.getElementById("folders");
const here = { place: page.dataset.place || "files", path: page.dataset.path };
let job;

async function open(path, at = here.place) {
  const query = new URLSearchParams({ place: at, path });
  const found = await send("GET", `/data/folders?${query}`);
  Object.assign(here, { place: at, path });
  const crumbs = path.split("/").filter(Boolean);
  const crumb = (name, to) => {
    const button = element("button", { type: "button", class: "link" }, name);
    button.addEventListener("click", () => attempt(() => open(to)));
    return button;
  };
  where.replaceChildren(crumb(at === "files" ? "top" : "uploaded", ""),
    ...crumbs.flatMap((name, i) => [" / ", crumb(name, crumbs.slice(0, i + 1).join("/"))]));
  const inside = name => [...crumbs, name].join("/");
  const row = (name, kind, call) => {
    const button = element("button", { type: "button", class: "link" }, name);
    button.addEventListener("click", () => attempt(call));
    return element("li", {}, button, element("span", { class: "quiet" }, ` ${kind}`));
  };
  list.replaceChildren(
    ...found.folders.map(name => row(name, "folder", () => open(inside(name)))),
    ...found.archives.map(name => row(name, "archive", () => check(at, inside(name)))),
  );
  if (!list.children.length) list.append(element("li", { class: "quiet" }, "no folders"));
}

async function check(at, path) {
  const started = await send("POST", "/data/check", { place: at, path });
  job = { id: started.id, place: at, path };
  place.replaceChildren(element("p", { class: "quiet" }, `Reading ${path || "the folder"} …`));
}

document.getElementById("check").addEventListener("click", () => attempt(() => check(here.place, here.path)));
on("job", ended => {
  if (ended.id !== job?.id) return;
  if (ended.state === "done") report(place, ended.result, job);
  if (ended.state === "failed") { say(ended.error); place.replaceChildren(); }
  if (ended.state === "stopped") place.replaceChildren(element("p", { class: "quiet" }, "Stopped."));
});

const drop = document.getElementById("drop"), files = document.getElementById("files");
async function take(found) {
  if (!found.length) throw new Error("There is no file in it. Drop images, a folder or a zip.");
  const target = await upload(found, document.getElementById("name").value.trim());
  await open(target.path, target.place);
  await check(target.place, target.archive ?? target.path);
}
for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, event => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
drop.addEventListener("drop", event => {
  event.preventDefault();
  const found = dropped(event.dataTransfer);
  attempt(async () => take(await found));
});
files.addEventListener("change", () => attempt(async () => {
  await take([...files.files].map(file => ({ file, path: file.name })));
  files.value = "";
}));

attempt(async () => {
  try {
    await open(here.path);
  } catch (error) { // a zip
    await open(here.path.split("/").slice(0, -1).join("/"));
  }
  if (page.dataset.place) await check(page.dataset.place, page.dataset.path);
});
