// One document in a dialog: made, changed or removed through the node that the page looks through.

import { at, problem, toast } from "./dom.js";
import { differences } from "./diff.js";
import { mesh } from "./state.js";

const dialog = at("editor");
let open = null; // {collection, id, document}

/** Ids of documents that were written from this page, until they are heard of. */
export const written = new Set();

/** Edit `document`; without one, make a new one. */
export function edit(collection, document = null, readOnly = false) {
  open = { collection, id: document?._id, document };
  const shown = document ? { ...document } : { title: "" };
  delete shown._id;
  at("editor-title").textContent = document ? `${collection}/${document._id}` : `New document in ${collection}`;
  note(
    readOnly ? "Only its owner writes this document."
      : document ? "Only the fields that you change are written: what others change meanwhile stays."
        : "An _id is made up if you give none.");
  at("editor-text").value = JSON.stringify(shown, null, 2);
  at("editor-text").readOnly = readOnly;
  at("editor-save").hidden = readOnly;
  at("editor-delete").hidden = !document || readOnly;
  problem(at("editor-error"), null);
  dialog.showModal();
}

const note = (text) => (at("editor-note").textContent = text);

/** The documents in the table have changed: if the open one has, say so. */
export function changedMeanwhile(collection, id, document) {
  if (!dialog.open || open.collection !== collection || open.id !== id) return;
  if (!document) return note("It was removed meanwhile. Saving makes it anew.");
  const changes = differences(open.document, document);
  if (changes.length) note(`Changed meanwhile: ${changes.map(({ field }) => field).join(", ")}. Your changes are merged with that.`);
}

function parsed() {
  let given;
  try {
    given = JSON.parse(at("editor-text").value);
  } catch (error) {
    throw new Error(`That is no JSON: ${error.message}`);
  }
  if (given === null || typeof given !== "object" || Array.isArray(given)) throw new Error("A document is a JSON object, {…}.");
  return given;
}

async function save(event) {
  event.preventDefault();
  const { gateway } = mesh;
  const { collection, id, document } = open;
  try {
    const given = parsed();
    if (!document) written.add((await gateway.call("POST", gateway.document(collection), given))._id);
    else {
      const changes = differences(document, given);
      const path = gateway.document(collection, id);
      if (changes.length) written.add(id);
      if (changes.some(({ after }) => after === undefined)) await gateway.call("PUT", path, { ...given, _id: id });
      else if (changes.length) {
        const names = new Set(changes.map(({ field }) => field.split("/")[0]));
        await gateway.call("PATCH", path, Object.fromEntries(Object.entries(given).filter(([name]) => names.has(name))));
      }
    }
    dialog.close();
  } catch (error) {
    problem(at("editor-error"), error);
  }
}

async function remove() {
  const { gateway } = mesh;
  written.add(open.id);
  try {
    await gateway.call("DELETE", gateway.document(open.collection, open.id));
    toast(`${open.id} is removed, everywhere.`);
    dialog.close();
  } catch (error) {
    problem(at("editor-error"), error);
  }
}

dialog.querySelector("form").addEventListener("submit", save);
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
at("editor-delete").addEventListener("click", remove);
