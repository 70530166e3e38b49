// A set of images during the denoising, with a slider over its steps.

import { element } from "./api.js";
import { drawSheet, Gallery } from "./gallery.js";

const KEPT = 400; // steps that the slider shows
let count = 0;

export class Live extends Gallery {
  constructor(run, shape, pinned) {
    super(run, shape, pinned);
    this.live = true;
    this.size = shape.size;
    this.frames = [];
    const name = `kind-${++count}`;
    this.kind = "x0";
    this.step = element("output", {}, "…");
    this.slider = element("input", { type: "range", min: "0", max: "0", value: "0", disabled: true, "aria-label": "Step of the denoising" });
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    const kinds = [["x", "noisy image"], ["x0", "predicted image"]].map(([value, text]) => {
      const input = element("input", { type: "radio", name, value, checked: value === this.kind });
      input.addEventListener("change", () => { this.kind = value; this.show(Number(this.slider.value)); });
      return element("label", {}, input, ` ${text}`);
    });
    this.above.append(
      element("div", { class: "choice" }, ...kinds),
      element("label", { class: "slider" }, element("span", {}, "step ", this.step), this.slider),
    );
  }

  add(frame) {
    const end = Number(this.slider.max), atEnd = Number(this.slider.value) === end;
    if (this.frames.length === KEPT) this.frames.shift();
    this.frames.push(frame);
    this.slider.disabled = false;
    this.slider.max = String(this.frames.length - 1);
    if (atEnd) this.show(this.frames.length - 1);
  }

  show(i) {
    const frame = this.frames[i];
    if (!frame) return;
    this.slider.value = String(i);
    this.step.textContent = `${frame.step} of ${frame.steps}, t = ${frame.s}`;
    this.slider.setAttribute("aria-valuetext", this.step.textContent);
    const image = new Image();
    image.src = frame[this.kind];
    this.wanted = image;
    image.decode().then(() => {
      if (this.wanted === image) drawSheet(image, this.tiles, frame.first, frame.count, frame.columns, this.size);
    }, () => {});
  }

  showFile(i, name, result) { // the canvas stays, for the slider; a click saves the file
    const canvas = this.tiles[i].querySelector("canvas");
    const link = element("a", { href: this.url(`${i}?save`), download: name, title: `save ${name}` });
    canvas.replaceWith(link);
    link.append(canvas);
  }

  end() {
    this.slider.disabled = !this.frames.length;
  }
}
