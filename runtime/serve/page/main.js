// What the page does: a picture and a question in, a mask and its legend out.

import * as server from "./server.js";
import { Settings } from "./settings.js";
import { Stage } from "./stage.js";
import { Words } from "./words.js";

const EXAMPLES = [
  ["valley", ["sky", "mountain", "sand", "water", "house"]],
  ["cottage", ["sky", "cloud", "grass", "tree", "house"]],
  ["harbour", ["sky", "mountain", "water", "boat"]],
];
const VIEW = 1024; // pixels of the mask's longer side
const PATIENCE = 60; // ms between the last change and the question
const REMEMBERED = 24;

const by = (id) => document.getElementById(id);
const stage = new Stage();
const words = new Words();
const past = [];
let settings, picture = null, asking = null, waiting = 0, last = null;

const mode = () => document.querySelector("[name=mode]:checked").value;

function question() {
  const asked = { head: settings.head.name, settings: settings.values };
  if (mode() === "named") asked.classes = [...words.names];
  else asked.segments = by("auto").checked ? "auto" : Number(by("count").value);
  return asked;
}

/** Ask soon: further changes come with this one. */
function later() {
  clearTimeout(waiting);
  waiting = setTimeout(now, PATIENCE);
}

async function now() {
  asking?.abort();
  if (!picture) return;
  if (mode() === "named" && !words.names.length) {
    stage.clear();
    legend(null);
    tell("");
    return;
  }
  asking = new AbortController();
  const { signal } = asking;
  const asked = question();
  const of = picture;
  by("busy").hidden = false;
  const start = performance.now();
  try {
    const record = await askKept(of, { ...asked, view: VIEW }, signal);
    const took = performance.now() - start;
    if (signal.aborted) return;
    await stage.found(record);
    last = { picture: of, asked };
    words.mark(record.unknown);
    legend(record);
    remember(of, asked);
    complain(null);
    const found = record.classes.filter((c) => c.pixels).length;
    const what = mode() === "named" ? `${found} of ${record.classes.length} found` : `${found} segments`;
    tell(`${what} in ${took < 1000 ? `${Math.round(took)} ms` : `${(took / 1000).toFixed(1)} s`}`);
    by("hint").textContent = record.unknown.length
      ? `${model.model} never saw ${record.unknown.join(", ")}.`
      : words.names.length === 1 && mode() === "named" ? "One name alone takes all; add what else is there." : "";
  } catch (error) {
    if (signal.aborted) return;
    complain(error.message);
  } finally {
    if (asking?.signal === signal) by("busy").hidden = true;
  }
}

/** Ask the picture's look; the server may have let it go, then the picture is sent again. */
async function askKept(of, asked, signal, send = server.ask) {
  const known = of.look;
  of.look ??= (await server.openLook(of.file, of.name, signal)).look;
  try {
    return await send(of.look, { ...asked, name: of.name }, signal);
  } catch (error) {
    if (error.status !== 404 || !known) throw error;
    of.look = null;
    return askKept(of, asked, signal, send);
  }
}

async function open(file, name, names) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    complain(`${name} is no picture that this browser can show; try PNG, JPEG or WebP.`);
    return;
  }
  complain(null);
  show({ file, name, bitmap, look: null });
  if (names) words.set(names);
  now();
}

function show(of) {
  picture = of;
  by("under").hidden = false;
  stage.show(of.bitmap, of.name);
  legend(null);
  tell("");
  by("download").disabled = true;
}

function legend(record) {
  const classes = [...(record?.classes ?? [])].sort((a, b) => b.share - a.share);
  const rows = classes.filter((c) => c.pixels).map((c) => {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.label = c.label;
    button.setAttribute("aria-pressed", String(stage.alone === c.label));
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.setProperty("--colour", c.colour);
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = c.name;
    const share = document.createElement("span");
    share.className = "share";
    share.textContent = percent(c.share);
    const meter = document.createElement("meter");
    meter.max = 1;
    meter.value = Math.max(0, c.confidence);
    meter.title = `confidence ${c.confidence.toFixed(2)}`;
    button.setAttribute("aria-label", `${c.name}, ${percent(c.share)}, ${meter.title}`);
    button.append(swatch, name, share, meter);
    button.addEventListener("click", () => stage.isolate(stage.alone === c.label ? null : c.label));
    row.append(button);
    return row;
  });
  const absent = classes.filter((c) => !c.pixels).map((c) => c.name);
  if (absent.length) {
    const row = document.createElement("li");
    row.className = "absent";
    row.textContent = `not found: ${absent.join(", ")}`;
    rows.push(row);
  }
  if (record?.void) {
    const row = document.createElement("li");
    row.className = "absent";
    row.textContent = `none of these: ${percent(record.void / (record.size[0] * record.size[1]))}`;
    rows.push(row);
  }
  by("legend").replaceChildren(...rows);
  by("nothing").hidden = rows.length > 0;
  by("columns").hidden = !rows.length;
  by("download").disabled = !record;
}

const percent = (share) => (share < 0.005 ? "<1 %" : `${Math.round(100 * share)} %`);

function remember(of, asked) {
  const text = asked.classes?.join(", ") ?? `${asked.segments} segments`;
  const key = JSON.stringify([of.name, asked]);
  const known = past.findIndex((entry) => entry.picture === of && entry.key === key);
  if (known >= 0) past.splice(known, 1);
  past.unshift({ picture: of, asked, key, text, canvas: stage.thumbnail() });
  past.length = Math.min(past.length, REMEMBERED);
  by("history").replaceChildren(...past.map((entry, index) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "tile";
    button.title = `${entry.picture.name}: ${entry.text}`;
    button.setAttribute("aria-label", `${entry.picture.name}: ${entry.text}`);
    if (index === 0) button.setAttribute("aria-current", "true");
    button.append(entry.canvas);
    button.addEventListener("click", () => recall(entry));
    item.append(button);
    return item;
  }));
}

function recall({ picture: of, asked }) {
  if (of !== picture) show(of);
  const kind = asked.classes ? "named" : "unnamed";
  document.querySelector(`[name=mode][value=${kind}]`).checked = true;
  modes(asked.head);
  settings.restore(asked.head, asked.settings);
  if (asked.classes) words.set(asked.classes);
  else {
    by("auto").checked = asked.segments === "auto";
    if (asked.segments !== "auto") by("count").value = asked.segments;
    counts();
  }
  now();
}

function modes(head) {
  const kind = mode();
  by("named").hidden = kind !== "named";
  by("unnamed").hidden = kind !== "unnamed";
  settings.offer(kind, head);
  counts();
}

function counts() {
  const fixed = settings.head.counts;
  if (!fixed) by("auto").checked = true;
  by("auto").disabled = !fixed;
  by("count").disabled = by("auto").checked;
  by("counted").textContent = by("auto").checked ? "auto" : by("count").value;
}

function complain(message) {
  by("error").hidden = !message;
  by("error").querySelector("p").textContent = message ?? "";
}

function tell(text) {
  by("status").textContent = text;
}

/** What the chosen format is. */
function written() {
  by("written").textContent = model.formats[by("format").value];
}

async function save() {
  const format = by("format").value;
  by("download").disabled = true;
  try {
    const asked = { ...last.asked, format };
    const got = await askKept(last.picture, asked, undefined, server.download);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(got.file);
    link.download = got.name || `picture.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    tell(`${link.download} was made`);
  } catch (error) {
    complain(error.message);
  } finally {
    by("download").disabled = false;
  }
}

const model = await server.model().catch((error) => { complain(error.message); throw error; });
settings = new Settings(await server.heads());
by("model").textContent = `${model.model} · mdrt ${model.mdrt}`;
by("format").append(...Object.keys(model.formats).map((name) => new Option(name)));
by("format").value = "overlay";
written();
words.known = model.knows;
words.set([]);
modes();

by("examples").append(...EXAMPLES.map(([name, names]) => {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tile";
  button.setAttribute("aria-label", `Example: ${name}`);
  const image = new Image();
  image.src = `page/examples/${name}.webp`;
  image.alt = "";
  button.append(image);
  button.addEventListener("click", async () => {
    const file = await (await fetch(image.src)).blob();
    open(file, `${name}.webp`, mode() === "named" ? names : null);
  });
  item.append(button);
  return item;
}));

words.addEventListener("change", later);
settings.addEventListener("change", () => { counts(); later(); });
for (const radio of document.querySelectorAll("[name=mode]")) {
  radio.addEventListener("change", () => { modes(); later(); });
}
by("auto").addEventListener("change", () => { counts(); later(); });
by("count").addEventListener("input", () => { counts(); later(); });
by("format").addEventListener("change", written);
by("download").addEventListener("click", save);
by("error").querySelector("button").addEventListener("click", () => complain(null));

stage.addEventListener("under", ({ detail }) => {
  for (const button of document.querySelectorAll("#legend button")) {
    button.toggleAttribute("data-hover", Number(button.dataset.label) === detail?.label && detail.label !== null);
  }
});
stage.addEventListener("alone", ({ detail }) => {
  for (const button of document.querySelectorAll("#legend button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.label) === detail && detail !== null));
  }
});
stage.addEventListener("read", ({ detail }) => tell(detail));

for (const button of document.querySelectorAll("[data-open]")) {
  button.addEventListener("click", () => by("file").click());
}
by("file").addEventListener("change", () => {
  const [file] = by("file").files;
  by("file").value = "";
  if (file) open(file, file.name);
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((f) => f.type.startsWith("image/"));
  if (file) {
    event.preventDefault();
    open(file, file.name);
  }
});
let over = 0; // drags enter and leave every element on their way
addEventListener("dragenter", () => document.body.classList.toggle("dragging", ++over > 0));
addEventListener("dragleave", () => document.body.classList.toggle("dragging", --over > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  over = 0;
  document.body.classList.remove("dragging");
  const [file] = event.dataTransfer?.files ?? [];
  if (file) open(file, file.name);
});
