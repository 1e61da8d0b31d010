/** The sign-in form and the sign-out button. The key leaves this page only in the request that exchanges it. */

const form = document.querySelector("#sign-in");
const error = document.querySelector("#error");
const out = document.querySelector("#sign-out");

async function send(path, method, body) {
  try {
    return await fetch(path, {
      method,
      headers: body && { "Content-Type": "application/json" },
      body: body && JSON.stringify(body),
    });
  } catch {
    return null;
  }
}

/** The sentence for a person whom the service did not sign in. `answer` is null if the service could not be reached. */
async function reasonOf(answer) {
  if (answer === null) return "The service could not be reached. Try again.";
  if (answer.status === 401) return "This key is unknown. Check that you copied all of it.";
  const problem = await answer.json().catch(() => null);
  if (/:(insufficient-scope|forbidden)$/.test(problem?.type))
    return "This key may not review. Ask the operator of the service for one with the scope review.";
  return problem?.detail ?? `The service answered ${answer.status}. Try again.`;
}

/** The station from which the person was signed out, with the same kind of tasks, or the overview. */
function nextPage() {
  const job = new URLSearchParams(location.search).get("station");
  if (job === null) return "../review";
  return job ? `station?job=${encodeURIComponent(job)}` : "station";
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await send("session", "POST", { key: form.elements.key.value.trim() });
  if (answer?.ok) location.assign(nextPage());
  else error.textContent = await reasonOf(answer);
  form.elements.key.focus();
});

out?.addEventListener("click", async () => {
  await send(out.dataset.session, "DELETE");
  location.assign(out.dataset.next);
});
