// The mesh as one node sees it: itself in the middle, its links, those of its neighbours, and who it knows beside.

import { at, h, onAction, render, s } from "./dom.js";
import { milliseconds, plural } from "./format.js";
import { changed, draws, formations, furtherLinks, linkOf, members, mesh, processOf, receivers, self, standing } from "./state.js";

const WIDE = { size: [720, 440], reach: [270, 160] };
const NARROW = { size: [400, 400], reach: [145, 145] };
const phone = matchMedia("(max-width: 34rem)");
let shape = WIDE;
let centre;
let receiving = new Set();
const LABELLED = 24; // nodes; with more, names are shown for the pointed at and the selected
const COLOURS = 6; // in style.css

const colourOf = (node, names) => (node.formations.length ? `f${names.indexOf(node.formations[0]) % COLOURS}` : "f-none");

function places(others) {
  const around = new Map();
  const rings = others.length > 40 ? 3 : others.length > LABELLED ? 2 : 1;
  others.forEach((node, index) => {
    const angle = (2 * Math.PI * index) / others.length - Math.PI / 2 + (others.length === 2 ? Math.PI / 2 : others.length % 2 ? 0 : Math.PI / others.length);
    const reach = rings === 1 ? 1 : [1, 0.8, 0.6][index % rings];
    around.set(node._id, [centre[0] + shape.reach[0] * reach * Math.cos(angle), centre[1] + shape.reach[1] * reach * Math.sin(angle)]);
  });
  return around;
}

function draw() {
  shape = phone.matches ? NARROW : WIDE;
  centre = shape.size.map((length) => length / 2);
  at("graph").setAttribute("viewBox", `0 0 ${shape.size.join(" ")}`);
  const me = self();
  const all = members();
  if (!me) return render(at("graph"), s("text", { x: centre[0], y: centre[1], class: "quiet", "text-anchor": "middle" }, "waiting for the node"));
  const names = formations();
  const others = all.filter((node) => node._id !== me);
  const around = places(others);
  const many = all.length > LABELLED;
  const own = mesh.nodes.get(me) ?? { _id: me, name: mesh.presence.name, formations: [], hub: false };
  const beyond = furtherLinks();
  at("graph").classList.toggle("many", many);
  render(
    at("graph"),
    beyond.map((link) => chord(link, around, many)),
    others.map((node) => line(node, around.get(node._id), many)),
    others.map((node) => circle(node, around.get(node._id), names, many)),
    circle(own, centre, names, many),
  );
  const linked = others.filter((node) => linkOf(node._id)).length;
  const unknown = mesh.presence.peers.filter((peer) => !mesh.nodes.has(peer.node_id)).length;
  at("graph-count").textContent = `${plural(all.length, "node")} known, ${linked + unknown} linked with ${mesh.presence.name}${beyond.length ? `, ${plural(beyond.length, "link")} beyond` : ""}`;
  render(
    at("legend"),
    names.map((name, index) => h("li", {}, h("i", { class: `swatch f${index % COLOURS}` }), name)),
    h("li", {}, h("i", { class: "swatch hub" }), "hub"),
    h("li", {}, h("i", { class: "swatch flow" }), "chunks flowing"),
    h("li", {}, h("i", { class: "swatch apart" }), "no link from here"),
  );
}

function line(node, [x, y], many) {
  const link = linkOf(node._id);
  const [cx, cy] = centre;
  const cut = isCut(node);
  if (!link && many) return null;
  const flow = !link ? "" : receiving.has(node._id) ? "out" : receiving.has(self()) ? "in" : "";
  const path = { x1: cx, y1: cy, x2: x, y2: y };
  return s("g", { "data-key": `link/${node._id}`, class: `link ${link ? "" : cut ? "cut" : "none"}` },
    s("line", path),
    flow ? s("line", { ...path, class: `flow ${flow}` }) : null,
    link && !many ? s("text", { x: cx + (x - cx) * 0.52, y: cy + (y - cy) * 0.52 - 6, "text-anchor": "middle", class: "rtt" }, milliseconds(link.rtt)) : null,
    cut && !link ? s("text", { x: cx + (x - cx) * 0.52, y: cy + (y - cy) * 0.52 - 6, "text-anchor": "middle", class: "rtt bad" }, "cut") : null);
}

/** A link between two others; bent, so that none runs through the middle. */
function chord([one, other, rtt], around, many) {
  if (!around.has(one) || !around.has(other)) return null;
  if (many && mesh.selected !== one && mesh.selected !== other) return null;
  const [[x1, y1], [x2, y2]] = [around.get(one), around.get(other)].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const [mx, my] = [(x1 + x2) / 2, (y1 + y2) / 2];
  const off = [mx - centre[0], my - centre[1]];
  const across = Math.hypot(...off) < 40; // from one side to the other
  const [bx, by] = across ? [mx + (y2 - y1) * 0.32, my - (x2 - x1) * 0.32] : [mx + off[0] * 0.25, my + off[1] * 0.25];
  const share = across ? 0.25 : 0.5; // of the way: the middle of such a one is near the middle of the graph
  const along = (from, bend, to) => (1 - share) ** 2 * from + 2 * share * (1 - share) * bend + share ** 2 * to;
  const [lx, ly] = [along(x1, bx, x2), along(y1, by, y2)];
  return s("g", { "data-key": `chord/${[one, other].sort().join()}`, class: "link further" },
    s("path", { d: `M${x1.toFixed(1)} ${y1.toFixed(1)} Q${bx.toFixed(1)} ${by.toFixed(1)} ${x2.toFixed(1)} ${y2.toFixed(1)}` }),
    many ? null : s("text", { x: lx.toFixed(1), y: (ly + 4).toFixed(1), "text-anchor": "middle", class: "rtt" }, milliseconds(rtt)));
}

const isCut = (node) => {
  const one = processOf(self())?.name;
  const other = processOf(node._id)?.name;
  return Boolean(mesh.supervisor?.cuts.some((pair) => pair.includes(one) && pair.includes(other)));
};

function circle(node, [x, y], names, many) {
  const how = standing(node._id);
  const here = node._id === self();
  const radius = many ? (here ? 14 : 8) : node.hub ? 26 : 21;
  const role = [node.hub ? "hub" : "", ...node.formations].filter(Boolean).join(", ");
  const words = { here: "looked through", offline: "offline, looked through", linked: `linked, ${milliseconds(linkOf(node._id)?.rtt)}`, apart: "no link from here" }[how];
  const below = y >= centre[1] - 1;
  return s("g", {
    "data-key": `node/${node._id}`, "data-action": node._id, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, tabindex: "0", role: "button",
    "aria-pressed": String(mesh.selected === node._id), "aria-label": `${node.name}${role ? `, ${role}` : ""}: ${words}`,
    class: `node ${how} ${colourOf(node, names)} ${node.hub ? "is-hub" : ""} ${mesh.selected === node._id ? "selected" : ""} ${receiving.has(node._id) ? "receiving" : ""}`,
  },
    s("circle", { r: radius + 6, class: "halo" }),
    node.hub && !many ? s("rect", { x: -radius, y: -radius, width: 2 * radius, height: 2 * radius, rx: 9, class: "body" }) : s("circle", { r: radius, class: "body" }),
    many ? null : s("text", { class: "mark", "text-anchor": "middle", dy: "0.35em" }, node.hub ? "hub" : mark(node)),
    s("text", { class: "name", "text-anchor": "middle", y: many ? -13 : below ? radius + 19 : -radius - 10 }, node.name),
    how === "apart" || how === "offline" ? s("text", { class: "how", "text-anchor": "middle", y: many ? -26 : below ? radius + 34 : -radius - 26 }, how === "offline" ? "offline" : "no link") : null);
}

const mark = (node) => node.name.slice(0, 1).toUpperCase() + (node.name.match(/\d+$/)?.[0] ?? "");

export function select(id) {
  mesh.selected = mesh.selected === id ? null : id;
  changed("selected");
}

onAction(at("graph"), "click", select);
at("graph").addEventListener("keydown", (event) => {
  const id = event.target.dataset?.action;
  if (id && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault();
    select(id);
  }
});
phone.addEventListener("change", draw);
draws(draw, "nodes", "presence", "neighbours", "selected", "supervisor");
draws(() => {
  const now = receivers();
  if ([...now].join() === [...receiving].join()) return;
  receiving = now;
  draw();
}, "distributions");
