// Who gets which file, and how far each is.

import { at, h, onAction, render, toast } from "./dom.js";
import { PRIORITIES, duration, natural, percent, plural, scope, size } from "./format.js";
import { draws, mesh, nameOf, standing } from "./state.js";

const SHOWN = 30; // receipts of one distribution; the rest are told as a number
const opened = new Set(); // ids whose receipts are all shown
const toggled = new Map(); // ids that were folded or unfolded by hand

function draw() {
  const listed = [...mesh.distributions.values()].sort((a, b) => b.status.handle.started_at - a.status.handle.started_at);
  render(at("distributions"), listed.length ? listed.map((one, index) => card(one, index === 0)) : h("p", { class: "empty" }, "No file is distributed yet. Drop one on this page."));
}

const ARRIVED = 0.99; // all bytes are there, and the file is not delivered

const fractionOf = (receipt) => (receipt.status === "completed" ? 1 : receipt.total_bytes ? Math.min(ARRIVED, receipt.progress_bytes / receipt.total_bytes) : 0);

function overall({ node_statuses }) {
  const receipts = Object.values(node_statuses);
  const total = receipts.reduce((sum, receipt) => sum + receipt.total_bytes, 0);
  return total ? receipts.reduce((sum, receipt) => sum + fractionOf(receipt) * receipt.total_bytes, 0) / total : 0;
}

function verdict(status) {
  if (status.is_cancelled) return [status.superseded_by ? "superseded" : "cancelled", "warn"];
  if (status.is_expired && status.completed < status.total_targets) return ["expired", "warn"];
  if (!status.total_targets) return ["no targets", "warn"];
  if (status.completed === status.total_targets) return ["complete", "good"];
  if (status.failed) return [`${status.failed} failed`, "bad"];
  return [`${status.completed} of ${status.total_targets}`, "busy"];
}

function card({ status, name, size_bytes, publisher }, newest) {
  const { handle } = status;
  const id = handle.distribution_id;
  const receipts = Object.values(status.node_statuses).sort((a, b) => natural(nameOf(a.node_id), nameOf(b.node_id)));
  const [word, kind] = verdict(status);
  const done = overall(status);
  const priority = PRIORITIES[handle.priority];
  const title = name ?? handle.blob_hash.slice(0, 12);
  const shown = opened.has(id) ? receipts : receipts.slice(0, SHOWN);
  const going = !status.is_cancelled && !status.is_expired && status.completed < status.total_targets;
  const unfolded = toggled.get(id) ?? (newest || going);
  const button = (action, text, more) => h("button", { type: "button", "data-key": action, "data-action": action, "data-id": id, ...more }, text);
  return h("article", { "data-key": id, class: "distribution", "aria-label": title },
    h("header", {},
      h("h3", {}, title),
      h("span", { class: `tag priority-${priority}` }, priority),
      h("span", { class: "tag" }, scope(handle.scope, nameOf)),
      h("span", { class: `pill ${kind}` }, word)),
    h("p", { class: "muted" }, `${size_bytes === null ? "size unknown" : size(size_bytes)}${publisher ? ` from ${nameOf(publisher)}` : ""} · b3sum ${handle.blob_hash.slice(0, 16)}…`),
    h("div", { class: "overall" },
      h("progress", { max: "1", value: String(done), "aria-label": `All of ${title}`, class: kind }),
      h("span", { class: "amount" }, percent(done))),
    unfolded ? h("ul", { class: "receipts" }, shown.map((receipt) => line(receipt, id))) : null,
    h("div", { class: "buttons" },
      receipts.length ? button("fold", unfolded ? "Hide receipts" : plural(receipts.length, "receipt"), { "aria-expanded": String(unfolded), class: "quiet" }) : null,
      unfolded && receipts.length > shown.length ? button("more", `${receipts.length - shown.length} more receipts`) : null,
      going ? button("cancel", "Cancel", { class: "danger" }) : null,
      status.failed && !status.is_cancelled ? button("retry", "Retry the failed") : null));
}

function line(receipt, id) {
  const { node_id, status, progress_bytes, total_bytes, started_at, completed_at, error } = receipt;
  const fraction = fractionOf(receipt);
  const rate = receipt.rate || mesh.rates.get(`${id}/${node_id}`)?.rate || 0;
  const away = standing(node_id) === "apart" || standing(node_id) === "offline";
  let said = status;
  if (status === "transferring" && rate) said = `${size(rate)}/s, ${duration((total_bytes - progress_bytes) / rate)} left`;
  else if (status === "completed" && started_at && completed_at) said = `completed in ${Math.max(completed_at - started_at, 0).toFixed(1)} s`;
  if (error) said = error.startsWith(status) ? error : `${status}: ${error}`;
  else if (away && (status === "transferring" || status === "connecting")) said = `${status} when last heard of, no link from here`;
  else if (away && status === "pending") said = "pending, no link from here";
  return h("li", { "data-key": node_id, class: status },
    h("span", { class: "who" }, nameOf(node_id)),
    h("progress", { max: "1", value: String(fraction), "aria-label": `Progress of ${nameOf(node_id)}` }),
    h("span", { class: "amount" }, percent(fraction)),
    h("span", { class: "said" }, said));
}

onAction(at("distributions"), "click", async (action, element) => {
  const { id } = element.dataset;
  if (action === "fold") {
    toggled.set(id, element.getAttribute("aria-expanded") !== "true");
    return draw();
  }
  if (action === "more") {
    opened.add(id);
    return draw();
  }
  element.disabled = true;
  try {
    await mesh.gateway.call("POST", `/api/distributions/${encodeURIComponent(id)}/${action}`, {});
  } catch (error) {
    toast(error.message, "bad");
  }
  element.disabled = false;
});
draws(draw, "distributions", "nodes", "presence");
