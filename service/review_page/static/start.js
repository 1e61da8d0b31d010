/** Starts the station, in one tab at a time: two tabs would send two verdicts on one task. */

import { Station } from "./station.js";

const root = document.querySelector("#station");
const taken = document.querySelector("#taken");
const LOCK = "screening-review-station";

function begin() {
  taken.hidden = true;
  new Station(root).start();
  return new Promise(() => {}); // holds the lock until the page ends
}

async function take() {
  try {
    await navigator.locks.request(LOCK, { steal: true }, begin);
  } catch {
    location.reload(); // another tab took over
  }
}

async function startIfAlone() {
  if (!navigator.locks) return begin(); // they exist on secure origins only
  try {
    return await navigator.locks.request(LOCK, { ifAvailable: true }, (lock) => {
      taken.hidden = lock !== null;
      return lock && begin();
    });
  } catch {
    return location.reload();
  }
}

document.querySelector("#take").addEventListener("click", take);
startIfAlone();
