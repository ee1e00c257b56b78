// Requests to the service. An error has the service's own sentence.

const API = "api/v1";

// What an answer without a sentence means: a proxy gave it, not the service.
const BY_STATUS = {
  413: "That is too large for the server: choose a smaller picture.",
  502: "The service does not answer: try again in a moment.",
  503: "The service does not answer: try again in a moment.",
  504: "The service took too long: try again.",
};

export class Problem extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(`${API}/${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("network", "The service does not answer: check that it runs, then try again.");
  }
  if (answer.status === 204) return null;
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const { kind = "service", message = BY_STATUS[answer.status] ?? "The service failed: try again." } = body.error ?? {};
    throw new Problem(kind, message);
  }
  return body;
}

function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    for (const one of [value].flat()) {
      if (one !== undefined && one !== null && one !== "") data.append(name, one);
    }
  }
  return data;
}

export const info = () => call("info");
export const login = (token) => call("session", { method: "POST", body: form({ token }) });
export const item = (id) => call(`items/${id}`);
export const upload = (image) => call("references", { method: "POST", body: form({ image }) });
export const items = (offset, limit, where, signal) =>
  call(`items?order=mixed&offset=${offset}&limit=${limit}${where && `&where=${encodeURIComponent(where)}`}`, { signal });
export const search = (fields, signal) =>
  call("search", { method: "POST", body: form(fields), signal });
export const thumbnail = (id, side = 320) => `${API}/items/${id}/thumbnail?side=${side}`;
