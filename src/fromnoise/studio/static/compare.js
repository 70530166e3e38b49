// Compare two pinned sets, seed by seed.

import { element } from "./api.js";

export function compare(place, galleries) {
  place.replaceChildren();
  place.hidden = galleries.length !== 2;
  if (place.hidden) return;
  const [a, b] = galleries.map(gallery => gallery.result);
  const both = a.seeds.filter(seed => b.seeds.includes(seed));
  place.append(element("h2", {}, "The pinned sets, seed by seed"));
  const settings = new Set([...Object.keys(a.settings), ...Object.keys(b.settings)]);
  const labels = ({ request }) => request.labels ?? request.compose ?? "none";
  const rows = [["labels", labels(a), labels(b)]];
  for (const key of settings) rows.push([key, a.settings[key] ?? "none", b.settings[key] ?? "none"]);
  const differ = rows.filter(([, one, other]) => one !== other);
  place.append(differ.length
    ? element("table", {}, element("thead", {}, element("tr", {}, ...["", "left", "right"].map(name =>
        element("th", { scope: "col" }, name)))), element("tbody", {}, ...differ.map(([key, one, other]) =>
        element("tr", {}, element("th", { scope: "row" }, key), element("td", {}, one), element("td", {}, other)))))
    : element("p", { class: "quiet" }, "The settings are the same."));
  if (!both.length) {
    place.append(element("p", { class: "quiet" }, "The two sets share no seed. Sample one of them again with the seeds of the other."));
    return;
  }
  const picture = (gallery, seed) => {
    const { seeds, size } = gallery.result, i = seeds.indexOf(seed);
    return element("img", { class: "pixels", src: gallery.url(i), alt: `seed ${seed}`, width: String(size[1]), height: String(size[0]) });
  };
  place.append(element("div", { class: "tiles pairs" }, ...both.map(seed => element("figure", {},
    element("div", { class: "two" }, ...galleries.map(gallery => picture(gallery, seed))),
    element("figcaption", {}, String(seed))))));
}
