/** The review station: connects the queue of tasks, the drafts, the panes and the keys, and renders the page. */

import { actionOf, actionsFor, isText } from "./actions.js";
import { ApiError, call } from "./api.js";
import * as drafts from "./draft.js";
import { Outbox } from "./outbox.js";
import { Panes } from "./panes.js";
import { freePictures } from "./pictures.js";
import { Queue } from "./queue.js";
import { Storage } from "./storage.js";
import { render } from "./view.js";

const ACTIVE_MS = 10 * 60_000; // without a touch of the page for so long, the leases may run out
const PAUSE_MS = 30_000; // a longer pause does not count as work
const DOUBLE_ENTER_MS = 300;
const RETRY_MS = 5_000;
const HISTORY = 100;

export class Station {
  constructor(root) {
    this.root = root;
    this.job = root.dataset.job || null;
    this.storage = new Storage(root.dataset.reviewer, this.job ?? "any");
    this.singleKeys = this.storage.read("single-keys", true);
    this.selected = 1;
    this.dialog = null;
    this.message = null;
    this.last = null; // the last submitted review: its task, its body and, once stored, the service's answer
    this.held = null;
    this.skipAsked = null; // the task for which the message asks to press Skip again
    this.touchedAt = Date.now();
    this.shownAt = 0;
    const changed = () => this.render();
    this.panes = new Panes(root, { select: (number) => this.select(number), changed });
    this.queue = new Queue(this.job, this.storage, {
      changed,
      reached: () => this.reached(),
      failed: (error) => this.failed(error),
      lost: (wasCurrent, kept) => this.lost(wasCurrent, kept),
      erased: (wasCurrent) => this.erased(wasCurrent),
      active: () => Date.now() - this.touchedAt < ACTIVE_MS,
    });
    this.outbox = new Outbox(this.storage, {
      changed,
      failed: (error) => this.failed(error),
      stored: (entry, result) => this.stored(entry, result),
      refused: (entry, error) => this.refused(entry, error),
    });
  }

  async start() {
    this.listen();
    this.render();
    await this.queue.start();
    this.outbox.send();
    const review = new URLSearchParams(location.search).get("review");
    if (review) await this.openReview(review);
    history.replaceState(null, "", location.pathname + (this.job ? `?job=${this.job}` : ""));
    this.ready = true;
    this.render();
  }

  listen() {
    addEventListener("keydown", (event) => this.onKeyDown(event));
    addEventListener("keyup", (event) => this.endHold(event));
    addEventListener("blur", () => this.endHold());
    for (const name of ["keydown", "pointerdown", "pointermove", "wheel"])
      addEventListener(name, () => this.touch(), { passive: true, capture: true });
    addEventListener("online", () => this.tryAgain());
    addEventListener("offline", () => this.failed(new ApiError(0, "")));
    addEventListener("pagehide", () => this.queue.save());
  }

  /** Count the time since the last touch as work, unless it was a pause. */
  touch() {
    const pause = Date.now() - this.touchedAt;
    this.touchedAt = Date.now();
    if (this.task && pause < PAUSE_MS) this.task.draft.seconds += pause / 1000;
    if (pause >= ACTIVE_MS) this.queue.beat().then(() => this.queue.fill());
  }

  get task() {
    return this.queue.current;
  }

  get actions() {
    return actionsFor(this.task?.lease.dimensions ?? []);
  }

  render() {
    render(this);
    // For tests and for support: how many further tasks can be shown at once.
    this.root.dataset.ahead = this.queue.tasks.slice(1).filter((task) => task.pictures).length;
    if (this.task?.pictures && this.shown !== this.task) this.showNew();
    this.panes.layout();
  }

  /** A task is on the page for the first time. */
  showNew() {
    this.shown = this.task;
    this.shownAt = Date.now();
    this.panes.original = this.task.pictures[0].cloneNode();
    this.panes.fit();
  }

  // Keys

  onKeyDown(event) {
    if (event.key === "Escape" && isText(event.target)) event.target.blur();
    const action = actionOf(this.actions, event, this.dialog ?? "judge", this.singleKeys);
    if (!action || (action.when && !action.when(this))) return;
    // Enter on a focused button presses this button.
    if (event.key === "Enter" && event.target.closest("button, a, summary, input")) return;
    event.preventDefault();
    if (event.repeat && !action.repeats) return;
    this.held = action.end ? { action, key: event.key } : this.held;
    this.run(action);
  }

  endHold(event) {
    if (!this.held || (event && event.key.toLowerCase() !== this.held.key.toLowerCase())) return;
    this.held.action.end(this);
    this.held = null;
  }

  /** Run an action of the table, if there is what it needs. */
  run(action) {
    const { task } = this;
    const has = { nothing: true, task, pictures: task?.pictures };
    if (has[action.needs]) action.run(this);
    this.render();
  }

  // Judging

  select(number) {
    this.selected = number;
    this.render();
  }

  step(by) {
    this.select(((this.selected - 1 + by + 4) % 4) + 1);
  }

  /** Change the draft; `mark` joins successive changes of one text into one step of undo. */
  edit(next, mark = null) {
    const { task } = this;
    if (next === task.draft) return;
    if (mark === null || task.mark !== mark) {
      task.history = [...(task.history ?? []), task.draft].slice(-HISTORY);
      task.future = [];
    }
    task.mark = mark;
    this.replaceDraft(next);
  }

  replaceDraft(draft) {
    this.task.draft = { ...draft, seconds: this.task.draft.seconds };
    this.message = this.skipAsked = null;
    this.queue.save();
    if (this.storage.failed) this.say("warning", "This browser stores no drafts: a reload would lose your work.");
    this.render();
  }

  setUsable(number = this.selected) {
    this.edit(drafts.setUsable(this.task.draft, number));
    const open = this.task.draft.verdicts.filter((one) => one.usable === null).map((one) => one.number);
    const next = open.find((one) => one > number) ?? open[0];
    if (next) this.select(next);
  }

  setUnusable(number = this.selected) {
    this.edit(drafts.setUnusable(this.task.draft, number));
  }

  raiseSeverity(name) {
    this.edit(drafts.raiseSeverity(this.task.draft, this.selected, name));
  }

  setSeverity(name, severity) {
    this.edit(drafts.setSeverity(this.task.draft, this.selected, name, severity));
  }

  clearVerdict() {
    this.edit(drafts.clearVerdict(this.task.draft, this.selected));
  }

  toggleBest() {
    const next = drafts.toggleBest(this.task.draft, this.selected);
    if (next === this.task.draft) this.say("info", "Mark at least two pictures usable before you choose the best.");
    this.edit(next);
  }

  comment(text) {
    this.edit(drafts.setComment(this.task.draft, this.selected, text), `comment-${this.selected}`);
  }

  remark(text) {
    this.edit({ ...this.task.draft, comment: text }, "remark");
  }

  focus(id) {
    this.root.querySelector(`#${id}`).focus();
  }

  undo() {
    const { task } = this;
    if (!task?.history?.length) return this.reopen();
    task.future = [...task.future, task.draft];
    task.mark = null;
    return this.replaceDraft(task.history.pop());
  }

  redo() {
    const { task } = this;
    if (!task.future?.length) return;
    task.history.push(task.draft);
    this.replaceDraft(task.future.pop());
  }

  // Tasks

  submit() {
    if (!this.task.history?.length && Date.now() - this.shownAt < DOUBLE_ENTER_MS) return;
    const problem = drafts.problemOf(this.task.draft);
    if (problem) {
      this.selected = problem.number;
      this.say("warning", problem.text);
      return;
    }
    const { task } = this;
    const { lease, draft, supersedes } = task;
    const body = drafts.submissionOf(task);
    // First kept, then taken from the queue: after a crash in between it is there twice, and sent under one id.
    this.outbox.add(body, { lease, draft, supersedes });
    this.queue.shift();
    this.setLast({ task, body, result: null });
    this.nextTask();
    this.queue.fill();
  }

  async skip() {
    if (isWork(this.task) && this.skipAsked !== this.task) {
      this.say("warning", "Press Skip again: your verdicts on this task would be lost.");
      this.skipAsked = this.task;
      return;
    }
    const task = this.queue.shift();
    this.nextTask();
    try {
      if (!task.supersedes && !task.lost) await call("DELETE", `leases/${task.lease.lease}`);
    } catch (error) {
      if (error.temporary || error.status === 401) this.failed(error);
    }
    freePictures(task);
    this.queue.fill();
  }

  nextTask() {
    this.selected = 1;
    this.message = this.skipAsked = null;
    this.panes.endCompare();
    this.render();
  }

  setLast(last) {
    if (this.last && this.last.task.urls !== last?.task.urls) freePictures(this.last.task);
    this.last = last;
  }

  /** Open the last review again, as a correction. */
  async reopen() {
    this.dialog = null;
    if (!this.last) return this.openNewest();
    const { task, body } = this.last;
    this.last = null;
    this.show({ ...task, draft: drafts.correctionOf(body), supersedes: body.id, history: [], future: [] });
    return undefined;
  }

  show(task) {
    this.queue.unshift(task);
    this.selected = 1;
    this.say("info", "You are changing a review that you have sent.");
  }

  async openNewest() {
    try {
      const { reviews } = await call("GET", "reviews?mine=true&limit=1");
      if (reviews.length > 0) await this.openReview(reviews[0].id);
      else this.say("info", "There is nothing to undo.");
    } catch (error) {
      this.failed(error);
    }
  }

  /** Open a stored review of this person as a correction. */
  async openReview(id) {
    if (this.queue.tasks.some((task) => task.supersedes === id)) return;
    try {
      const review = await call("GET", `reviews/${encodeURIComponent(id)}`);
      if (review.superseded) this.say("info", "You have corrected this review later. Open the newer one.");
      else this.show({ lease: review, draft: drafts.correctionOf(review), supersedes: id, history: [] });
    } catch (error) {
      this.failed(error);
    }
  }

  // News from the service

  stored(entry, result) {
    this.reached();
    if (this.last?.body.id === entry.body.id) this.last.result = result;
    if (result.late) this.say("info", "The review arrived after its time had ended. It is kept as late work.");
    this.count = (this.count ?? 0) + (entry.task.supersedes ? 0 : 1);
    this.render();
  }

  refused(entry, error) {
    if (this.last?.body.id === entry.body.id) this.setLast(null);
    if (error.erased) return this.say("info", "The last task was erased before your review arrived.");
    this.queue.unshift({ ...entry.task, draft: drafts.refusedOf(entry.task.draft, error.status), beatAt: 0 });
    this.say("error", `The service refused the review, which is open again: ${error.message}`);
  }

  erased(wasCurrent) {
    if (wasCurrent) this.say("info", "That task was erased. This is the next one.");
    this.queue.fill();
  }

  lost(wasCurrent, kept) {
    if (wasCurrent && kept)
      this.say("warning", "The time for this task is over. Your work is kept: you can finish and submit it.");
    else if (wasCurrent) this.say("info", "The time for that task was over. This is the next one.");
    this.queue.fill();
  }

  failed(error) {
    if (error.status === 0) this.offline = true;
    else if (error.status === 401 || error.status === 403) this.signedOut = true;
    else this.say("error", error.message);
    this.render();
    clearTimeout(this.retry);
    if (error.temporary) this.retry = setTimeout(() => this.tryAgain(), RETRY_MS);
  }

  /** A call succeeded. */
  reached() {
    this.offline = this.signedOut = false;
    this.render();
  }

  tryAgain() {
    this.outbox.send();
    this.queue.tryAgain();
  }

  say(kind, text) {
    this.message = { kind, text };
    this.skipAsked = null;
    this.render();
  }

  // Windows

  open(dialog) {
    this.dialog = dialog;
    this.render();
  }

  openAnswer() {
    if (this.last?.result?.model) this.open("answer");
    else this.say("info", "There is no answer of the model to show.");
  }

  close() {
    this.root.querySelector("dialog")?.close(); // gives the focus back to where it was
    this.dialog = null;
    this.render();
  }

  leave() {
    location.assign("../review");
  }

  setSingleKeys(on) {
    this.singleKeys = on;
    this.storage.write("single-keys", on);
    this.render();
  }
}

/**
 * Whether skipping a task would lose work. A correction begins with the verdicts of its review, so its history tells.
 * After a reload or a refusal it has none, and may have changes.
 */
function isWork({ draft, broken, supersedes, history }) {
  if (broken) return false;
  return supersedes ? history?.length !== 0 : drafts.isTouched(draft);
}
