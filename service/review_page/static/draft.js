/** A draft holds what a person has decided about one task so far. Every function returns a new draft. */

export const NUMBERS = [1, 2, 3, 4];
const MAX_SEVERITY = 3;

/** A random UUID. crypto.randomUUID exists only on secure origins, and a service in a private network may be none. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** The id is made with the draft, so that every attempt to send it, also after a crash, sends the same one. */
export function emptyDraft() {
  const verdicts = NUMBERS.map((number) => ({ number, usable: null, dimensions: {}, comment: "" }));
  return { id: newId(), verdicts, best: null, comment: "", seconds: 0 };
}

/** A draft that corrects an earlier review: the same content under a new id. */
export function correctionOf({ verdicts, best, comment }) {
  const copies = verdicts.map((one) => ({ ...one, dimensions: { ...one.dimensions }, comment: one.comment ?? "" }));
  return { ...emptyDraft(), verdicts: copies, best: best ?? null, comment: comment ?? "" };
}

/**
 * The draft of a refused review, under a new id. After a conflict (409) it corrects the person's last review of the task,
 * whichever this is: the one that it was made from may have been corrected elsewhere.
 */
export function refusedOf(draft, status) {
  return { ...draft, id: newId(), correctsLast: status === 409 || draft.correctsLast };
}

export const verdictOn = (draft, number) => draft.verdicts[number - 1];

export const usableNumbers = (draft) => draft.verdicts.filter((one) => one.usable).map((one) => one.number);

export function isTouched(draft) {
  return draft.comment !== "" || draft.verdicts.some((one) => one.usable !== null || one.comment !== "");
}

function withVerdict(draft, number, change) {
  const verdicts = draft.verdicts.map((one) => (one.number === number ? { ...one, ...change } : one));
  const next = { ...draft, verdicts };
  const usable = usableNumbers(next);
  const best = usable.length >= 2 && usable.includes(next.best) ? next.best : null;
  return { ...next, best };
}

export const setUsable = (draft, number) => withVerdict(draft, number, { usable: true, dimensions: {} });

export const setUnusable = (draft, number) => withVerdict(draft, number, { usable: false });

export const clearVerdict = (draft, number) =>
  withVerdict(draft, number, { usable: null, dimensions: {}, comment: "" });

export const setComment = (draft, number, comment) => withVerdict(draft, number, { comment });

/** Set the severity of a dimension, or remove the dimension with 0. A dimension makes the picture unusable. */
export function setSeverity(draft, number, name, severity) {
  const { [name]: _, ...dimensions } = verdictOn(draft, number).dimensions;
  if (severity > 0) dimensions[name] = severity;
  return withVerdict(draft, number, { usable: false, dimensions });
}

/** Severity 1, 2, 3, none, 1 … with every call. */
export function raiseSeverity(draft, number, name) {
  const severity = verdictOn(draft, number).dimensions[name] ?? 0;
  return setSeverity(draft, number, name, (severity + 1) % (MAX_SEVERITY + 1));
}

/** Choose the best picture, or none with a second call. Without two usable pictures the draft stays as it is. */
export function toggleBest(draft, number) {
  const usable = usableNumbers(draft);
  if (usable.length < 2 || !usable.includes(number)) return draft;
  return { ...draft, best: draft.best === number ? null : number };
}

/** What is missing before the draft can be submitted: the first picture concerned and a sentence, or null. */
export function problemOf(draft) {
  for (const { number, usable, dimensions, comment } of draft.verdicts) {
    if (usable === null) return { number, text: `Picture ${number} has no verdict yet.` };
    if (!usable && Object.keys(dimensions).length === 0 && comment.trim() === "")
      return { number, text: `Picture ${number} is not usable: choose what is wrong, or write a comment.` };
  }
  return null;
}

/** The body of `POST /review/reviews`. Without `supersedes` it replaces the person's last review of the task. */
export function submissionOf({ lease, draft, supersedes }) {
  return {
    id: draft.id,
    lease: lease.lease,
    verdicts: draft.verdicts.map((one) => ({ ...one, comment: one.comment.trim() })),
    best: draft.best,
    comment: draft.comment.trim(),
    active_seconds: Math.round(draft.seconds),
    supersedes: draft.correctsLast ? null : (supersedes ?? null),
  };
}
