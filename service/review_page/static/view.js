/** What the station shows, as functions of its state. */

import { actionsFor, labelOf } from "./actions.js";
import { usableNumbers, verdictOn } from "./draft.js";
import htm from "./vendor/htm.mjs";
import { h, render as renderInto } from "./vendor/preact.mjs";

const html = htm.bind(h);
const SEVERITIES = ["", "subtle", "clear", "gross"];

export function render(station) {
  renderInto(html`<${StationView} station=${station} />`, station.root);
}

/** Let go of the focus after a click, so that the next Enter submits instead of clicking again. */
const clicked = (act) => (event) => {
  if (event.detail > 0) event.currentTarget.blur();
  act();
};

const Key = ({ name }) => html`<kbd aria-hidden="true">${labelOf(name)}</kbd>`;

/** A button for an action of the table of keys. */
function Do({ station, id, children, ...rest }) {
  const action = station.actions.find((one) => one.id === id);
  return html`<button type="button" title=${action.title} onClick=${clicked(() => station.run(action))} ...${rest}>
    ${children}${station.singleKeys && html`<${Key} name=${action.key} />`}
  </button>`;
}

function StationView({ station }) {
  const { task } = station;
  return html`
    <${Header} station=${station} />
    <${Notices} station=${station} />
    ${task ? html`<${Task} station=${station} task=${task} />` : html`<${Nothing} station=${station} />`}
    ${station.dialog === "help" && html`<${Help} station=${station} />`}
    ${station.dialog === "answer" && html`<${Answer} station=${station} last=${station.last} />`}
  `;
}

function Header({ station }) {
  const { count = 0, queue, outbox, offline, last } = station;
  const unsent = outbox.entries.length;
  return html`<header class="bar">
    <a class="home" href="../review">Review</a>
    <h1>${station.task?.lease.job === "label" ? "Label pictures" : "Judge pictures"}</h1>
    <p class="progress">
      ${count} done${queue.waiting !== null && html`, ${queue.waiting + queue.tasks.length} to do`}
    </p>
    ${last?.result?.model && html`<${LastAnswer} station=${station} result=${last.result} />`}
    <p class=${`connection ${offline ? "bad" : ""}`} role="status">
      ${offline ? "Offline. Your work is kept here. " : ""}${unsent > 0 && `${unsent} ${unsent === 1 ? "review waits" : "reviews wait"} to be sent`}
    </p>
    <${Do} station=${station} id="help" class="quiet">Help</>
  </header>`;
}

function Notices({ station }) {
  const { message, signedOut } = station;
  return html`<div class="notices">
    <p class=${`message ${message?.kind ?? ""}`} role="status">${message?.text}</p>
    ${signedOut &&
    html`<p class="message error" role="alert">
      You are signed out. <a href=${`sign-in?station=${station.job ?? ""}`}>Sign in again</a>; your work is kept in this browser.
    </p>`}
  </div>`;
}

/** One line about the last task. It exists only after the service has stored the verdict. */
function LastAnswer({ station, result }) {
  return html`<p class=${`last ${result.agrees ? "agrees" : "differs"}`}>
    <span>Last task: the model ${result.agrees ? "agrees" : "differs"}</span>
    <${Do} station=${station} id="answer" class="quiet">View</>
  </p>`;
}

const chosen = ({ choice }) => (choice === null ? "It chose none." : `It chose picture ${choice}.`);

function Nothing({ station }) {
  const { queue, offline } = station;
  if (!station.ready && !offline) return html`<p class="nothing" role="status">Fetching tasks …</p>`;
  return html`<div class="nothing">
    <p role="status">
      ${offline ? "The service cannot be reached. The page tries again by itself." : "No task is waiting for you."}
    </p>
    ${!offline && html`<p>New tasks appear here automatically. <a href="../review">Open the overview</a></p>`}
    ${queue.waiting === 0 && station.last && html`<${Do} station=${station} id="undo">Open the last review</>`}
  </div>`;
}

function Task({ station, task }) {
  return html`<div class="task">
    <div class="originals">
      <${Picture} station=${station} task=${task} number=${0} />
      <${Tools} station=${station} />
    </div>
    <div class="candidates">
      ${[1, 2, 3, 4].map((number) => html`<${Picture} key=${number} station=${station} task=${task} number=${number} />`)}
    </div>
    <nav class="tabs" aria-label="Pictures">
      ${task.draft.verdicts.map((one) => html`<${Tab} key=${one.number} station=${station} task=${task} number=${one.number} />`)}
    </nav>
    <${Verdict} station=${station} task=${task} />
    <${Finish} station=${station} task=${task} />
    <p class="unseen" role="status">Picture ${station.selected}: ${summaryOf(task, station.selected)}</p>
  </div>`;
}

const mounted = (station, task, number) => (pane) =>
  station.panes.mount(pane, task.pictures?.[number], task.previews?.[number]);

function Picture({ station, task, number }) {
  const isChosen = number === station.selected;
  const state = number === 0 ? "original" : stateOf(task.draft, number);
  return html`<figure class=${`picture ${state} ${isChosen ? "chosen" : ""}`}>
    <div class="pane" data-number=${number} ref=${mounted(station, task, number)}>
      ${!task.pictures && html`<p class="loading">${task.broken ? "This picture cannot be shown. Skip the task." : "Loading …"}</p>`}
      <span class="mark" hidden></span>
      ${number === 0 && html`<span class="label">Original</span>`}
    </div>
    ${number > 0 && html`<figcaption><${Choose} station=${station} task=${task} number=${number} /></figcaption>`}
  </figure>`;
}

function Choose({ station, task, number }) {
  return html`<button
    type="button"
    class="choose"
    aria-pressed=${String(number === station.selected)}
    onClick=${clicked(() => station.select(number))}
  >
    <b>${number}</b> <span>${summaryOf(task, number)}</span>
  </button>`;
}

/** On narrow screens one picture is shown at a time, and these choose it. */
function Tab({ station, task, number }) {
  const sign = { usable: "✓", unusable: "✕", best: "★", open: "" }[stateOf(task.draft, number)];
  return html`<button
    type="button"
    class=${`tab ${stateOf(task.draft, number)}`}
    aria-pressed=${String(number === station.selected)}
    aria-label=${`Picture ${number}: ${summaryOf(task, number)}`}
    onClick=${clicked(() => station.select(number))}
  >
    ${number} ${sign}
  </button>`;
}

function stateOf(draft, number) {
  const { usable } = verdictOn(draft, number);
  if (usable === null) return "open";
  if (!usable) return "unusable";
  return draft.best === number ? "best" : "usable";
}

function summaryOf({ lease, draft }, number) {
  const { usable, dimensions } = verdictOn(draft, number);
  if (usable === null) return "No verdict yet";
  if (usable) return draft.best === number ? "★ Best" : "✓ Usable";
  const wrong = lease.dimensions.filter(({ name }) => dimensions[name]).map(({ name, title }) => `${title} ${dimensions[name]}`);
  return `✕ ${wrong.join(", ") || "Not usable"}`;
}

function Tools({ station }) {
  const hold = station.actions.find((one) => one.id === "compare");
  const begin = () => station.panes.compare(station.selected);
  const end = () => station.panes.endCompare();
  const onKey = (act) => (event) => {
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    act();
  };
  return html`<div class="tools" role="group" aria-label="Looking">
    <button type="button" class="quiet" title=${hold.title} onPointerDown=${begin} onPointerUp=${end}
      onPointerLeave=${end} onPointerCancel=${end} onKeyDown=${onKey(begin)} onKeyUp=${onKey(end)} onBlur=${end}>
      Hold to compare${station.singleKeys && html`<${Key} name=${hold.key} />`}
    </button>
    <${Do} station=${station} id="zoom-out" class="quiet" aria-label="Zoom out">−</>
    <output class="scale" aria-label="Zoom">${Math.round(station.panes.view.scale * 100)} %</output>
    <${Do} station=${station} id="zoom-in" class="quiet" aria-label="Zoom in">+</>
    <${Do} station=${station} id="fit" class="quiet">Fit</>
  </div>`;
}

function Verdict({ station, task }) {
  const number = station.selected;
  const verdict = verdictOn(task.draft, number);
  const usable = usableNumbers(task.draft);
  return html`<section class="verdict" aria-labelledby="verdict-title">
    <div class="choices" role="group" aria-labelledby="verdict-title">
      <h2 id="verdict-title">Picture ${number}</h2>
      <${Do} station=${station} id="usable" class="usable" aria-pressed=${String(verdict.usable === true)}>Usable</>
      <${Do} station=${station} id="unusable" class="unusable" aria-pressed=${String(verdict.usable === false)}>Not usable</>
      <${Do} station=${station} id="best" class="best" aria-pressed=${String(task.draft.best === number)}
        disabled=${usable.length < 2 || !usable.includes(number)}>Best</>
    </div>
    <div class="dimensions">
      ${task.lease.dimensions.map((one) => html`<${Dimension} key=${one.name} station=${station} verdict=${verdict} dimension=${one} />`)}
    </div>
    <div class="comments">
      <p>
        <label for="comment">Comment on picture ${number}<${Hint} station=${station} id="comment" /></label>
        <textarea id="comment" rows="1" maxlength="4000" value=${verdict.comment}
          onInput=${(event) => station.comment(event.target.value)}></textarea>
      </p>
      <p>
        <label for="remark">Comment on the task<${Hint} station=${station} id="remark" /></label>
        <textarea id="remark" rows="1" maxlength="4000" value=${task.draft.comment}
          onInput=${(event) => station.remark(event.target.value)}></textarea>
      </p>
    </div>
  </section>`;
}

function Hint({ station, id }) {
  return station.singleKeys && html` <${Key} name=${station.actions.find((one) => one.id === id).key} />`;
}

function Dimension({ station, verdict, dimension }) {
  const { name, title, meaning } = dimension;
  const action = station.actions.find((one) => one.id === `dimension-${name}`);
  const current = verdict.dimensions[name] ?? 0;
  return html`<div class="dimension" role="group" aria-label=${`${title}: ${meaning}`}>
    <span class="name" title=${meaning}>
      ${action && station.singleKeys && html`<${Key} name=${action.key} />`} <b>${title}</b> <small>${meaning}</small>
    </span>
    <span class="severities">
      ${[1, 2, 3].map(
        (severity) => html`<button key=${severity} type="button" class=${`severity s${severity}`} title=${SEVERITIES[severity]}
          aria-label=${`${title}, severity ${severity}, ${SEVERITIES[severity]}`}
          aria-pressed=${String(current === severity)}
          onClick=${clicked(() => station.setSeverity(name, current === severity ? 0 : severity))}>${severity}</button>`,
      )}
    </span>
  </div>`;
}

function Finish({ station, task }) {
  return html`<footer class="finish">
    <${Do} station=${station} id="undo">Undo</>
    <${Do} station=${station} id="redo" disabled=${!task.future?.length}>Redo</>
    <${Do} station=${station} id="skip">Skip</>
    <${Do} station=${station} id="submit" class="submit">Submit</>
  </footer>`;
}

const opened = (dialog) => dialog && !dialog.open && dialog.showModal();

function Help({ station }) {
  const rows = actionsFor(station.task?.lease.dimensions ?? []);
  const groups = Map.groupBy(rows, (one) => one.group);
  return html`<dialog class="help" aria-labelledby="help-title" ref=${opened} onCancel=${() => station.close()}>
    <header><h2 id="help-title">Keys and gestures</h2><button type="button" onClick=${() => station.close()}>Close</button></header>
    <p>
      <label><input type="checkbox" checked=${station.singleKeys} onChange=${(event) => station.setSingleKeys(event.target.checked)} />
        Use single-character shortcuts. Switch this off if you dictate, or press keys by accident.</label>
    </p>
    <div class="groups">
      ${[...groups].map(
        ([group, actions]) => html`<section key=${group}>
          <h3>${group}</h3>
          <dl>
            ${actions.map((one) => html`<div key=${one.id} data-action=${one.id} data-key=${one.key}>
              <dt><${Key} name=${one.key} /><span class="unseen">${one.key}</span></dt>
              <dd>${one.title}</dd>
            </div>`)}
          </dl>
        </section>`,
      )}
    </div>
    <p>Mouse and touch: the wheel or two fingers zoom, dragging moves, a double click shows the spot large, and a long
      press on a picture overlays the original on it. No key acts while you write a comment, except Esc, which leaves it.</p>
  </dialog>`;
}

function Answer({ station, last }) {
  const { model, agrees } = last.result;
  return html`<dialog class="answer" aria-labelledby="answer-title" ref=${opened} onCancel=${() => station.close()}>
    <header>
      <h2 id="answer-title">${agrees ? "The model agrees with you" : "The model differs from you"}</h2>
      <${Do} station=${station} id="keep" autofocus class="submit">Keep my verdict</>
      <${Do} station=${station} id="change">Change my verdict</>
    </header>
    <p>${chosen(model)} Confidence ${Math.round(model.confidence * 100)} %${model.needs_review ? "; the answer needs review" : ""}.</p>
    <div class="cards">
      ${[0, 1, 2, 3, 4].map((number) => html`<${Card} key=${number} last=${last} number=${number} />`)}
    </div>
    ${model.reasoning && html`<h3>Its reasoning</h3><p class="reasoning">${model.reasoning}</p>`}
  </dialog>`;
}

function Card({ last: { task, body, result }, number }) {
  const name = number === 0 ? "Original" : `Picture ${number}`;
  const yours = number > 0 && body.verdicts[number - 1];
  const models = number > 0 && result.model.pictures.find((one) => one.number === number);
  const differs = models && models.usable !== yours.usable;
  return html`<figure class=${`card ${differs ? "differs" : ""}`}>
    ${task.urls && html`<img src=${task.urls[number]} alt=${name} />`}
    <figcaption>
      <b>${name}${number > 0 && result.model.choice === number ? ", the model's choice" : ""}</b>
      ${yours && html`<span>You: ${wordsFor(task, yours.usable, Object.keys(yours.dimensions))}</span>`}
      ${models && html`<span>Model: ${wordsFor(task, models.usable, models.dimensions)}</span>`}
    </figcaption>
  </figure>`;
}

function wordsFor({ lease }, usable, names) {
  if (usable) return "✓ usable";
  const titles = lease.dimensions.filter(({ name }) => names.includes(name)).map(({ title }) => title);
  return `✕ not usable${titles.length > 0 ? `: ${titles.join(", ")}` : ""}`;
}
