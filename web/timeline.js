/** The step timeline as the page shows it: a cell a step, words, and buttons. It knows nothing of graphs and servers. */

import { words } from "./words.js";

const MAX_CELLS = 1024; // whatever a server or a workflow says
const CELLS_A_ROW = 128;
const ROW = { single: 18, several: 9 }; // px

const KINDS = ["full", "shortcut", "partial", "skipped"];

export class Timeline {
  /** Called with a preset's name, and without anything, when its button is pressed. */
  onPreset = () => {};
  onOwn = () => {};

  constructor() {
    this.element = make("div", "migm-timeline");
    this.box = make("div", "migm-timeline-box", this.element);
    this.cells = make("div", "migm-timeline-cells", this.box);
    this.cells.setAttribute("role", "img");
    this.headline = make("div", "migm-timeline-headline", this.box);
    this.legend = make("div", "migm-timeline-legend", this.box);
    this.presets = make("div", "migm-timeline-presets", this.box);
    this.presets.setAttribute("role", "group");
    this.remarks = make("div", "migm-timeline-remarks", this.box);
    this.own = button("migm-timeline-own", this.box, () => this.onOwn());
    this.show([], "");
    this.offer({});
  }

  /** Show a run's steps, by kind, and a few words. */
  show(kinds, headline) {
    this.element.classList.remove("migm-running");
    this.#setCells(kinds);
    for (const cell of this.cells.children) cell.classList.remove("migm-done");
    this.#setHeadline(headline);
  }

  /**
   * Show what there is to say and to choose.
   *
   * @param remarks  sentences; those that warn are `{ caution }`
   * @param presets  `{ name, label, title, pressed }` each
   * @param own  what the model's own settings are, where there is a button to take them
   */
  offer({ remarks = [], presets = [], own = "" }) {
    setChildren(this.remarks, remarks.map(remark));
    this.#setPresets(presets);
    setText(this.own, own && words().useOwn);
    this.own.title = own;
  }

  /** Light the cells up to and with a step that has ended, of a run of this many steps; it was of this kind. */
  light(step, steps, kind, headline) {
    if (this.steps !== steps) this.#setCells(Array(Math.max(0, Math.min(steps, MAX_CELLS)) || 0).fill(kind), steps);
    this.element.classList.add("migm-running");
    const cells = this.cells.children;
    const last = Math.floor((step * cells.length) / steps);
    for (let i = 0; i < cells.length; i++) cells[i].classList.toggle("migm-done", i <= last);
    if (cells[last] && this.kinds[last] !== kind) {
      this.kinds[last] = kind;
      cells[last].className = `${cellClass(kind)} migm-done`;
      setChildren(this.legend, entries(this.kinds));
    }
    this.#setHeadline(headline);
  }

  #setCells(kinds, steps = kinds.length) {
    this.steps = steps;
    if (kinds.join() === this.kinds?.join()) return;
    this.kinds = kinds.slice(0, MAX_CELLS);
    const columns = Math.min(CELLS_A_ROW, this.kinds.length);
    this.cells.style.setProperty("--columns", columns);
    this.cells.style.setProperty("--row", `${this.kinds.length > CELLS_A_ROW ? ROW.several : ROW.single}px`);
    this.cells.style.setProperty("--gap", columns > 72 ? "0.5px" : columns > 40 ? "1px" : "2px");
    this.cells.replaceChildren(
      ...this.kinds.map((kind, step) => {
        const cell = make("i", cellClass(kind));
        cell.title = words().stepOfKind(step + 1, this.kinds.length, words().kinds[kind] ?? kind);
        return cell;
      }),
    );
    setChildren(this.legend, entries(this.kinds));
  }

  #setHeadline(text) {
    setText(this.headline, text);
    this.cells.setAttribute("aria-label", [words().steps, text, this.legend.textContent].filter(Boolean).join(". "));
  }

  /** The same buttons as long as the presets have the same names, so that a pressed one keeps the keyboard's focus. */
  #setPresets(presets) {
    if (presets.map(({ name }) => name).join() !== [...this.presets.children].map(({ value }) => value).join())
      this.presets.replaceChildren(
        ...presets.map(({ name }) => Object.assign(button("migm-timeline-preset", null, () => this.onPreset(name)), { value: name })),
      );
    this.presets.setAttribute("aria-label", words().presets);
    this.presets.hidden = !presets.length;
    presets.forEach(({ label, title, pressed }, i) => {
      const button = this.presets.children[i];
      setText(button, label);
      button.title = title;
      button.setAttribute("aria-pressed", pressed);
    });
  }
}

/** The numbers of steps of each kind, each with its mark. */
function entries(kinds) {
  return KINDS.filter((kind) => kinds.includes(kind)).map((kind) => {
    const entry = make("span", "migm-timeline-entry");
    make("i", cellClass(kind), entry);
    entry.append(`${kinds.filter((other) => other === kind).length} ${words().kinds[kind]}`);
    entry.title = words().meaning[kind];
    return entry;
  });
}

function remark(remark) {
  const element = make("p", remark.caution ? "migm-timeline-caution" : "migm-timeline-remark");
  element.textContent = remark.caution ?? remark;
  return element;
}

const cellClass = (kind) => `migm-${KINDS.includes(kind) ? kind : "full"}`;

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
  element.hidden = !text;
}

function setChildren(element, children) {
  element.replaceChildren(...children);
  element.hidden = !children.length;
}

function button(className, parent, onPress) {
  const element = make("button", className, parent);
  element.type = "button";
  element.addEventListener("click", onPress);
  // The page has keys of its own for these.
  element.addEventListener("keydown", (event) => ["Enter", " "].includes(event.key) && event.stopPropagation());
  return element;
}

function make(tag, className, parent) {
  const element = document.createElement(tag);
  element.className = className;
  parent?.append(element);
  return element;
}
