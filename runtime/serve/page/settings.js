// Heads and their settings: a form made of the heads' own declarations.

export class Settings extends EventTarget {
  constructor(heads) {
    super();
    this.heads = heads.filter((head) => head.offered);
    this.given = new Map(this.heads.map((head) => [head.name, {}]));
    this.select = document.getElementById("head");
    this.form = document.getElementById("settings");
    this.select.addEventListener("change", () => {
      this.#draw();
      this.dispatchEvent(new Event("change"));
    });
    document.getElementById("reset").addEventListener("click", () => {
      this.given.set(this.head.name, {});
      this.#draw();
      this.dispatchEvent(new Event("change"));
    });
    this.form.addEventListener("submit", (event) => event.preventDefault());
  }

  /** The heads of a kind to choose from, with one chosen. */
  offer(kind, chosen) {
    const fitting = this.heads.filter((head) => head.kind === kind);
    this.select.replaceChildren(...fitting.map((head) => new Option(head.name, head.name)));
    this.select.value = fitting.some((head) => head.name === chosen) ? chosen : fitting[0].name;
    this.#draw();
  }

  get head() {
    return this.heads.find((head) => head.name === this.select.value);
  }

  /** What was set, and late words where a head has them: other names then cost no pass. */
  get values() {
    const late = this.head.settings.some((s) => s.name === "words" && s.choices.includes("late"));
    return { ...(late && { words: "late" }), ...this.given.get(this.head.name) };
  }

  /** Settings instead of those before; tells nobody. */
  restore(name, values) {
    this.given.set(name, { ...values });
    this.#draw();
  }

  #draw() {
    const { head } = this;
    const own = this.given.get(head.name);
    document.getElementById("about").textContent = `${head.help}. Good for ${head.good_for}.`;
    const count = Object.keys(own).length;
    document.getElementById("changed").textContent =
      `${head.name}${count ? `, ${count} changed` : ""}`;
    document.getElementById("reset").hidden = !count;
    this.form.replaceChildren(...head.settings.map((entry) => this.#field(entry, own)));
  }

  #field(entry, own) {
    const row = document.createElement("div");
    row.className = "setting";
    if (entry.name in own) row.dataset.changed = "";
    const id = `set-${entry.name}`;
    const label = document.createElement("label");
    label.htmlFor = id;
    label.textContent = entry.name.replaceAll("_", " ");
    const help = document.createElement("p");
    help.id = `${id}-help`;
    help.textContent = entry.help;
    let usual = entry.recommended ?? entry.default;
    if (entry.name === "words" && entry.choices.includes("late")) usual = "late";
    const field = input(entry, own[entry.name] ?? usual);
    field.id = id;
    field.setAttribute("aria-describedby", help.id);
    field.addEventListener("change", () => {
      const value = read(entry, field);
      if (value === null || String(value) === shown(usual)) delete own[entry.name];
      else own[entry.name] = value;
      row.toggleAttribute("data-changed", entry.name in own);
      const count = Object.keys(own).length;
      document.getElementById("changed").textContent =
        `${this.head.name}${count ? `, ${count} changed` : ""}`;
      document.getElementById("reset").hidden = !count;
      this.dispatchEvent(new Event("change"));
    });
    row.append(label, field, help);
    return row;
  }
}

const shown = (value) => (value === null ? "all" : String(value));

function input(entry, value) {
  if (entry.type === "choice") {
    const field = document.createElement("select");
    field.append(...entry.choices.map((choice) => new Option(choice, choice)));
    field.value = value;
    return field;
  }
  const field = document.createElement("input");
  if (entry.type === "yes/no") {
    field.type = "checkbox";
    field.checked = value;
    return field;
  }
  field.type = "text"; // the server knows the range, and says it
  field.inputMode = entry.type === "strides" ? "text" : "decimal";
  field.title = entry.range;
  field.value = shown(value);
  return field;
}

function read(entry, field) {
  if (entry.type === "yes/no") return field.checked;
  return field.value.trim() || null; // the server reads texts as the command line does
}
