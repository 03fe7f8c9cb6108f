// The demo's supervisor: processes and scenarios, and nothing of what is in the mesh.

import { note } from "./log.js";
import { toast } from "./dom.js";
import { changed, mesh } from "./state.js";

let told = 0; // events of the supervisor that are in the log

export function followSupervisor() {
  const events = new EventSource("/demo/events");
  events.addEventListener("state", (event) => {
    mesh.supervisor = JSON.parse(event.data);
    const { log } = mesh.supervisor;
    if (log.at(-1)?.number < told) told = 0; // another supervisor
    for (const { number, at, text, kind } of log) {
      if (number > told) note(text, kind, new Date(at * 1000));
      told = Math.max(told, number);
    }
    changed("supervisor");
  });
  events.addEventListener("error", () => {
    if (events.readyState === EventSource.CLOSED) setTimeout(followSupervisor, 1000);
    if (mesh.supervisor) Object.assign(mesh.supervisor, { gone: true, playing: null });
    changed("supervisor");
  });
}

/** Have it do something; what goes wrong is shown. */
export async function order(path, body = {}) {
  try {
    const answer = await fetch(`/demo/${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error ?? `${answer.status} ${answer.statusText}`);
  } catch (error) {
    toast(error instanceof TypeError ? "The demo does not answer: is it still running?" : error.message, "bad");
  }
}
