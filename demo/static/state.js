// What is known, and who draws it. A drawing runs at most once a frame, however much has changed.

import { natural } from "./format.js";

export const SAMPLE_SECONDS = 2; // between round-trip times, byte counts and totals

export const mesh = {
  gateway: null, // of the node that the page looks through
  live: false, // its stream is up
  nodes: new Map(), // node documents by id
  presence: null,
  neighbours: {}, // links of those that the node is linked with: [{node_id, rtt}] by node id
  stats: null,
  before: null, // the stats before these, and when each came
  distributions: new Map(), // Listed by distribution id
  rates: new Map(), // by "distribution/node": {bytes, at, rate}
  supervisor: null, // the processes: who runs, which links are cut, which scenario is played
  selected: null, // a node id
};

const drawings = new Map();
const due = new Set();
let waiting = false;

/** Call `draw` after something of these topics has changed. */
export function draws(draw, ...topics) {
  for (const topic of topics) drawings.set(topic, [...(drawings.get(topic) ?? []), draw]);
}

export function changed(...topics) {
  if (topics.includes("nodes")) inOrder = null;
  for (const topic of topics) for (const draw of drawings.get(topic) ?? []) due.add(draw);
  if (waiting || !due.size) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const now = [...due];
    due.clear();
    for (const draw of now) draw();
  });
}

export const self = () => mesh.presence?.node_id ?? null;
export const nameOf = (id) => mesh.nodes.get(id)?.name || id.slice(0, 8);
export const linkOf = (id) => mesh.presence?.peers.find((peer) => peer.node_id === id) ?? null;

/** The links that its neighbours have with each other and with others: [one, other, rtt]. */
export function furtherLinks() {
  const found = new Map();
  for (const [one, links] of Object.entries(mesh.neighbours)) {
    for (const { node_id: other, rtt } of links) {
      if (other === self()) continue;
      const key = [one, other].sort().join();
      if (rtt !== null || !found.has(key)) found.set(key, [one, other, rtt]);
    }
  }
  return [...found.values()];
}

export const processOf = (id) => mesh.supervisor?.nodes.find((node) => node.node_id === id) ?? null;

/** Members: hubs first, then by formation and name. */
export function members() {
  const rank = (node) => `${node.hub ? 0 : 1} ${node.formations.join()} ${node.name}`;
  inOrder ??= [...mesh.nodes.values()].map((node) => [rank(node), node]).sort(([a], [b]) => natural(a, b)).map(([, node]) => node);
  return inOrder;
}
let inOrder = null;

export const formations = () => [...new Set([...mesh.nodes.values()].flatMap((node) => node.formations))].sort();

/** "here": looked through, "linked", or "apart": known from its document, no link from here. */
export function standing(id) {
  if (id === self()) return mesh.presence.online ? "here" : "offline";
  return linkOf(id) ? "linked" : "apart";
}

/** The ids of the nodes where chunks arrive now. */
export function receivers() {
  const found = new Set();
  for (const { status } of mesh.distributions.values()) {
    if (status.is_cancelled) continue;
    for (const receipt of Object.values(status.node_statuses)) if (receipt.status === "transferring") found.add(receipt.node_id);
  }
  return found;
}
