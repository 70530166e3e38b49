// One set of images: its tiles, live or finished, its settings, files and command.

import { element, duration } from "./api.js";

const HIDDEN = ["timesteps", "clamp", "precision", "weights"]; // except in comparisons

function tile(size, seed, caption) {
  const canvas = element("canvas", { class: "pixels", width: String(size[1]), height: String(size[0]) });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `seed ${seed}${caption ? `, ${caption}` : ""}`);
  const below = element("figcaption", {}, caption ? `${seed}: ${caption}` : String(seed));
  if (caption) below.title = caption;
  return element("figure", {}, canvas, below);
}

// Draw the images of a sheet into tiles.
export function drawSheet(image, tiles, first, count, columns, size) {
  const [h, w] = size;
  for (let i = 0; i < count && first + i < tiles.length; i++) {
    const context = tiles[first + i].querySelector("canvas").getContext("2d");
    const across = Math.min(columns, count);
    context.imageSmoothingEnabled = false;
    context.drawImage(image, (i % across) * w, Math.floor(i / across) * h, w, h, 0, 0, w, h);
  }
}

export class Gallery {
  // result: with an id if it is finished; otherwise seeds, captions and size.
  constructor(run, result, pinned) {
    this.run = run;
    this.tiles = result.seeds.map((seed, i) => tile(result.size, seed, result.captions[i] ?? ""));
    this.heading = element("h2", { class: "small" }, `${result.seeds.length} images`);
    this.grid = element("div", { class: "tiles" }, ...this.tiles);
    this.above = element("div", { class: "above" }, this.heading);
    this.below = element("div", { class: "below" });
    this.element = element("section", { class: "gallery" }, this.above, this.grid, this.below);
    this.pinned = pinned;
    if (result.id) this.finish(result);
  }

  url(part) {
    return `/runs/${this.run}/results/${this.result.id}/${part}`;
  }

  finish(result) {
    this.result = result;
    const { seeds, settings } = result;
    const words = Object.entries(settings).filter(([key]) => !HIDDEN.includes(key));
    const labels = result.request.labels ?? result.request.compose;
    const count = `${seeds.length} image${seeds.length > 1 ? "s" : ""}`;
    const text = [labels, ...words.map(([key, value]) => `${key} ${value}`)].filter(Boolean);
    this.heading.replaceChildren(count, element("span", { class: "quiet" }, ` ${text.join(", ")}`));
    result.files.forEach((name, i) => this.showFile(i, name, result));
    const pin = element("button", { class: "plain", type: "button", "aria-pressed": "false" }, "Pin");
    pin.addEventListener("click", () => this.pinned(this));
    if (this.pinned) this.pin = pin;
    const links = [["zip", "all as zip"], ...result.others.map((name, i) => [`${result.files.length + i}?save`, name])];
    const files = element("span", { class: "files" }, ...links.map(([part, name]) =>
      element("a", { href: this.url(part), download: "" }, name)));
    const one = result.kind === "make" ? [this.ofOne(result)] : [];
    const command = element("details", {}, element("summary", {}, "Command line"),
      element("p", {}, element("code", {}, result.command)));
    const when = element("span", { class: "quiet" },
      `${new Date(result.made).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}, ${duration(result.seconds)}`);
    this.below.replaceChildren(element("p", { class: "line" }, ...(this.pin ? [pin] : []), files, ...one, when), command);
  }

  ofOne(result) { // links for one image
    const chosen = element("select", { "aria-label": "Image, by its seed" }, ...result.seeds.map((seed, i) => element("option", { value: String(i) }, String(seed))));
    const links = [["edit", "edit"], ["look", "nearest training images"]].map(([page, text]) => {
      const link = element("a", {}, text);
      const point = () => { link.href = `/runs/${this.run}/${page}?result=${result.id}&number=${chosen.value}`; };
      chosen.addEventListener("change", point);
      point();
      return link;
    });
    return element("span", { class: "one" }, element("span", { class: "quiet" }, "seed"), chosen, ...links);
  }

  showFile(i, name, result) {
    const canvas = this.tiles[i].querySelector("canvas");
    if (!canvas) return;
    const [h, w] = result.size, alt = canvas.getAttribute("aria-label");
    const image = element("img", { class: "pixels", src: this.url(i), alt, width: String(w), height: String(h), loading: "lazy" });
    const link = element("a", { href: this.url(`${i}?save`), download: name, title: `save ${name}` }, image);
    const replace = () => canvas.replaceWith(link);
    if (this.live) image.decode().then(replace, replace); // no flicker
    else replace();
  }

  markPinned(yes) {
    this.pin?.setAttribute("aria-pressed", String(yes));
    if (this.pin) this.pin.textContent = yes ? "Pinned" : "Pin";
    this.element.classList.toggle("pinned", yes);
  }
}
