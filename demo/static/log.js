// The event log: the newest first.

import { at, h } from "./dom.js";
import { clock } from "./format.js";

const KEPT = 200;

export function note(text, kind = "", when = new Date()) {
  const log = at("log");
  log.prepend(h("li", { class: kind }, h("time", {}, clock(when)), h("span", {}, text)));
  while (log.children.length > KEPT) log.lastChild.remove();
}
