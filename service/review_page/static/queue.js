/** The tasks that this page holds: the current one and the next two, leased and with their pictures loaded. */

import { ApiError, call } from "./api.js";
import { emptyDraft, isTouched } from "./draft.js";
import { freePictures, loadPictures } from "./pictures.js";

const HELD = 3;
const POLL_MS = 20_000;
const BEATS_PER_LEASE = 4;

export class Queue {
  /**
   * @param {string|null} job kind of tasks wanted: "review", "label", or null for both
   * @param {import("./storage.js").Storage} storage
   * @param {{changed: () => void, reached: () => void, failed: (error: ApiError) => void,
   *   lost: (wasCurrent: boolean, kept: boolean) => void, erased: (wasCurrent: boolean) => void,
   *   active: () => boolean}} listener
   */
  constructor(job, storage, listener) {
    this.job = job;
    this.storage = storage;
    this.listener = listener;
    this.tasks = [];
    this.waiting = null;
  }

  get current() {
    return this.tasks[0];
  }

  async start() {
    this.tasks = this.storage.read("tasks", []).map((saved) => ({ ...saved, beatAt: 0 }));
    await this.beat();
    setInterval(() => this.beat(), 5_000);
    setInterval(() => this.fill(), POLL_MS);
    await this.fill();
  }

  save() {
    const saved = this.tasks.map(({ lease, draft, supersedes, lost }) => ({ lease, draft, supersedes, lost }));
    this.storage.write("tasks", saved);
  }

  /** Take a finished or skipped task from the front. */
  shift() {
    const task = this.tasks.shift();
    this.save();
    return task;
  }

  /** Put a task before the current one. */
  unshift(task) {
    this.tasks.unshift(task);
    this.save();
    this.loadAll();
  }

  remove(task) {
    this.tasks = this.tasks.filter((one) => one !== task);
    freePictures(task);
    this.save();
  }

  /** Lease until the page holds three tasks, and load their pictures. Calls while it runs are remembered. */
  async fill() {
    this.again = true;
    if (this.filling) return;
    this.filling = true;
    try {
      while (this.again) {
        this.again = false;
        await this.leaseMissing();
      }
    } catch (error) {
      this.listener.failed(error);
    } finally {
      this.filling = false;
    }
    this.listener.changed();
    this.loadAll();
  }

  async leaseMissing() {
    const count = HELD - this.tasks.length;
    if (count <= 0 || !this.listener.active()) return;
    const { leases, waiting } = await call("POST", "leases", { count, job: this.job });
    const held = new Set(this.tasks.map((task) => task.lease.lease));
    for (const lease of leases) {
      if (!held.has(lease.lease)) this.tasks.push({ lease, draft: emptyDraft(), beatAt: Date.now() });
    }
    this.waiting = waiting;
    this.save();
    this.listener.reached();
  }

  /** Load pictures in the order of the tasks: the next task must not take bandwidth from the current one. */
  async loadAll() {
    if (this.loading) return;
    this.loading = true;
    let task;
    while ((task = this.tasks.find((one) => !one.pictures && !one.broken))) {
      try {
        await loadPictures(task, task === this.current ? "high" : "low");
      } catch (error) {
        if (error instanceof ApiError && (error.temporary || error.status === 401)) break; // `fill` comes back
        task.broken = true;
      }
      if (!this.tasks.includes(task)) freePictures(task);
      this.listener.changed();
    }
    this.loading = false;
  }

  /** Ask for the current lease now, to learn whether the service can be reached again. */
  async tryAgain() {
    if (this.current) this.current.beatAt = 0;
    await this.beat();
    await this.fill();
  }

  /** Prolong the leases that need it, as long as the person is there. */
  async beat() {
    if (!this.listener.active()) return;
    const due = this.tasks.filter(
      ({ lease, lost, supersedes, beatAt }) =>
        !lost && !supersedes && Date.now() - beatAt > (lease.seconds * 1000) / BEATS_PER_LEASE,
    );
    await Promise.all(due.map((task) => this.beatOne(task)));
  }

  async beatOne(task) {
    task.beatAt = Date.now();
    try {
      await call("POST", `leases/${task.lease.lease}/heartbeat`);
      this.listener.reached();
    } catch (error) {
      if (error.temporary || error.status === 401) this.listener.failed(error);
      else if (error.erased) this.erase(task);
      else this.lose(task);
    }
  }

  /** The task and its pictures were erased, so there is nothing left to judge. */
  erase(task) {
    const wasCurrent = task === this.current;
    this.remove(task);
    this.listener.erased(wasCurrent);
  }

  lose(task) {
    const wasCurrent = task === this.current;
    const kept = isTouched(task.draft);
    task.lost = kept;
    if (kept) this.save();
    else this.remove(task);
    this.listener.lost(wasCurrent, kept);
  }
}
