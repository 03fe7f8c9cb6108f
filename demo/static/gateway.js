// One node of the mesh over HTTP: its gateway. All data of the page comes and goes through it.

import { mesh } from "./state.js";

const RETRY = 1000; // milliseconds until a stream that failed is opened anew

export class Gateway {
  /** `base`: the gateway's address, e.g. http://127.0.0.1:8080 */
  constructor(base) {
    this.base = base;
  }

  async call(method, path, body) {
    const options = { method };
    if (body !== undefined) {
      options.body = JSON.stringify(body);
      options.headers = { "content-type": "application/json" };
    }
    let answer;
    try {
      answer = await fetch(this.base + path, options);
    } catch {
      throw new Error(`No answer from ${this.base}: is the node running?`);
    }
    const read = answer.status === 204 ? null : await answer.json().catch(() => null);
    if (!answer.ok) throw new Error(read?.error?.message ?? `${answer.status} ${answer.statusText}`);
    return read;
  }

  document(collection, id) {
    return `/api/collections/${encodeURIComponent(collection)}/documents${id === undefined ? "" : `/${encodeURIComponent(id)}`}`;
  }

  lastChange(collection, id) {
    return `/api/collections/${encodeURIComponent(collection)}/last-changes/${encodeURIComponent(id)}`;
  }

  /** Upload a file; `progress` is told a fraction. Its token. */
  upload(file, progress) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest(); // fetch does not tell how much of a body is sent
      request.open("PUT", `${this.base}/blobs?name=${encodeURIComponent(file.name)}`);
      request.setRequestHeader("content-type", file.type || "application/octet-stream");
      request.responseType = "json";
      request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
      request.onload = () =>
        request.status < 300 ? resolve(request.response) : reject(new Error(request.response?.error?.message ?? `the upload was answered with ${request.status}`));
      request.onerror = () => reject(new Error("The upload broke off: the node does not answer."));
      request.send(file);
    });
  }

  /** Follow `subscriptions`; `take(of, kind, data)` for each event, `connected(is)` as the stream comes and
   *  goes, `failed(of, error)` for a subscription that is refused. Ends with `.close()`. */
  live(subscriptions, { take, connected, failed }) {
    const query = subscriptions.map((one) => `subscribe=${encodeURIComponent(JSON.stringify(one))}`).join("&");
    const following = { source: null, timer: null, closed: false };
    const open = () => {
      const source = new EventSource(`${this.base}/api/live?${query}`);
      following.source = source;
      source.addEventListener("open", () => connected?.(true));
      for (const kind of ["snapshot", "change"]) {
        source.addEventListener(kind, (event) => {
          const data = JSON.parse(event.data);
          take(data.of, kind, data);
        });
      }
      source.addEventListener("error", (event) => {
        if (event.data) {
          const data = JSON.parse(event.data);
          failed?.(data.of, data.error);
          return;
        }
        connected?.(false);
        if (source.readyState === EventSource.CLOSED && !following.closed) following.timer = setTimeout(open, RETRY);
      });
    };
    following.close = () => {
      following.closed = true;
      clearTimeout(following.timer);
      following.source.close();
    };
    open();
    return following;
  }
}

/** Calls `ask(gateway)` of the node that is looked through; calls while one is under way are one more after it.
 *  What fails is left out: the banner says that the node does not answer. */
export function oneAtATime(ask) {
  let asking = false;
  let again = false;
  return async () => {
    again = true;
    if (asking) return;
    asking = true;
    while (again) {
      again = false;
      await ask(mesh.gateway).catch(() => {});
    }
    asking = false;
  };
}
