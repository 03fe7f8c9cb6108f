// Buttons that play a scenario; the line says what to look at, then how it ended.

import { at, h, onAction, render } from "./dom.js";
import { draws, mesh } from "./state.js";
import { order } from "./supervisor.js";

function draw() {
  const { scenarios, playing, line, gone } = mesh.supervisor ?? { scenarios: [] };
  at("scenarios").hidden = !scenarios.length;
  render(
    at("scenario-buttons"),
    scenarios.map(({ name, title }) =>
      h("button", { type: "button", "data-key": name, "data-action": name, "aria-pressed": String(playing === name), disabled: Boolean(playing || gone), class: playing === name ? "playing" : "" }, title)),
  );
  const text = gone ? "The demo does not answer: its processes cannot be controlled just now." : line || "Play one: it says what to look at.";
  if (at("scenario-line").textContent !== text) at("scenario-line").textContent = text;
}

onAction(at("scenario-buttons"), "click", (name) => order(`scenarios/${name}`));
draws(draw, "supervisor");
