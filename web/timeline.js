/** The step timeline as the page shows it: a cell a step, and two lines of words. It knows nothing of graphs and servers. */

import { words } from "./words.js";

const CELLS_A_ROW = 128;
const ROW = { single: 18, several: 9 }; // px
const WORDS = 32; // two lines, px
const FRAME = 19; // gaps, padding and border, px

const KINDS = ["full", "shortcut", "partial"];

export class Timeline {
  constructor() {
    this.element = make("div", "migm-timeline");
    this.box = make("div", "migm-timeline-box", this.element);
    this.cells = make("div", "migm-timeline-cells", this.box);
    this.cells.setAttribute("role", "img");
    this.headline = make("div", "migm-timeline-headline", this.box);
    this.detail = make("div", "migm-timeline-detail", this.box);
    this.showReason("");
  }

  /** How high the element wants to be, in px. */
  get height() {
    const rows = Math.max(1, Math.ceil(this.kinds.length / CELLS_A_ROW));
    return FRAME + WORDS + (rows === 1 ? ROW.single : rows * ROW.several);
  }

  /** Show a run's steps, by kind, with a headline over the numbers of steps; or with a remark in place of both. */
  showPlan(kinds, headline, remark = "") {
    this.#setCells(kinds);
    this.#say(headline, remark, kinds);
  }

  /** Say why there are no steps to show. */
  showReason(text) {
    this.#setCells([]);
    this.#say("", text, []);
  }

  /** Light the cells up to and with a step that has ended; it was of this kind. */
  light(step, kind) {
    this.element.classList.add("migm-running");
    const cells = this.cells.children;
    for (let i = 0; i < cells.length; i++) cells[i].classList.toggle("migm-done", i <= step);
    if (cells[step] && this.kinds[step] !== kind) {
      this.kinds[step] = kind;
      cells[step].classList.remove(...KINDS.map(cellClass));
      cells[step].classList.add(cellClass(kind));
    }
    this.#say(words().step(step + 1, cells.length), "", this.kinds);
  }

  /** The run is over. */
  unlight() {
    this.element.classList.remove("migm-running");
    for (const cell of this.cells.children) cell.classList.remove("migm-done");
  }

  #setCells(kinds) {
    if (kinds.join() === this.kinds?.join()) return;
    this.kinds = [...kinds];
    const columns = Math.min(CELLS_A_ROW, kinds.length);
    this.cells.style.setProperty("--columns", columns);
    this.cells.style.setProperty("--row", `${kinds.length > CELLS_A_ROW ? ROW.several : ROW.single}px`);
    this.cells.style.setProperty("--gap", columns > 72 ? "0.5px" : columns > 40 ? "1px" : "2px");
    this.cells.replaceChildren(
      ...kinds.map((kind, step) => {
        const cell = make("i", cellClass(kind));
        cell.title = words().stepOfKind(step + 1, kinds.length, words().kinds[kind]);
        return cell;
      }),
    );
    this.element.style.setProperty("--migm-height", `${this.height}px`);
  }

  #say(headline, remark, kinds) {
    this.headline.textContent = remark ? "" : headline;
    this.detail.replaceChildren(...(remark ? [remark] : legend(kinds)));
    this.detail.classList.toggle("migm-remark", Boolean(remark));
    this.headline.title = headline;
    this.detail.title = remark;
    this.cells.setAttribute("aria-label", [words().steps, headline, this.detail.textContent].filter(Boolean).join(". "));
  }
}

/** The numbers of steps of each kind, each with its mark. */
function legend(kinds) {
  return KINDS.filter((kind) => kinds.includes(kind)).map((kind) => {
    const entry = make("span", "migm-timeline-legend");
    make("i", cellClass(kind), entry);
    entry.append(`${kinds.filter((other) => other === kind).length} ${words().kinds[kind]}`);
    return entry;
  });
}

const cellClass = (kind) => `migm-${KINDS.includes(kind) ? kind : "full"}`;

function make(tag, className, parent) {
  const element = document.createElement(tag);
  element.className = className;
  parent?.append(element);
  return element;
}
