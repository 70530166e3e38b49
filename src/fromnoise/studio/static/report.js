// Show the check of the data.

import { attempt, element, send } from "./api.js";

const section = (title, ...children) => element("section", {}, element("h3", {}, title), ...children);
const lines = texts => element("ul", { class: "marks" }, ...texts.map(text => element("li", {}, text)));

function facts(pairs) {
  return element("dl", { class: "glance" }, ...pairs.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

function bars(classes) {
  const most = Math.max(...classes.map(([, count]) => count), 1);
  return element("div", { class: "scroll" }, element("table", {}, element("tbody", {}, ...classes.map(([name, count]) =>
    element("tr", {}, element("th", { scope: "row" }, name),
      element("td", {}, element("meter", { min: "0", max: String(most), value: String(count), "aria-label": `${count} images` })),
      element("td", { class: "figure" }, count.toLocaleString()))))));
}

function duplicates(found) {
  const pair = two => element("figure", {}, element("div", { class: "two" }, ...two.map(({ name, png }) =>
    element("img", { src: png, alt: name, class: "fit" }))), element("figcaption", {}, two.map(({ name }) => name).join(" = ")));
  return section(`${found.duplicates.toLocaleString()} exact duplicate${found.duplicates > 1 ? "s" : ""}`, element("div", { class: "tiles pairs" }, ...found.pairs.map(pair)));
}

function crops(found, job) {
  const { size, fit } = found.suggested;
  const sizes = element("input", { type: "number", min: "8", max: "1024", step: "8", value: String(size || 64) });
  const fits = element("select", {}, ...["crop", "pad", "squash"].map(name => element("option", { selected: name === fit }, name)));
  const place = element("div", { class: "tiles pairs crops" });
  const link = element("a", { class: "button" }, "Train on these");
  let latest = 0;
  const draw = () => attempt(async () => {
    const now = ++latest, wanted = { place: job.place, path: job.path, size: Number(sizes.value), fit: fits.value };
    const labels = found.classes.length > 1;
    const settings = fits.value === "crop" ? {} : { fit: fits.value };
    link.href = `/train?${new URLSearchParams({ place: job.place, path: job.path, size: sizes.value, labels, ...settings })}`;
    const { images } = await send("POST", "/data/crops", wanted);
    if (now !== latest) return;
    place.replaceChildren(...images.map(({ name, before, after }) => element("figure", {},
      element("div", { class: "two" }, element("img", { src: before, alt: name, class: "fit" }), element("img", { src: after, alt: `${name} at the size of the training`, class: "fit pixels" })),
      element("figcaption", { title: name }, name))));
  });
  sizes.addEventListener("change", draw);
  fits.addEventListener("change", draw);
  draw();
  return section("At the size of the training",
    element("div", { class: "pair" }, element("label", {}, "Size in pixels ", sizes), element("label", {}, "Fit ", fits)),
    place, element("p", { class: "buttons" }, link));
}

export function report(place, found, job) {
  const sizes = found.sizes.slice(0, 3).map(([h, w, count]) => `${w} × ${h}: ${count.toLocaleString()}`);
  const parts = [element("h2", {}, `${found.count.toLocaleString()} image${found.count === 1 ? "" : "s"}`)];
  parts.push(facts([
    ["read as", found.source],
    ["sizes, width × height", `${sizes.join(", ")}${found.kinds > sizes.length ? `, and ${found.kinds - sizes.length} more` : ""}`],
    ["channels", found.channels === 1 ? "grey" : found.channels === 3 ? "colour" : String(found.channels)],
    ["unlabelled", found.classes.length ? found.unlabelled.toLocaleString() : ""],
  ].filter(([, value]) => value)));
  if (found.count) parts.push(crops(found, job));
  if (found.broken.length) parts.push(section(`${found.broken.length} cannot be read`, lines(found.broken)));
  if (found.duplicates) parts.push(duplicates(found));
  if (found.classes.length) parts.push(section(`${found.classes.length} label${found.classes.length > 1 ? "s" : ""}${found.labels_from ? `, from ${found.labels_from}` : ""}`, bars(found.classes)));
  const notes = [...found.notes, ...found.warned];
  if (notes.length) parts.push(section("Notes", lines(notes)));
  parts.push(element("details", {}, element("summary", {}, "Output of fromnoise data check"), element("pre", { class: "scroll" }, found.text)));
  place.replaceChildren(...parts);
}
