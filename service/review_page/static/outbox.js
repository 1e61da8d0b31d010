/**
 * Reviews that are finished but not confirmed by the service. They are stored until it has them. A station also sends
 * those of the reviewer's other stations, which may never be opened again.
 */

import { call } from "./api.js";

const FIRST_DELAY_MS = 1_000;
const LAST_DELAY_MS = 30_000;

/** The reviews in a store. Each knows its store, from which it is dropped once the service has it. */
const entriesOf = (store) => store.read("outbox", []).map(({ body, task }) => ({ body, task, store }));

/** Remove a review from a store as it is now, because another tab may have written to it, and add others at the end. */
function rewrite(store, id, added = []) {
  const others = store.read("outbox", []).filter(({ body }) => body.id !== id);
  store.write("outbox", [...others, ...added]);
}

export class Outbox {
  /**
   * @param {import("./storage.js").Storage} storage
   * @param {{changed: () => void, failed: (error: Error) => void, stored: (entry: object, result: object) => void,
   *   refused: (entry: object, error: Error) => void}} listener
   */
  constructor(storage, listener) {
    this.storage = storage;
    this.listener = listener;
    this.entries = storage.all().flatMap(entriesOf);
    this.delay = FIRST_DELAY_MS;
  }

  /** Store a review and begin to send it. `task` is what is needed to open it again. */
  add(body, task) {
    this.entries.push({ body, task, store: this.storage });
    rewrite(this.storage, body.id, [{ body, task }]);
    this.send();
  }

  drop(entry) {
    this.entries = this.entries.filter((one) => one !== entry);
    rewrite(entry.store, entry.body.id);
  }

  /** Send everything, the oldest of each store first. While the service cannot be reached, try again with growing delays. */
  async send() {
    if (this.sending) return;
    this.sending = true;
    clearTimeout(this.timer);
    try {
      while (this.entries.length > 0) await this.sendOne(this.entries[0]);
      this.delay = FIRST_DELAY_MS;
    } catch {
      this.timer = setTimeout(() => this.send(), this.delay);
      this.delay = Math.min(2 * this.delay, LAST_DELAY_MS);
    } finally {
      this.sending = false;
    }
    this.listener.changed();
  }

  async sendOne(entry) {
    let result;
    try {
      result = await call("POST", "reviews", entry.body);
    } catch (error) {
      if (error.temporary || error.status === 401) {
        this.listener.failed(error);
        throw error;
      }
      this.drop(entry);
      this.listener.refused(entry, error);
      return;
    }
    this.drop(entry);
    this.listener.stored(entry, result);
  }
}
