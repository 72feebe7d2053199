// The picture with its mask: drawn, hovered over, compared.

const MOST = 2048; // pixels of the drawn picture's longer side
const VEIL = [12, 14, 18];
const VOID = 65535;

export class Stage extends EventTarget {
  constructor() {
    super();
    const by = (id) => document.getElementById(id);
    this.frame = by("stage");
    this.layers = by("layers");
    this.photo = by("photo");
    this.mask = by("mask");
    this.tip = by("tip");
    this.cross = by("cross");
    this.alone = null;
    this.result = null;
    this.at = null;
    new ResizeObserver(() => this.#fit()).observe(this.frame);
    by("split").addEventListener("input", (event) => {
      this.layers.style.setProperty("--split", `${event.target.value}%`);
    });
    by("opacity").addEventListener("input", (event) => {
      this.layers.style.setProperty("--opacity", event.target.value / 100);
    });
    this.layers.addEventListener("pointermove", (event) => this.#hover(event));
    this.layers.addEventListener("pointerleave", () => this.#point(null));
    this.layers.addEventListener("click", (event) => {
      if (event.target.id !== "split") this.#choose();
    });
    this.layers.addEventListener("keydown", (event) => this.#key(event));
    this.layers.addEventListener("blur", () => { this.cross.hidden = true; });
  }

  /** Show a picture; an ImageBitmap. */
  show(bitmap, name) {
    const scale = Math.min(1, MOST / Math.max(bitmap.width, bitmap.height));
    this.photo.width = Math.round(bitmap.width * scale);
    this.photo.height = Math.round(bitmap.height * scale);
    this.photo.getContext("2d").drawImage(bitmap, 0, 0, this.photo.width, this.photo.height);
    this.size = [bitmap.height, bitmap.width];
    this.name = name;
    this.clear();
    document.getElementById("empty").hidden = true;
    this.layers.hidden = false;
    delete this.frame.dataset.empty;
    this.#fit();
  }

  /** Without a mask. */
  clear() {
    this.result = null;
    this.alone = null;
    this.mask.width = this.mask.height = 1;
    this.layers.setAttribute("aria-label", `${this.name ?? "Picture"}, nothing found yet`);
    this.#point(null);
  }

  /** Show what was found; a record with its view. */
  async found(record) {
    const { png, size: [rows, columns], low, high } = record.view;
    const bytes = Uint8Array.from(atob(png), (c) => c.charCodeAt(0));
    const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }),
      { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    const canvas = new OffscreenCanvas(columns, rows);
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    const { data } = pen.getImageData(0, 0, columns, rows);
    const labels = new Uint16Array(rows * columns);
    const confidence = new Float32Array(rows * columns);
    for (let i = 0; i < labels.length; i++) {
      const label = data[4 * i] | (data[4 * i + 1] << 8);
      labels[i] = label >= record.classes.length ? VOID : label;
      confidence[i] = low + (data[4 * i + 2] / 255) * (high - low);
    }
    const before = this.result?.classes[this.alone]?.name;
    const same = record.classes.findIndex((c) => c.pixels && c.name === before);
    this.alone = this.alone === null || same < 0 || record.settings.segments ? null : same;
    this.result = { rows, columns, labels, confidence, classes: record.classes };
    const shown = record.classes.filter((c) => c.pixels).sort((a, b) => b.share - a.share);
    const said = shown.map((c) => `${c.name} ${Math.round(100 * c.share)} %`).join(", ");
    this.layers.setAttribute("aria-label", `${this.name}: ${said || "nothing found"}`);
    this.#paint();
    if (this.at) this.#point(this.at);
  }

  /** Show one class alone, null for all. */
  isolate(label) {
    this.alone = label;
    this.#paint();
    this.dispatchEvent(new CustomEvent("alone", { detail: label }));
  }

  /** A small picture of what is seen now, for the history. */
  thumbnail(side = 124) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    const pen = canvas.getContext("2d");
    const { width, height } = this.photo;
    const least = Math.min(width, height);
    const from = [(width - least) / 2, (height - least) / 2, least, least];
    pen.drawImage(this.photo, ...from, 0, 0, side, side);
    if (this.result) {
      const [sx, sy] = [this.mask.width / width, this.mask.height / height];
      pen.globalAlpha = 0.62;
      pen.drawImage(this.mask, from[0] * sx, from[1] * sy, least * sx, least * sy, 0, 0, side, side);
    }
    return canvas;
  }

  #paint() {
    const found = this.result;
    if (!found) return;
    const { rows, columns, labels, classes } = found;
    const colours = classes.map((c) => [1, 3, 5].map((i) => parseInt(c.colour.slice(i, i + 2), 16)));
    const image = new ImageData(columns, rows);
    const out = image.data;
    for (let y = 0, i = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++, i++) {
        const label = labels[i];
        const edge = (x + 1 < columns && labels[i + 1] !== label)
          || (y + 1 < rows && labels[i + columns] !== label);
        let [r, g, b] = colours[label] ?? [0, 0, 0];
        let alpha = label === VOID ? 0 : 255;
        if (this.alone !== null) {
          alpha = label === this.alone ? 0 : 255;
          [r, g, b] = VEIL;
        }
        if (edge) {
          const touches = this.alone === null || label === this.alone
            || labels[i + 1] === this.alone || labels[i + columns] === this.alone;
          if (touches) { [r, g, b, alpha] = [255, 255, 255, 255]; }
        }
        out.set([r, g, b, alpha], 4 * i);
      }
    }
    this.mask.width = columns;
    this.mask.height = rows;
    this.mask.getContext("2d").putImageData(image, 0, 0);
  }

  #fit() {
    if (!this.size) return;
    const [height, width] = this.size;
    const room = this.frame.getBoundingClientRect();
    const scale = Math.min((room.width - 34) / width, room.height / height);
    this.layers.style.width = `${Math.floor(width * scale)}px`;
    this.layers.style.height = `${Math.floor(height * scale)}px`;
  }

  #hover(event) {
    if (event.target.id === "split") return this.#point(null);
    const box = this.layers.getBoundingClientRect();
    this.cross.hidden = true;
    this.#point([(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
  }

  /** What is at a place, in shares of the picture's width and height. */
  #under([x, y]) {
    const { rows, columns, labels, confidence, classes } = this.result;
    const column = Math.min(columns - 1, Math.max(0, Math.floor(x * columns)));
    const row = Math.min(rows - 1, Math.max(0, Math.floor(y * rows)));
    const i = row * columns + column;
    const known = classes[labels[i]];
    return {
      label: known ? labels[i] : null,
      name: known?.name ?? "none of these",
      confidence: confidence[i],
    };
  }

  #point(at) {
    this.at = at;
    const under = at && this.result ? this.#under(at) : null;
    this.tip.hidden = !under;
    if (under) {
      const name = document.createElement("b");
      name.textContent = under.name;
      const number = document.createElement("i");
      number.textContent = under.confidence.toFixed(2);
      this.tip.replaceChildren(name, number);
      const left = at[0] > 0.6, top = at[1] > 0.8;
      this.tip.style.left = `${100 * at[0]}%`;
      this.tip.style.top = `${100 * at[1]}%`;
      this.tip.style.transform = `translate(${left ? "calc(-100% - 14px)" : "14px"}, ${top ? "-120%" : "12px"})`;
    }
    this.dispatchEvent(new CustomEvent("under", { detail: under }));
  }

  #choose() {
    if (!this.at || !this.result) return;
    const { label } = this.#under(this.at);
    if (label !== null) this.isolate(this.alone === label ? null : label);
  }

  #key(event) {
    if (event.target !== this.layers || !this.result) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in steps) {
      const far = event.shiftKey ? 0.1 : 0.025;
      const [x, y] = this.at ?? [0.5, 0.5];
      const [dx, dy] = this.at ? steps[event.key] : [0, 0];
      const inside = (value) => Math.min(0.999, Math.max(0, value));
      this.#point([inside(x + far * dx), inside(y + far * dy)]);
      this.cross.hidden = false;
      this.cross.style.left = `${100 * this.at[0]}%`;
      this.cross.style.top = `${100 * this.at[1]}%`;
      const { name, confidence } = this.#under(this.at);
      this.dispatchEvent(new CustomEvent("read", { detail: `${name}, ${confidence.toFixed(2)}` }));
    } else if (event.key === "Enter" || event.key === " ") {
      this.#choose();
    } else if (event.key === "Escape") {
      this.isolate(null);
    } else {
      return;
    }
    event.preventDefault();
  }
}
