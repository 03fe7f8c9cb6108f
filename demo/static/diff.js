// What differs between two versions of a document, field by field; fields inside fields under a/b.

import { h } from "./dom.js";
import { cell } from "./format.js";

const isMap = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

export function flat(document, prefix = "") {
  const fields = new Map();
  for (const [name, value] of Object.entries(document ?? {})) {
    if (name === "_id" && !prefix) continue;
    if (isMap(value) && Object.keys(value).length) for (const [inner, leaf] of flat(value, `${prefix}${name}/`)) fields.set(inner, leaf);
    else fields.set(prefix + name, value);
  }
  return fields;
}

/** [{field, before, after}], with `undefined` for what is not there. */
export function differences(before, after) {
  const [old, now] = [flat(before), flat(after)];
  return [...new Set([...old.keys(), ...now.keys()])]
    .filter((field) => JSON.stringify(old.get(field)) !== JSON.stringify(now.get(field)))
    .sort()
    .map((field) => ({ field, before: old.get(field), after: now.get(field) }));
}

export const diffList = (changes) =>
  h("ul", {}, changes.map(({ field, before, after }) =>
    h("li", {},
      h("code", {}, field), " ",
      before === undefined ? null : h("del", {}, cell(field, before)), before === undefined || after === undefined ? null : " → ",
      after === undefined ? h("em", {}, " removed") : h("ins", {}, cell(field, after)))));
