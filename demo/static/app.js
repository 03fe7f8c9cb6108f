// Attaches the page to one node of the mesh, and follows what that node knows.

import "./distributions.js";
import "./documents.js";
import "./graph.js";
import "./nodes.js";
import "./publish.js";
import { at, choices } from "./dom.js";
import { clock } from "./format.js";
import { Gateway } from "./gateway.js";
import { note } from "./log.js";
import { SAMPLE_SECONDS, changed, draws, mesh, nameOf } from "./state.js";
import { followSupervisor } from "./supervisor.js";
import "./scenarios.js";

const SUBSCRIPTIONS = [
  { kind: "documents", collection: "nodes" },
  { kind: "presence", every: SAMPLE_SECONDS },
  { kind: "stats", every: SAMPLE_SECONDS },
  { kind: "distributions" },
  { kind: "neighbours" },
];

let following = null;
let answers = true; // as far as is known
let lastHeard = null;
let attached = null; // name of the process

const TAKE = [
  (kind, data) => {
    if (kind === "snapshot") mesh.nodes = new Map(data.documents.map((node) => [node._id, node]));
    else {
      for (const node of [...data.inserted, ...data.updated]) {
        if (!mesh.nodes.has(node._id)) note(`${node.name} is new in the mesh`, "good");
        mesh.nodes.set(node._id, node);
      }
      for (const id of data.removed) mesh.nodes.delete(id);
    }
    changed("nodes");
  },
  (kind, { presence }) => {
    const before = mesh.presence;
    mesh.presence = presence;
    if (kind === "change" && before?.node_id === presence.node_id) {
      const had = new Set(before.peers.map((peer) => peer.node_id));
      const has = new Set(presence.peers.map((peer) => peer.node_id));
      for (const peer of presence.peers) if (!had.has(peer.node_id)) note(`${presence.name} is linked with ${peer.name}`, "good");
      for (const peer of before.peers) if (!has.has(peer.node_id)) note(`${presence.name} lost its link with ${peer.name}`, "bad");
      if (before.online !== presence.online) note(`${presence.name} is ${presence.online ? "back online" : "offline"}`, presence.online ? "good" : "bad");
    }
    changed("presence");
  },
  (kind, { stats }) => {
    mesh.before = kind === "snapshot" ? null : mesh.stats;
    mesh.stats = stats;
    changed("stats");
  },
  (kind, data) => {
    if (kind === "snapshot") {
      mesh.distributions.clear();
      for (const listed of data.distributions) takeDistribution(listed, false);
    } else {
      for (const listed of data.changed) takeDistribution(listed, true);
      for (const id of data.removed) mesh.distributions.delete(id);
    }
    changed("distributions");
  },
  (_, { neighbours }) => {
    mesh.neighbours = neighbours;
    changed("neighbours");
  },
];

const RATE_SECONDS = 0.4; // shorter differences say more about when than about how fast

function takeDistribution(listed, tell) {
  const { handle, node_statuses } = listed.status;
  const before = mesh.distributions.get(handle.distribution_id);
  const title = listed.name ?? handle.blob_hash.slice(0, 12);
  if (tell && !before) note(`${title} is distributed${listed.publisher ? ` by ${nameOf(listed.publisher)}` : ""}`);
  if (tell && before && listed.status.is_cancelled && !before.status.is_cancelled) note(`${title} was cancelled`, "bad");
  const now = performance.now() / 1000;
  for (const [id, receipt] of Object.entries(node_statuses)) {
    const was = before?.status.node_statuses[id];
    if (tell && before && was?.status !== receipt.status && ["completed", "failed"].includes(receipt.status)) {
      note(`${nameOf(id)}: ${title} ${receipt.status}${receipt.error ? `, ${receipt.error}` : ""}`, receipt.status === "completed" ? "good" : "bad");
    }
    const key = `${handle.distribution_id}/${id}`;
    const seen = mesh.rates.get(key);
    if (!seen || receipt.progress_bytes < seen.bytes) mesh.rates.set(key, { bytes: receipt.progress_bytes, at: now, rate: 0 });
    else if (now - seen.at >= RATE_SECONDS && receipt.progress_bytes > seen.bytes) {
      mesh.rates.set(key, { bytes: receipt.progress_bytes, at: now, rate: (receipt.progress_bytes - seen.bytes) / (now - seen.at) });
    }
  }
  mesh.distributions.set(handle.distribution_id, listed);
}

/** Look through the node behind this gateway from now on. */
export function attach(name, base) {
  following?.close();
  mesh.gateway = new Gateway(base);
  Object.assign(mesh, { live: false, presence: null, neighbours: {}, stats: null, before: null, selected: null });
  mesh.nodes.clear();
  mesh.distributions.clear();
  mesh.rates.clear();
  attached = name;
  location.hash = name;
  connected(false, true);
  following = mesh.gateway.live(SUBSCRIPTIONS, {
    take: (of, kind, data) => {
      connected(true);
      TAKE[of](kind, data);
    },
    connected: (is) => is || connected(false),
    failed: (of, error) => note(`the gateway refuses to tell of ${SUBSCRIPTIONS[of].kind}: ${error.message}`, "bad"),
  });
  changed("gateway", "nodes", "presence", "stats", "distributions");
}

function connected(is, starting = false) {
  if (mesh.live === is && answers === is && !starting) return;
  if (is && !answers) note(`connected with ${attached} again`, "good");
  if (!is && !starting) note(`the gateway of ${attached} does not answer`, "bad");
  if (starting) lastHeard = null;
  else if (mesh.live && !is) lastHeard = new Date();
  mesh.live = is;
  answers = is || starting;
  document.body.classList.toggle("stale", !is);
  changed("connection");
}

function drawConnection() {
  const paused = mesh.live && mesh.presence && !mesh.presence.online;
  const [text, kind] = !answers ? ["disconnected", "bad"] : !mesh.live ? ["connecting", ""] : paused ? ["offline node", "warn"] : ["live", "good"];
  at("connection").textContent = text;
  at("connection").className = `pill ${kind}`;
  at("notice").hidden = answers && !paused;
  at("notice").classList.toggle("mild", mesh.live);
  at("notice").textContent = mesh.live
    ? `${attached} is offline: this is its own copy. It can be edited; what changes is synced when it comes back.`
    : lastHeard
      ? `Not connected with ${attached} since ${clock(lastHeard)}: what you see is how it was then. Trying again.`
      : `${attached} does not answer: is it running? Trying again.`;
  document.title = mesh.presence ? `${mesh.presence.name} · mesh` : "mesh";
}

function drawAttach() {
  const nodes = mesh.supervisor?.nodes ?? [];
  choices(at("attach"), nodes.map(({ name }) => [name, name]), attached);
  if (attached || !nodes.length) return;
  const wanted = decodeURIComponent(location.hash.slice(1));
  const first = nodes.find(({ name }) => name === wanted) ?? nodes[0];
  attach(first.name, first.gateway);
  at("attach").value = first.name;
}

at("attach").addEventListener("change", () => {
  const node = mesh.supervisor.nodes.find(({ name }) => name === at("attach").value);
  attach(node.name, node.gateway);
});
draws(drawConnection, "connection", "presence");
draws(drawAttach, "supervisor");
addEventListener("mesh:attach", ({ detail }) => {
  at("attach").value = detail.name;
  attach(detail.name, detail.gateway);
});
followSupervisor();
