// Elements without HTML: text from the mesh becomes text nodes, so nothing of it is ever read as markup.

export const at = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Make the children of `parent` like these, touching only what differs: focus and selections stay.
 *  Children are told apart by `data-key`, if they have one. */
export function render(parent, ...children) {
  const wanted = children.flat(9).filter((child) => child !== null && child !== undefined && child !== false);
  const keyed = new Map();
  for (const child of parent.children) if (child.dataset?.key) keyed.set(child.dataset.key, child);
  let here = parent.firstChild;
  for (const next of wanted) {
    const node = typeof next === "string" ? document.createTextNode(next) : next;
    const key = node.dataset?.key;
    const old = key ? keyed.get(key) : here;
    if (old && alike(old, node) && (key || !old.dataset?.key)) {
      if (old === here) here = here.nextSibling;
      else parent.insertBefore(old, here);
      sync(old, node);
    } else {
      parent.insertBefore(node, here);
    }
  }
  while (here) {
    const rest = here.nextSibling;
    here.remove();
    here = rest;
  }
}

const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName;

function sync(old, next) {
  if (old.isEqualNode(next)) return;
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  render(old, [...next.childNodes]);
  if (old.localName === "select" && old.dataset.value !== undefined) old.value = old.dataset.value;
}

/** Choose among `options` ([value, text] pairs), keeping what is chosen if it is still there. */
export function choices(select, options, chosen = select.value) {
  render(select, options.map(([value, text]) => h("option", { value }, text)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

/** Call `handle(value, element)` for clicks on what has `data-<name>` inside `parent`. */
export function onAction(parent, event, handle) {
  parent.addEventListener(event, (happened) => {
    const element = happened.target.closest("[data-action]");
    if (element && parent.contains(element) && (element.dataset.on ?? "click") === event) {
      handle(element.dataset.action, element, happened);
    }
  });
}

/** Show or hide a line that says what is wrong. */
export function problem(element, error) {
  element.hidden = !error;
  element.textContent = error ? error.message ?? String(error) : "";
}

/** A short message at the edge of the page. */
export function toast(text, kind = "") {
  const element = h("p", { class: `toast ${kind}` }, text);
  at("toasts").append(element);
  setTimeout(() => element.remove(), 6000);
}
