// A new distribution: a file that was dropped or chosen, for whom, how urgent; and who that is just now.

import { at, choices, h, problem, render, toast } from "./dom.js";
import { natural, plural, size } from "./format.js";
import { draws, formations, members, mesh, nameOf, self } from "./state.js";

const dialog = at("publish");
let file = null;
let asked = 0; // dry runs, so that only the newest answer is shown

function open(chosen = null) {
  choose(chosen);
  if (!chosen) at("publish-file").value = "";
  problem(at("publish-error"), null);
  at("publish-progress").hidden = true;
  drawChoices();
  if (!dialog.open) dialog.showModal();
  dryRun();
}

function choose(chosen) {
  file = chosen;
  at("publish-chosen").textContent = file ? `${file.name}, ${size(file.size)}` : "Choose one, or drop it anywhere on the page.";
  ready();
}

const ready = () => (at("publish-send").disabled = !file || scope().node_ids?.length === 0);

function drawChoices() {
  choices(at("publish-formation"), formations().map((name) => [name, name]));
  const others = members().filter((node) => node._id !== self());
  render(at("publish-nodes"), others.map((node) =>
    h("label", { "data-key": node._id }, h("input", { type: "checkbox", value: node._id }), ` ${node.name}`)));
  const type = at("publish-scope").value;
  for (const part of dialog.querySelectorAll("[data-scope]")) part.hidden = part.dataset.scope !== type;
}

function scope() {
  const type = at("publish-scope").value;
  if (type === "formation") return { type, formation_id: at("publish-formation").value };
  if (type === "nodes") return { type, node_ids: [...at("publish-nodes").querySelectorAll("input:checked")].map(({ value }) => value) };
  if (type === "capable") return { type, min_gpu_gb: Number(at("publish-gpu").value) || 0 };
  return { type };
}

async function dryRun() {
  ready();
  const number = ++asked;
  const wanted = scope();
  const line = at("publish-dry-run");
  if (wanted.type === "nodes" && !wanted.node_ids.length) return void (line.textContent = "Choose at least one node.");
  try {
    const { node_ids } = await mesh.gateway.call("POST", "/api/distributions/dry-run", { scope: wanted });
    if (number !== asked) return;
    const names = node_ids.map(nameOf).sort(natural);
    line.textContent = names.length
      ? `${plural(names.length, "node")} would get it now: ${names.slice(0, 12).join(", ")}${names.length > 12 ? ` and ${names.length - 12} more` : ""}.`
      : "No node that is known here would get it now; those that come to match later will.";
  } catch (error) {
    if (number === asked) line.textContent = error.message;
  }
}

async function send(event) {
  event.preventDefault();
  const progress = at("publish-progress");
  const sending = file;
  problem(at("publish-error"), null);
  at("publish-send").disabled = true;
  progress.hidden = false;
  progress.value = 0;
  try {
    const token = await mesh.gateway.upload(sending, (fraction) => (progress.value = fraction));
    const made = await mesh.gateway.call("POST", "/api/distributions", { token, scope: scope(), priority: at("publish-priority").value });
    toast(`${sending.name} is on its way to ${plural(made.nodes_in_scope, "node")}.`, "good");
    dialog.close();
  } catch (error) {
    problem(at("publish-error"), error);
  }
  progress.hidden = true;
  ready();
}

// --- dragging: the whole page takes a file -------------------------------------------------------------

const carriesFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
let over = 0;

function hover(step) {
  over = Math.max(0, over + step);
  at("drop").hidden = !over || dialog.open;
}

addEventListener("dragenter", (event) => carriesFile(event) && hover(1));
addEventListener("dragleave", (event) => carriesFile(event) && hover(-1));
addEventListener("dragover", (event) => carriesFile(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  over = 0;
  hover(0);
  const [dropped] = event.dataTransfer.files;
  if (!dropped) return;
  open(dropped);
  at("publish-file").files = event.dataTransfer.files; // so that the form says the same
});

at("publish-open").addEventListener("click", () => open());
at("publish-file").addEventListener("change", (event) => choose(event.target.files[0] ?? null));
dialog.querySelector("form").addEventListener("submit", send);
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.querySelector("fieldset").addEventListener("input", () => {
  drawChoices();
  dryRun();
});
draws(() => {
  if (!dialog.open) return;
  drawChoices();
  dryRun();
}, "nodes");
