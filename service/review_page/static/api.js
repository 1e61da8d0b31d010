/** Calls of the review API. Every failure becomes an ApiError, so that callers decide by its status alone. */

const TIMEOUT_MS = 30_000;

export class ApiError extends Error {
  /**
   * @param {number} status HTTP status; 0 if the service could not be reached
   * @param {string} detail sentence for the reviewer
   */
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }

  /** Whether the same call may succeed later without any change. */
  get temporary() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
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
  if (!response.ok) throw new ApiError(response.status, await detailOf(response));
  return response;
}

async function detailOf(response) {
  try {
    const problem = await response.json();
    return problem.detail || problem.title;
  } catch {
    return `The service answered ${response.status}.`;
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
