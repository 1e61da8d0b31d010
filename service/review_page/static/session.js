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

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await send("session", "POST", { key: form.elements.key.value.trim() });
  if (answer?.ok) location.assign("../review");
  else if (answer?.status === 401 || answer?.status === 403) error.textContent = "This key is unknown, or it may not review.";
  else error.textContent = "The service could not be reached. Try again.";
  form.elements.key.focus();
});

out?.addEventListener("click", async () => {
  await send(out.dataset.session, "DELETE");
  location.assign(out.dataset.next);
});
