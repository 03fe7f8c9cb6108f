// Every node that is known here, and what the demo can do to its process.

import { at, h, onAction, render } from "./dom.js";
import { milliseconds, size, time } from "./format.js";
import { select } from "./graph.js";
import { SAMPLE_SECONDS, draws, linkOf, members, mesh, processOf, self, standing } from "./state.js";
import { order } from "./supervisor.js";

const CAPS = [["", "no cap"], ["262144", "256 kB/s"], ["1048576", "1 MB/s"], ["4194304", "4 MB/s"]];
const WORDS = { here: "looked through", offline: "offline", linked: "linked", apart: "no link from here" };

function draw() {
  const known = members();
  const unknown = (mesh.supervisor?.nodes ?? []).filter(({ node_id }) => !mesh.nodes.has(node_id));
  render(at("nodes"), known.map(row), unknown.map(stranger));
  at("joiner").hidden = !mesh.supervisor;
  at("joiner").disabled = Boolean(mesh.supervisor?.playing || mesh.supervisor?.gone);
}

function row(node) {
  const how = standing(node._id);
  const link = linkOf(node._id);
  const process = processOf(node._id);
  const facts = link ? `${milliseconds(link.rtt)} · ${size(link.bytes_out)} sent · ${size(link.bytes_in)} received` : WORDS[how];
  const tags = [
    node.hub ? h("span", { class: "tag" }, "hub") : null,
    node.formations.map((name) => h("span", { class: "tag" }, name)),
    process?.upload_limit ? h("span", { class: "tag warn" }, `≤ ${size(process.upload_limit)}/s`) : null,
    condition(process),
  ];
  return entry(node._id, how, node.name, tags, facts, () => details(node, process, link));
}

/** A process whose document has not arrived here: when it does, the entry becomes that of the node. */
const stranger = (process) =>
  entry(process.node_id || `process/${process.name}`, "apart", process.name, condition(process), mesh.presence ? "not known here yet" : "",
    () => h("div", { class: "details" }, controls(process, null)));

function entry(key, how, name, tags, facts, opened) {
  const open = mesh.selected === key;
  return h("li", { "data-key": key, class: how },
    h("button", { type: "button", class: "summary", "data-action": "select", "data-node": key, "aria-expanded": String(open) },
      h("span", { class: "dot" }), h("span", { class: "who" }, name), tags, h("span", { class: "facts" }, facts)),
    open ? opened() : null);
}

const condition = (process) =>
  process && process.condition !== "online" ? h("span", { class: "tag bad" }, process.condition) : null;

function details(node, process, link) {
  const capabilities = node.capabilities ?? {};
  const facts = [
    ["listens on", node.listen ?? "nowhere"],
    ["up since", time(node.started_at)],
    ["linked since", link ? time(link.since) : "–"],
    ["processor", capabilities.cpu_arch ?? "–"],
    ["free storage", capabilities.storage_mb ? size(capabilities.storage_mb * 1e6) : "–"],
    ["version", node.version],
  ];
  return h("div", { class: "details" },
    h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    process ? controls(process, link) : h("p", { class: "muted" }, "Not a process of this demo: it cannot be controlled from here."));
}

function controls(process, link) {
  if (mesh.supervisor.gone) return h("p", { class: "muted" }, "The demo does not answer.");
  const button = (action, text, more = {}) => h("button", { type: "button", "data-action": action, "data-process": process.name, "data-key": action, ...more }, text);
  const { condition: is } = process;
  const runs = is === "online" || is === "offline";
  const here = processOf(self());
  const cut = here && mesh.supervisor.cuts.some((pair) => pair.includes(here.name) && pair.includes(process.name));
  return h("div", { class: "buttons" },
    is === "online" ? button("pause", "Take offline") : null,
    is === "offline" ? button("resume", "Bring back") : null,
    runs ? button("kill", "Kill -9", { class: "danger" }) : null,
    is !== "starting" ? button("restart", runs ? "Restart" : "Start again") : null,
    is === "online" && link && here && !cut ? button("cut", `Cut the link with ${here.name}`) : null,
    cut ? button("mend", `Mend the link with ${here.name}`) : null,
    process.node_id !== self() ? button("attach", "Look through it") : null,
    h("label", { "data-key": "cap" }, "Uplink ",
      h("select", { "data-action": "cap", "data-on": "change", "data-process": process.name, "data-value": String(process.upload_limit ?? ""), disabled: !runs },
        CAPS.map(([value, text]) => h("option", { value, selected: value === String(process.upload_limit ?? "") }, text)))));
}

function drawStats() {
  const { stats, before } = mesh;
  if (!stats) return render(at("stats"));
  const fact = (name, value) => h("div", { "data-key": name }, h("dt", {}, name), h("dd", {}, value));
  const passed = (key) => (before && stats[key] > before[key] ? `, ${size((stats[key] - before[key]) / SAMPLE_SECONDS)}/s` : "");
  render(at("stats"),
    fact("links", String(stats.links)),
    fact("documents", stats.documents.toLocaleString("en")),
    fact("files held", `${stats.blobs}, ${size(stats.blob_disk_bytes)}`),
    fact("chunks received", size(stats.blob_bytes_in) + passed("blob_bytes_in")),
    fact("chunks served", size(stats.blob_bytes_out) + passed("blob_bytes_out")));
}

const processNamed = (name) => mesh.supervisor.nodes.find((process) => process.name === name);

async function act(action, element) {
  if (action === "select") return select(element.dataset.node);
  const process = processNamed(element.dataset.process);
  if (action === "attach") return dispatchEvent(new CustomEvent("mesh:attach", { detail: process }));
  if (action === "cut" || action === "mend") return order(`links/${action}`, { one: processOf(self()).name, other: process.name });
  if (action === "cap") {
    await order(`nodes/${process.name}/cap`, { upload_limit: Number(element.value) || null });
    element.value = processNamed(process.name)?.upload_limit ?? ""; // what holds, if that went wrong
    return undefined;
  }
  return order(`nodes/${process.name}/${action}`);
}

onAction(at("nodes"), "click", act);
onAction(at("nodes"), "change", act);
at("joiner").addEventListener("click", () => order("joiners"));
draws(draw, "nodes", "presence", "selected", "supervisor");
draws(drawStats, "stats");
