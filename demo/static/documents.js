// A collection as a live table. There are rows only for what can be seen of it, and empty space for the rest.

import { at, choices, h, onAction, problem, render, toast } from "./dom.js";
import { diffList, differences } from "./diff.js";
import { changedMeanwhile, edit, written } from "./editor.js";
import { cell, clock, natural, plural } from "./format.js";
import { oneAtATime } from "./gateway.js";
import { draws, mesh, nameOf } from "./state.js";

const OWNED = ["nodes", "distributions", "receipts"]; // written by their owners alone
const PREFERRED = ["tasks", "sensors"];
const COLUMNS = 7; // the fields that most documents have; the rest share one cell
const SPARE = 10; // rows above and below those that can be seen

const documents = new Map();
const rows = new Map();
let order = []; // ids as they are shown
let columns = [];
let collection = null;
let selector = "";
let following = null;
let refused = false; // what is asked for cannot be followed
let counted = null; // what the counts of the collections were asked for
let lastChange = null; // {id, made, removed, changes, at, own, by}
let unsynced = {}; // changes that nobody else is known to hold, by collection

// --- following ---------------------------------------------------------------------------------------------

function follow() {
  following?.close();
  following = null;
  refused = false;
  clear();
  problem(at("selector-error"), null);
  if (!collection || !mesh.gateway) return;
  const one = { kind: "documents", collection };
  if (selector) {
    try {
      one.selector = JSON.parse(selector);
    } catch (error) {
      return refuse(new Error(`That is no JSON: ${error.message}`));
    }
  }
  following = mesh.gateway.live([one], { take, failed: (_, error) => refuse(error) });
}

/** It cannot be followed, whoever asks how often: nothing is counted that is not known. */
function refuse(error) {
  refused = true;
  following?.close();
  problem(at("selector-error"), error);
  drawFoot();
}

function clear() {
  documents.clear();
  rows.clear();
  order = [];
  columns = [];
  lastChange = null;
  at("table").querySelector("tbody").replaceChildren();
  at("table").querySelector("thead").replaceChildren();
  at("table").scrollTop = 0;
  soon();
}

function take(_, kind, data) {
  if (kind === "snapshot") {
    clear();
    for (const document of data.documents) documents.set(document._id, document);
  } else {
    for (const document of [...data.inserted, ...data.updated]) {
      heard(document._id, documents.get(document._id), document);
      documents.set(document._id, document);
      rows.get(document._id)?.remove();
      rows.delete(document._id);
      fresh.add(document._id);
    }
    for (const id of data.removed) {
      heard(id, documents.get(id), null);
      documents.delete(id);
      rows.get(id)?.remove();
      rows.delete(id);
    }
    if (data.inserted.length || data.removed.length) askForCounts();
  }
  order = [...documents.keys()].sort(natural);
  soon();
  if (lastChange) askForAuthor();
  if (!mesh.presence?.peers.length) askForUnsynced();
}

function heard(id, before, after) {
  lastChange = { id, made: !before, removed: !after, changes: differences(before, after), at: new Date(), own: written.delete(id), by: "" };
  changedMeanwhile(collection, id, after);
}

/** Who made the change that is shown: the nodes that wrote it, as far as this one knows. */
const askForAuthor = oneAtATime(async (gateway) => {
  const asked = lastChange;
  if (!asked || asked.by) return;
  const { by, unknown } = await gateway.call("GET", gateway.lastChange(collection, asked.id));
  asked.by = [...by.map(nameOf), ...(unknown ? ["a node not known here"] : [])].join(" and ");
  soon();
});

const askForUnsynced = oneAtATime(async (gateway) => {
  const { collections } = await gateway.call("GET", "/api/unsynced");
  unsynced = collections;
  drawUnsynced();
});

// --- drawing -----------------------------------------------------------------------------------------------

const fresh = new Set();
let drawing = false;

function soon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(drawRows);
}

function widestColumns() {
  const uses = new Map();
  for (const document of documents.values()) {
    for (const name of Object.keys(document)) if (name !== "_id") uses.set(name, (uses.get(name) ?? 0) + 1);
  }
  return [...uses].sort(([a, many], [b, others]) => others - many || natural(a, b)).slice(0, COLUMNS).map(([name]) => name).sort(natural);
}

/** The share of the width that a column takes: by the text in the first rows. */
function widthOf(name) {
  const lengths = order.slice(0, 50).map((id) => cell(name, documents.get(id)[name]).length);
  return Math.min(26, Math.max(name.length, 7, ...lengths));
}

const space = () => h("tr", { class: "space", "aria-hidden": "true" }, h("td"));
const [above, below] = [space(), space()];

/** Have the rows that can be seen, in order. */
function drawRows() {
  drawing = false;
  const box = at("table");
  const body = box.querySelector("tbody");
  const wanted = widestColumns();
  if (wanted.join("\n") !== columns.join("\n") || !body.firstChild) {
    columns = wanted;
    rows.clear();
    drawHead();
    body.replaceChildren(above, below);
  }
  at("table").hidden = !order.length;
  const height = rows.values().next().value?.offsetHeight || 34;
  const first = Math.max(0, Math.floor(box.scrollTop / height) - SPARE);
  const last = Math.min(order.length, Math.ceil((box.scrollTop + box.clientHeight) / height) + SPARE);
  const shown = new Set(order.slice(first, last));
  for (const [id, row] of rows) {
    if (shown.has(id)) continue;
    row.remove();
    rows.delete(id);
  }
  let here = above.nextElementSibling;
  for (const id of shown) {
    const row = rows.get(id) ?? rowOf(documents.get(id));
    rows.set(id, row);
    if (row === here) here = here.nextElementSibling;
    else body.insertBefore(row, here);
  }
  above.firstChild.style.height = `${first * height}px`;
  below.firstChild.style.height = `${(order.length - last) * height}px`;
  box.querySelector("table").setAttribute("aria-rowcount", order.length + 1);
  fresh.clear();
  drawFoot();
}

function drawHead() {
  const widths = [14, ...columns.map(widthOf), 4].map((width) => {
    const column = document.createElement("col");
    column.style.width = `${width}%`;
    return column;
  });
  at("table").querySelector("colgroup").replaceChildren(...widths);
  const names = ["_id", ...columns].map((name) => h("th", { scope: "col" }, name));
  at("table").querySelector("thead").replaceChildren(h("tr", {}, names, h("td", { class: "narrow" })));
}

function rowOf(document) {
  const rest = Object.keys(document).filter((name) => name !== "_id" && !columns.includes(name));
  return h("tr", { class: fresh.has(document._id) ? "fresh" : "" },
    h("th", { scope: "row" }, h("button", { type: "button", class: "link", "data-action": document._id, title: document._id }, document._id)),
    columns.map((name) => h("td", { title: typeof document[name] === "object" ? JSON.stringify(document[name]) : null }, cell(name, document[name]))),
    h("td", { class: "narrow" }, rest.length ? `+${rest.length}` : ""));
}

function drawFoot() {
  at("documents-count").textContent = collection && !refused ? plural(documents.size, "document") : "";
  at("documents-empty").hidden = refused || documents.size > 0;
  at("documents-empty").textContent = selector ? "No document matches." : "No documents yet.";
  at("create").disabled = OWNED.includes(collection);
  drawUnsynced();
  at("last-change").hidden = !lastChange;
  if (!lastChange) return;
  const what = lastChange.removed ? "was removed" : lastChange.made ? "was added" : "changed";
  const who = `${lastChange.by ? ` by ${lastChange.by}` : ""}${lastChange.own ? ", from this page" : ""}`;
  render(at("last-change"), h("p", {}, h("b", {}, lastChange.id), ` ${what} at ${clock(lastChange.at)}${who}`), lastChange.removed ? null : diffList(lastChange.changes));
}

function drawUnsynced() {
  const count = Object.values(unsynced).reduce((sum, each) => sum + each, 0);
  const name = mesh.presence?.name ?? "this node";
  at("unsynced").textContent = count
    ? `${plural(count, "change")} unsynced (${Object.keys(unsynced).sort(natural).join(", ")}): only ${name} is known to hold ${count === 1 ? "it" : "them"}.`
    : mesh.presence?.peers.length ? `0 unsynced: others hold all that was written through ${name}.` : `0 unsynced; ${name} has no link: what changes now will wait.`;
  at("unsynced").classList.toggle("warn", count > 0);
}

// --- the collections ---------------------------------------------------------------------------------------

const askForCounts = oneAtATime(async (gateway) => {
  const { collections } = await gateway.call("GET", "/api/collections");
  if (gateway === mesh.gateway) drawCollections(collections);
});

function drawCollections(counts) {
  const names = [...new Set([...Object.keys(counts), ...(collection ? [collection] : [])])].sort((a, b) => OWNED.includes(a) - OWNED.includes(b) || natural(a, b));
  choices(at("collection"), names.map((name) => [name, `${name} (${counts[name] ?? 0})`]), collection ?? undefined);
  const first = PREFERRED.find((name) => names.includes(name)) ?? names[0];
  if (!collection && first) show(first);
}

function show(name) {
  collection = name;
  at("collection").value = name;
  follow();
}

at("collection").addEventListener("change", () => {
  selector = at("selector").value = "";
  show(at("collection").value);
});
at("find").addEventListener("submit", (event) => {
  event.preventDefault();
  selector = at("selector").value.trim();
  follow();
});
at("create").addEventListener("click", () => (collection ? edit(collection) : toast("There is no collection yet.")));
at("table").addEventListener("scroll", soon, { passive: true });
onAction(at("table"), "click", (id) => documents.has(id) && edit(collection, documents.get(id), OWNED.includes(collection)));

draws(() => {
  unsynced = {};
  follow();
  askForCounts();
}, "gateway");
draws(askForUnsynced, "presence");
draws(() => {
  if (mesh.stats) askForUnsynced();
  if (counted === mesh.stats?.documents) return;
  counted = mesh.stats?.documents;
  askForCounts();
}, "stats");
