// The HTTP API, with the token where the server asks for one.

let token = sessionStorage.getItem("mdrt-token") ?? "";

/** What the server said is wrong. */
export class Refused extends Error {
  constructor(message, status, after) {
    super(message);
    this.status = status;
    this.after = after;
  }
}

/** A response that is no error; asks for the token, and waits where the server is busy. */
async function call(path, options = {}, tries = 3) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is it still running?", 0);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  const after = Number(response.headers.get("Retry-After")) || 1;
  if (response.status === 401 && tries) {
    await askToken();
    return call(path, options, tries - 1);
  }
  if (response.status === 429 && tries) {
    await new Promise((wake) => setTimeout(wake, 1000 * after));
    options.signal?.throwIfAborted();
    return call(path, options, tries - 1);
  }
  throw new Refused(told.error ?? `The server answered ${response.status}.`, response.status);
}

function askToken() {
  const dialog = document.getElementById("ask-token");
  const field = document.getElementById("token");
  if (!dialog.open) dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => {
      token = field.value;
      sessionStorage.setItem("mdrt-token", token);
      field.value = "";
      done();
    }, { once: true });
  });
}

const json = (value) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(value),
});

export const model = async () => (await call("v1/model")).json();
export const heads = async () => (await call("v1/heads")).json();

/** Keep a picture; its handle and size. */
export async function openLook(file, name, signal) {
  const form = new FormData();
  form.append("image", file, name);
  return (await call("v1/looks", { method: "POST", body: form, signal })).json();
}

/** Ask a look; the record, with a map for the screen. */
export async function ask(look, question, signal) {
  return (await call(`v1/looks/${look}/segment`, { ...json(question), signal })).json();
}

/** Ask a look for a file; the file and its name. */
export async function download(look, question) {
  const response = await call(`v1/looks/${look}/segment`, json(question));
  const told = response.headers.get("Content-Disposition") ?? "";
  const name = decodeURIComponent(/filename\*=UTF-8''([^;]+)/.exec(told)?.[1] ?? "");
  return { file: await response.blob(), name };
}
