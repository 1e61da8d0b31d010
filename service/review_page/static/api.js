/** Calls of the review API. Every failure becomes an ApiError, which says what callers need to know about it. */

const TIMEOUT_MS = 30_000;
const ERASED = ["urn:screening:problem:lease-not-found", "urn:screening:problem:review-not-found"];

export class ApiError extends Error {
  /**
   * @param {number} status HTTP status; 0 if the service could not be reached
   * @param {string} detail sentence for the reviewer
   * @param {string} type the problem's type; empty if the service did not answer itself
   */
  constructor(status, detail, type = "") {
    super(detail);
    this.status = status;
    this.type = type;
  }

  /** Whether the service says that what the call is about does not exist any more. */
  get erased() {
    return ERASED.includes(this.type);
  }

  /** Whether the same call may succeed later without any change. Another 404 is that of a proxy, or of a wrong route. */
  get temporary() {
    const { status } = this;
    return status === 0 || status === 408 || status === 429 || status >= 500 || (status === 404 && !this.erased);
  }
}

/** Send a request in the name of the person whose page this is: in a second tab, another one may sign in meanwhile. */
async function request(path, options = {}) {
  const headers = { ...options.headers, "X-Reviewer": document.querySelector("#station").dataset.reviewer };
  let response;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS), ...options, headers });
  } catch {
    throw new ApiError(0, "The service cannot be reached.");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const unexplained = `The service answered ${response.status}.`;
  try {
    const { detail, title, type } = await response.json();
    return new ApiError(response.status, detail || title || unexplained, type);
  } catch {
    return new ApiError(response.status, unexplained);
  }
}

/** Call the API and return the decoded JSON, or null for an empty answer. */
export async function call(method, path, body) {
  const options = { method };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const response = await request(path, options);
  try {
    return response.status === 204 ? null : await response.json();
  } catch {
    throw new ApiError(0, "The answer of the service was cut off.");
  }
}

/** Download a picture completely. */
export async function download(url, priority) {
  const response = await request(url, { priority, signal: AbortSignal.timeout(10 * TIMEOUT_MS) });
  try {
    return await response.blob();
  } catch {
    throw new ApiError(0, "The download of a picture was cut off.");
  }
}
