// Receive the event stream of a page.

import { say } from "./api.js";

const LOST = "There is no connection to the studio. Start it again, and open its new address.";
const source = new EventSource(`/events?after=${document.body.dataset.after}`);
let lost = false;

source.addEventListener("reload", () => location.reload());
source.addEventListener("error", () => { lost = true; say(LOST); });
source.addEventListener("open", () => { if (lost) say(""); lost = false; });
addEventListener("pagehide", () => source.close());

export function on(name, call) {
  source.addEventListener(name, event => call(JSON.parse(event.data)));
}
