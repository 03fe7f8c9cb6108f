// Draws what one node of the mesh knows. The state comes as server-sent events: a snapshot, then what changed.

const state = new Map(); // parts by key: hub, presence, distributions, node/<id>, document/<id>
const changed = new Map(); // when a document last changed, by key, while it is highlighted
const HIGHLIGHT = 1200; // milliseconds, as in style.css
const at = (id) => document.getElementById(id);

function take(parts) {
  for (const [key, value] of Object.entries(parts)) {
    if (value === null) state.delete(key);
    else state.set(key, value);
    const [kind] = key.split("/");
    if (kind === "document") changed.set(key, performance.now());
    for (const draw of DRAWN_BY[kind] ?? []) due.add(draw);
  }
  soon();
}

let lastHeard = null;
function connected(is) {
  if (is) lastHeard = null;
  else lastHeard ??= new Date();
  at("connection").textContent = is ? "live" : "disconnected";
  at("connection").className = `pill ${is ? "good" : "bad"}`;
  at("notice").hidden = is;
  if (!is) {
    at("notice").textContent = state.size
      ? `Not connected since ${clock(lastHeard)}: what you see is how it was then. Trying again.`
      : "Nobody answers: is the demo running? Trying again.";
  }
  document.body.classList.toggle("stale", !is);
}

// Only what a change concerns is drawn again, so that text stays selected meanwhile.
const DRAWN_BY = {
  hub: [drawNodes],
  presence: [drawNodes],
  node: [drawNodes, drawDistributions],
  distributions: [drawDistributions],
  document: [drawDocuments],
};
const due = new Set();
let drawing = false;
function soon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(drawDue);
}

function drawDue() {
  drawing = false;
  for (const draw of due) draw();
  due.clear();
}

// --- drawing -------------------------------------------------------------------------------------

/** An element; text becomes text nodes, so nothing from the mesh is ever read as HTML. */
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const parts = (kind) =>
  [...state.entries()].filter(([key]) => key.startsWith(`${kind}/`)).map(([, value]) => value);

/** The members in the order of their names: the node that is looked through first. */
function members() {
  const hub = state.get("hub")?.node_id;
  const rank = (node) => (node._id === hub ? 0 : node.formations.length ? 2 : 1);
  return parts("node").sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name));
}

const nameOf = (id) => state.get(`node/${id}`)?.name ?? id.slice(0, 8);

function drawNodes() {
  const hub = state.get("hub");
  const presence = state.get("presence");
  if (!hub || !presence) return;
  at("seen-from").replaceChildren("as seen by ", h("b", {}, hub.name), ` at ${hub.address}`);
  const links = new Map(presence.peers.map((peer) => [peer.node_id, peer]));
  const nodes = members();
  const online = nodes.filter((node) => node._id === hub.node_id || links.has(node._id)).length;
  at("nodes-count").textContent = `${online} of ${nodes.length} online`;
  at("nodes").replaceChildren(...nodes.map((node) => nodeCard(node, node._id === hub.node_id, links.get(node._id))));
}

function nodeCard(node, isHub, link) {
  const facts = isHub
    ? [["links", state.get("presence").peers.length], ["port", new URL(node.listen).port], ["up since", time(node.started_at)]]
    : link
      ? [["round trip", milliseconds(link.rtt)], ["sent", size(link.bytes_in)], ["received", size(link.bytes_out)], ["linked", time(link.since)]]
      : [["link to the hub", "none"]];
  const tag = isHub ? "hub" : node.formations.join(", ");
  return h("article", { class: `card ${isHub || link ? "up" : "down"}` },
    h("h3", {}, h("span", { class: "dot" }), node.name, tag ? h("span", { class: "tag" }, tag) : null),
    h("dl", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value))))),
    isHub || link ? null : h("p", { class: "state" }, "offline"));
}

function drawDistributions() {
  const listed = state.get("distributions") ?? [];
  const cards = [...listed].reverse().map(distributionCard);
  at("distributions").replaceChildren(...(cards.length ? cards : [h("p", { class: "empty" }, "None yet.")]));
}

function distributionCard({ status, name, size_bytes, publisher }) {
  const targets = Object.values(status.node_statuses).sort((a, b) => nameOf(a.node_id).localeCompare(nameOf(b.node_id)));
  const done = status.total_targets > 0 && status.completed === status.total_targets;
  const others = members().filter((node) => node._id !== publisher && !status.node_statuses[node._id]);
  const outside = others.length ? ` Outside the scope, so nothing for: ${others.map((node) => node.name).join(", ")}.` : "";
  return h("article", { class: "panel distribution" },
    h("h3", {}, h("span", { class: "file" }, name ?? status.handle.blob_hash.slice(0, 12)),
      h("span", { class: "tag" }, scope(status.handle.scope)),
      h("span", { class: `pill ${done ? "good" : "busy"}` }, `${status.completed} of ${status.total_targets} completed`)),
    h("p", { class: "hash" }, `${size(size_bytes ?? 0)} · b3sum ${status.handle.blob_hash}`),
    h("ul", { class: "receipts" }, targets.map(receipt)),
    h("p", { class: "outside" }, `${publisher ? `Source: ${nameOf(publisher)}.` : ""}${outside}`));
}

function receipt(target) {
  const { status, progress_bytes, total_bytes, started_at, completed_at, error } = target;
  const fraction = status === "completed" ? 1 : total_bytes ? progress_bytes / total_bytes : 0;
  const took = completed_at && started_at ? ` in ${Math.max(completed_at - started_at, 0).toFixed(1)} s` : "";
  const bar = h("progress", { max: 1, value: fraction, "aria-label": `progress of ${nameOf(target.node_id)}` });
  return h("li", { class: status },
    h("span", { class: "who" }, nameOf(target.node_id)), bar,
    h("span", { class: "amount" }, `${Math.floor(fraction * 100)} %`),
    h("span", { class: "state" }, `${status}${took}${error ? `: ${error}` : ""}`));
}

function scope(plain) {
  if (plain.type === "all") return "everybody";
  if (plain.type === "formation") return `formation ${plain.formation_id}`;
  return plain.type;
}

function drawDocuments() {
  const documents = parts("document").sort((a, b) => String(a._id).localeCompare(String(b._id)));
  if (!documents.length) return at("documents").replaceChildren(h("p", { class: "empty" }, "None yet."));
  const fields = [...new Set(documents.flatMap(Object.keys))].filter((name) => name !== "_id").sort();
  const head = h("tr", {}, ["_id", ...fields].map((name) => h("th", { scope: "col" }, name)));
  const rows = documents.map((each) =>
    highlighted(`document/${each._id}`, h("tr", {},
      h("th", { scope: "row" }, each._id),
      fields.map((name) => h("td", {}, name.endsWith("_at") ? time(each[name]) : plain(each[name]))))));
  at("documents").replaceChildren(h("table", {}, h("thead", {}, head), h("tbody", {}, rows)));
  hintAtMore();
}

function hintAtMore() {
  const box = at("documents");
  at("documents-more").hidden = box.scrollWidth <= box.clientWidth;
}
addEventListener("resize", hintAtMore);

/** A row that was drawn again goes on with its highlight where it was. */
function highlighted(key, row) {
  const age = performance.now() - (changed.get(key) ?? -HIGHLIGHT);
  if (age < HIGHLIGHT) {
    row.className = "fresh";
    row.style.animationDelay = `-${Math.round(age)}ms`;
  }
  return row;
}

// --- numbers as people read them -----------------------------------------------------------------

const clock = (date) => date.toLocaleTimeString([], { hour12: false });
const time = (seconds) => (seconds ? clock(new Date(seconds * 1000)) : "");
const plain = (value) => (typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value));
const milliseconds = (seconds) => (seconds === null ? "…" : `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`);

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; bytes >= 999.5 && unit < units.length - 1; unit += 1) bytes /= 1000;
  return `${bytes.toFixed(unit && bytes < 9.95 ? 1 : 0)} ${units[unit]}`;
}

// --- listening, last: everything above is there when the first event comes -----------------------------

take(JSON.parse(at("snapshot").textContent)); // what was known when the page was made
changed.clear();
drawDue();

const events = new EventSource("/events");
events.addEventListener("snapshot", (event) => {
  state.clear();
  Object.values(DRAWN_BY).flat().forEach((draw) => due.add(draw));
  take(JSON.parse(event.data));
  changed.clear();
  connected(true);
});
events.addEventListener("change", (event) => take(JSON.parse(event.data)));
events.addEventListener("error", () => connected(false));
