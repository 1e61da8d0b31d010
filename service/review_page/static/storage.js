/** What survives a reload or a crash: drafts with their leases, and reviews that the service has not confirmed yet. */

const JOBS = ["any", "review", "label"]; // "any" is for stations that show both kinds

/** Storage of one reviewer and one kind of job, so that people who share a browser do not see each other's drafts. */
export class Storage {
  constructor(reviewer, job) {
    this.reviewer = reviewer;
    this.job = job;
    this.prefix = `screening-review/${reviewer}/${job}/`;
    this.failed = false;
  }

  /** This storage and those of the reviewer's other kinds of job. */
  all() {
    const others = JOBS.filter((job) => job !== this.job);
    return [this, ...others.map((job) => new Storage(this.reviewer, job))];
  }

  read(name, fallback) {
    try {
      return JSON.parse(localStorage.getItem(this.prefix + name)) ?? fallback;
    } catch {
      return fallback;
    }
  }

  /** Write a value. `failed` tells afterwards whether the browser refused, as some do in private windows. */
  write(name, value) {
    try {
      localStorage.setItem(this.prefix + name, JSON.stringify(value));
      this.failed = false;
    } catch {
      this.failed = true;
    }
  }
}
