// Draw curves against the training step, as SVG in the colours of the report.

import { element } from "./api.js";

const W = 430, H = 250, LEFT = 52, RIGHT = 8, TOP = 10, BOTTOM = 26;
const svg = (tag, attributes, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

// Return the geometric mean over ± 10 % of the step, as in the report.
export function smooth(points) {
  const sums = [0];
  for (const [, y] of points) sums.push(sums.at(-1) + Math.log(y));
  let low = 0, high = 0;
  return points.map(([x]) => {
    while (points[low][0] < 0.9 * x) low += 1;
    while (high < points.length && points[high][0] <= 1.1 * x) high += 1;
    return [x, Math.exp((sums[high] - sums[low]) / (high - low))];
  });
}

function ticks(low, high, log) {
  if (log) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
    }
    const inside = found.filter(value => value >= low * 0.999 && value <= high * 1.001);
    const few = inside.length > 6 ? inside.filter(value => Number.isInteger(Math.round(Math.log10(value) * 1e6) / 1e6)) : inside;
    return few.length > 1 ? few : [low, high];
  }
  const rough = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(digit => digit * power).find(each => each >= 0.8 * rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high * 1.0001; value += step) found.push(value);
  return found;
}

const short = value => (value >= 1000 ? `${+(value / 1000).toPrecision(3)}k` : String(+value.toPrecision(3)));

// Return a chart, or null if no curve has points.
// curves: {name, colour: a class of the report's style, points: [[x, y]], faint}. log: of the y axis.
export function chart(title, curves, { log = true, note = "" } = {}) {
  const usable = curves.map(curve => ({ ...curve, points: curve.points.filter(([x, y]) => x > 0 && Number.isFinite(y) && (!log || y > 0)) }))
    .filter(curve => curve.points.length);
  const points = usable.flatMap(curve => curve.points);
  if (!points.length) return null;
  const range = i => points.reduce(([low, high], point) => [Math.min(low, point[i]), Math.max(high, point[i])], [Infinity, -Infinity]);
  const [x0, x1] = range(0);
  let [y0, y1] = range(1);
  if (y0 === y1) [y0, y1] = log ? [y0 / 1.5, y1 * 1.5] : [y0 - 1, y1 + 1];
  if (!log) y0 = Math.min(0, y0);
  const scale = value => (log ? Math.log(value) : value);
  const x = value => LEFT + (W - LEFT - RIGHT) * (x1 === x0 ? 0.5 : (value - x0) / (x1 - x0));
  const y = value => H - BOTTOM - (H - TOP - BOTTOM) * (scale(value) - scale(y0)) / (scale(y1) - scale(y0));
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title} against training step` });
  for (const value of ticks(y0, y1, log)) {
    picture.append(svg("line", { class: "grid", x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 6, y: y(value) + 3, "text-anchor": "end" }, short(value)));
  }
  for (const value of ticks(x0, x1, false)) {
    if (value >= x0) picture.append(svg("text", { x: x(value), y: H - 8, "text-anchor": "middle" }, short(value)));
  }
  for (const { points: own, colour, faint } of usable) {
    const path = own.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ");
    const line = own.length > 1 ? svg("polyline", { points: path }) : svg("circle", { cx: x(own[0][0]), cy: y(own[0][1]), r: 2.5 });
    line.setAttribute("class", `curve ${colour}${faint ? " faint" : ""}`);
    picture.append(line);
  }
  const named = usable.filter(curve => !curve.faint);
  const legend = element("ul", { class: "legend" }, ...named.map(({ name, colour, points: own }) =>
    element("li", {}, element("span", { class: `swatch ${colour}` }), name, element("span", { class: "quiet" }, ` ${+own.at(-1)[1].toPrecision(4)}`))));
  return element("figure", { class: "chart" }, element("figcaption", {}, title), picture, legend,
    ...(note ? [element("p", { class: "note" }, note)] : []));
}

// Return the points of a sweep, each a link: distance against seconds per image.
export function scatter({ name, extractor, points }, link) {
  const range = key => [Math.min(...points.map(point => point[key])) * 0.9, Math.max(...points.map(point => point[key])) * 1.1];
  const [x0, x1] = range("seconds"), [y0, y1] = range("value"), log = Math.log;
  const x = value => LEFT + (W - LEFT - RIGHT) * (log(value) - log(x0)) / (log(x1) - log(x0));
  const y = value => H - BOTTOM - (H - TOP - BOTTOM) * (log(value) - log(y0)) / (log(y1) - log(y0));
  const title = `Distance against seconds per image, ${name}`;
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": title });
  for (const value of ticks(y0, y1, true)) {
    picture.append(svg("line", { class: "grid", x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 6, y: y(value) + 3, "text-anchor": "end" }, short(value)));
  }
  for (const value of ticks(x0, x1, true)) picture.append(svg("text", { x: x(value), y: H - 8, "text-anchor": "middle" }, short(value)));
  const samplers = [...new Set(points.map(point => point.sampler))];
  const colour = point => `run${samplers.indexOf(point.sampler) % 6 + 1}`;
  for (const point of [...points].sort((a, b) => a.seconds - b.seconds)) {
    const interval = point.low && point.high ? ` [${+point.low.toPrecision(4)}, ${+point.high.toPrecision(4)}]` : "";
    const guided = point.guidance === 1 ? "" : `, guidance ${point.guidance}`;
    const text = `${point.sampler} ${point.steps}${guided}: ${+point.value.toPrecision(4)}${interval}, ${+point.seconds.toPrecision(2)} s per image`;
    const dot = svg("circle", { class: `point ${colour(point)}`, cx: x(point.seconds), cy: y(point.value), r: point.front ? 6 : 4 }, svg("title", {}, text));
    picture.append(svg("a", { href: link(point), "aria-label": `Sample images: ${text}` }, dot));
  }
  const legend = element("ul", { class: "legend" }, ...samplers.map(sampler =>
    element("li", {}, element("span", { class: `swatch ${colour({ sampler })}` }), sampler)));
  return element("figure", { class: "chart" }, element("figcaption", {}, title), picture, legend,
    element("p", { class: "note" }, `Features: ${extractor}. Large points are on the Pareto front. Click a point to sample images with its settings.`));
}
