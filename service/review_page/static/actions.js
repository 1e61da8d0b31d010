/**
 * The table of everything that a key does. The keyboard, the buttons and the list that `?` shows read this table alone.
 *
 * Scope says where a key acts: while judging, while the model's answer is shown, or while the keys are listed. An action
 * with `end` lasts for as long as its key is held. `repeats` allows the key to repeat while it is held. `needs` says what
 * must be there: a task with its pictures, a task, or nothing.
 */

const DIMENSION_KEYS = "qwertyui";
const PAN_STEP = 0.1;
const ZOOM_STEP = 1.25;

const JUDGE = "judge";
const judging = (group, rows) => rows.map((row) => ({ scope: JUDGE, group, needs: "pictures", ...row }));
const showing = (scope, group, rows) => rows.map((row) => ({ scope, group, needs: "nothing", ...row }));

const chooseActions = [1, 2, 3, 4].map((number) => ({
  id: `select-${number}`,
  key: `${number}`,
  title: `Select picture ${number}`,
  run: (station) => station.select(number),
}));

const dimensionActions = (dimensions) =>
  [...DIMENSION_KEYS].slice(0, dimensions.length).map((key, index) => ({
    id: `dimension-${dimensions[index].name}`,
    key,
    title:
      `Severity of ${dimensions[index].title}: press once for subtle (1), twice for clear (2), ` +
      "three times for gross (3), once more to remove it",
    run: (station) => station.raiseSeverity(dimensions[index].name),
  }));

const panAction = (key, direction, dx, dy) => ({
  id: `pan-${direction}`,
  key,
  title: `Look further ${direction}, when zoomed in`,
  repeats: true,
  when: (station) => station.panes.view.scale > 1,
  run: (station) => station.panes.pan(dx * PAN_STEP, dy * PAN_STEP),
});

/** @param {{name: string, title: string}[]} dimensions those of the current task */
export function actionsFor(dimensions) {
  return [
    ...judging("Pictures", [
      ...chooseActions,
      { id: "next", key: "j", title: "Next picture", run: (station) => station.step(1) },
      { id: "previous", key: "k", title: "Previous picture", run: (station) => station.step(-1) },
    ]),
    ...judging("Verdict on the selected picture", [
      { id: "usable", key: "a", title: "Usable", run: (station) => station.setUsable() },
      { id: "unusable", key: "x", title: "Not usable", run: (station) => station.setUnusable() },
      ...dimensionActions(dimensions),
      { id: "comment", key: "c", title: "Write a comment on it", run: (station) => station.focus("comment") },
      { id: "best", key: "b", title: "Mark or unmark as best", run: (station) => station.toggleBest() },
      { id: "clear", key: "Delete", title: "Remove the verdict", run: (station) => station.clearVerdict() },
    ]),
    ...judging("Looking", [
      {
        id: "compare",
        key: "o",
        title: "Hold: overlay the original on the selected picture",
        run: (station) => station.panes.compare(station.selected),
        end: (station) => station.panes.endCompare(),
      },
      { id: "zoom-in", key: "+", title: "Zoom in", repeats: true, run: (station) => station.panes.zoom(ZOOM_STEP) },
      { id: "zoom-out", key: "-", title: "Zoom out", repeats: true, run: (station) => station.panes.zoom(1 / ZOOM_STEP) },
      { id: "fit", key: "0", title: "Show the whole pictures", run: (station) => station.panes.fit() },
      panAction("ArrowLeft", "left", 1, 0),
      panAction("ArrowRight", "right", -1, 0),
      panAction("ArrowUp", "up", 0, 1),
      panAction("ArrowDown", "down", 0, -1),
    ]),
    ...judging("Task", [
      { id: "submit", key: "Enter", title: "Submit, and show the next task", run: (station) => station.submit() },
      { id: "undo", key: "z", title: "Undo; with nothing to undo, open the last review", needs: "nothing", run: (station) => station.undo() },
      { id: "redo", key: "Shift+z", title: "Redo", run: (station) => station.redo() },
      { id: "remark", key: "Shift+c", title: "Write a comment on the whole task", run: (station) => station.focus("remark") },
      { id: "skip", key: "s", title: "Skip the task; another person gets it. Press twice if you have judged it", needs: "task", run: (station) => station.skip() },
      { id: "answer", key: "v", title: "View the model's answer to your last task", needs: "nothing", run: (station) => station.openAnswer() },
      { id: "overview", key: "h", title: "Leave to the overview", needs: "nothing", run: (station) => station.leave() },
      { id: "help", key: "?", title: "List the keys", needs: "nothing", run: (station) => station.open("help") },
    ]),
    ...showing("answer", "While the model's answer is shown", [
      { id: "change", key: "e", title: "Change your verdict", run: (station) => station.reopen() },
      { id: "keep", key: "Enter", title: "Keep your verdict", run: (station) => station.close() },
    ]),
    ...showing("any", "Everywhere", [
      { id: "close", key: "Escape", title: "Close a window, or leave a comment field", run: (station) => station.close() },
    ]),
  ];
}

/** Name of a pressed key in the table: `a`, `Shift+z`, `Enter`, `?`; null with Ctrl, Alt or the system key. */
function nameOf({ key, shiftKey, ctrlKey, altKey, metaKey }) {
  if (ctrlKey || altKey || metaKey) return null;
  const letter = /^\p{L}$/u.test(key);
  if (key === "=") return "+"; // the unshifted key of `+` on an American keyboard
  return letter && shiftKey ? `Shift+${key.toLowerCase()}` : letter ? key.toLowerCase() : key;
}

export const isText = (element) => element.matches("textarea, input:not([type=checkbox]), select, [contenteditable]");

/**
 * The action of a key, or undefined.
 *
 * @param {string} scope what is shown: "judge", "answer" or "help"
 * @param {boolean} singleKeys whether keys that are one character act
 */
export function actionOf(actions, event, scope, singleKeys) {
  const name = nameOf(event);
  if (name === null || event.isComposing || isText(event.target)) return undefined;
  if (!singleKeys && name.replace("Shift+", "").length === 1) return undefined;
  return actions.find((action) => action.key === name && (action.scope === scope || action.scope === "any"));
}

const LABELS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc", Delete: "Del" };

/** A key as people write it: `Shift+Z`, `←`. */
export const labelOf = (key) => LABELS[key] ?? key.replace(/(^|\+)([a-z])$/, (_, plus, letter) => plus + letter.toUpperCase());
