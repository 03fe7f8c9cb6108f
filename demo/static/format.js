// Numbers as people read them.

const CLOCK = new Intl.DateTimeFormat([], { timeStyle: "medium", hour12: false });
export const clock = (date) => CLOCK.format(date);
export const time = (seconds) => (seconds ? clock(new Date(seconds * 1000)) : "");
/** As people sort: node-2 before node-10. */
export const natural = new Intl.Collator("en", { numeric: true }).compare;
export const percent = (fraction) => `${Math.floor(fraction * 100)} %`;
export const short = (id) => id.slice(0, 8);

export const milliseconds = (seconds) =>
  seconds === null || seconds === undefined ? "…" : `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;

export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; bytes >= 999.5 && unit < units.length - 1; unit += 1) bytes /= 1000;
  return `${bytes.toFixed(unit && bytes < 9.95 ? 1 : 0)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** A field's value in a cell. */
export function cell(name, value) {
  if (value === undefined) return "";
  if (typeof value === "number" && name.endsWith("_at")) return time(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

export function scope(plain, nameOf) {
  if (plain.type === "all") return "every node";
  if (plain.type === "formation") return `formation ${plain.formation_id}`;
  if (plain.type === "nodes") return plain.node_ids.map(nameOf).join(", ");
  const wants = [];
  if (plain.min_gpu_gb) wants.push(`≥ ${plain.min_gpu_gb} GB GPU`);
  if (plain.min_storage_mb) wants.push(`≥ ${size(plain.min_storage_mb * 1e6)} free`);
  if (plain.cpu_arch) wants.push(plain.cpu_arch);
  return [...wants, ...(plain.tags ?? [])].join(", ");
}

export const PRIORITIES = { 4: "critical", 3: "high", 2: "normal", 1: "low" };
