// Names as chips.

export class Words extends EventTarget {
  constructor() {
    super();
    this.names = [];
    this.known = [];
    this.unknown = new Set();
    this.box = document.getElementById("chips");
    this.list = this.box.querySelector("ul");
    this.input = document.getElementById("words");
    this.suggestions = document.getElementById("suggestions");
    this.box.addEventListener("click", (event) => {
      if (event.target === this.box) this.input.focus();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && this.input.value.trim()) {
        event.preventDefault();
        this.#take();
      } else if (event.key === "Backspace" && !this.input.value && this.names.length) {
        this.remove(this.names.at(-1));
      }
    });
    this.input.addEventListener("input", () => {
      if (/[,;\n]/.test(this.input.value)) this.#take();
    });
    this.input.addEventListener("change", () => this.#take());
  }

  /** Names instead of those before; tells nobody. */
  set(names) {
    this.names = [...names];
    this.#draw();
  }

  add(...names) {
    const taken = new Set(this.names.map((name) => name.toLowerCase()));
    const before = this.names.length;
    for (const name of names.map((n) => n.trim().replace(/\s+/g, " "))) {
      if (name && !taken.has(name.toLowerCase())) {
        this.names.push(name);
        taken.add(name.toLowerCase());
      }
    }
    if (this.names.length > before) this.#changed();
  }

  remove(name) {
    this.names = this.names.filter((other) => other !== name);
    this.#changed();
  }

  /** Names that the model never saw. */
  mark(unknown) {
    this.unknown = new Set(unknown);
    this.#draw();
  }

  #take() {
    const given = this.input.value.split(/[,;\n]/);
    this.input.value = "";
    this.add(...given);
  }

  #changed() {
    this.#draw();
    this.dispatchEvent(new Event("change"));
  }

  #draw() {
    const had = document.activeElement?.closest?.("#chips li, #suggestions li");
    this.list.replaceChildren(...this.names.map((name) => {
      const chip = document.createElement("li");
      chip.className = "chip";
      const text = document.createElement("span");
      text.textContent = name;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "×";
      button.setAttribute("aria-label", `Remove ${name}`);
      button.addEventListener("click", () => this.remove(name));
      if (this.unknown.has(name)) {
        chip.dataset.unknown = "";
        chip.title = "The model never saw this name";
      }
      chip.append(text, button);
      return chip;
    }));
    const taken = new Set(this.names.map((name) => name.toLowerCase()));
    this.suggestions.replaceChildren(...this.known.filter((n) => !taken.has(n)).map((name) => {
      const entry = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.setAttribute("aria-label", `Add ${name}`);
      button.addEventListener("click", () => this.add(name));
      entry.append(button);
      return entry;
    }));
    if (had) this.input.focus(); // what was pressed is gone
  }
}
