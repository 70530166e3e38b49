// Paint a mask on an image, with a brush, an eraser and undo. White is inpainted.

const UNDO = 50;

export class Paint {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.mask = document.createElement("canvas");
    [this.mask.width, this.mask.height] = [canvas.width, canvas.height];
    this.ink = this.mask.getContext("2d", { willReadFrequently: true });
    this.image = null;
    this.before = [];
    this.changed = changed;
    this.active = false;
    canvas.addEventListener("pointerdown", event => {
      if (!this.image || !this.active) return;
      canvas.setPointerCapture(event.pointerId);
      this.keep();
      this.last = this.place(event);
      this.stroke(this.last);
    });
    canvas.addEventListener("pointermove", event => {
      if (!this.last) return;
      for (const each of event.getCoalescedEvents?.() ?? [event]) this.stroke(this.place(each));
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { this.last = null; });
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * this.canvas.width / box.width, (event.clientY - box.top) * this.canvas.height / box.height];
  }

  stroke([x, y]) {
    const [a, b] = this.last, steps = Math.ceil(Math.hypot(x - a, y - b)) || 1;
    this.ink.globalCompositeOperation = this.erasing ? "destination-out" : "source-over";
    this.ink.fillStyle = "#fff";
    for (let i = 0; i <= steps; i++) {
      this.ink.beginPath();
      this.ink.arc(a + (x - a) * i / steps, b + (y - b) * i / steps, this.radius, 0, 7);
      this.ink.fill();
    }
    this.ink.globalCompositeOperation = "source-over";
    this.last = [x, y];
    this.draw();
  }

  keep() {
    this.before.push(this.ink.getImageData(0, 0, this.mask.width, this.mask.height));
    if (this.before.length > UNDO) this.before.shift();
    this.changed();
  }

  undo() {
    const image = this.before.pop();
    if (image) this.ink.putImageData(image, 0, 0);
    this.changed();
    this.draw();
  }

  clear() {
    this.keep();
    this.ink.clearRect(0, 0, this.mask.width, this.mask.height);
    this.draw();
  }

  half(side) {
    const { width: w, height: h } = this.mask;
    const box = { upper: [0, 0, w, h / 2], lower: [0, h / 2, w, h / 2], left: [0, 0, w / 2, h], right: [w / 2, 0, w / 2, h] }[side];
    this.keep();
    this.ink.fillStyle = "#fff";
    this.ink.fillRect(...box.map(Math.round));
    this.draw();
  }

  draw() {
    const { width: w, height: h } = this.canvas;
    this.context.clearRect(0, 0, w, h);
    if (this.image) this.context.drawImage(this.image, 0, 0, w, h);
    if (!this.active) return;
    const veil = this.ink.getImageData(0, 0, w, h), shown = this.context.getImageData(0, 0, w, h);
    for (let i = 0; i < veil.data.length; i += 4) { // show the area to inpaint in the accent colour
      if (veil.data[i + 3] < 128) continue;
      [11, 160, 140].forEach((value, c) => { shown.data[i + c] = Math.round(0.35 * shown.data[i + c] + 0.65 * value); });
      shown.data[i + 3] = 255;
    }
    this.context.putImageData(shown, 0, 0);
  }

  // Return the mask as a PNG: white on black.
  png() {
    const whole = document.createElement("canvas");
    [whole.width, whole.height] = [this.mask.width, this.mask.height];
    const context = whole.getContext("2d"), { width: w, height: h } = whole;
    const pixels = this.ink.getImageData(0, 0, w, h);
    for (let i = 0; i < pixels.data.length; i += 4) {
      const value = pixels.data[i + 3] < 128 ? 0 : 255;
      pixels.data.set([value, value, value, 255], i);
    }
    context.putImageData(pixels, 0, 0);
    return whole.toDataURL("image/png");
  }
}
