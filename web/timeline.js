/** The step timeline as the page shows it: a mark a step, words, and buttons. It knows nothing of graphs, servers and methods. */

import { words } from "./words.js";

const MAX_STEPS = 1024; // whatever a server or a workflow says
const STEPS_A_ROW = 128;
const ROW = { single: 18, several: 9 }; // px

const FULL = "full"; // the kinds that all methods have
const SKIPPED = "skipped";
const LOOKS = 4; // of methods' own kinds, in the style sheet

export class Timeline {
  /** Called with a preset's name, and without anything, when its button is pressed. */
  onPreset = () => {};
  onOwn = () => {};

  constructor() {
    this.legend = []; // each kind of step that there is, as `{ kind, about }`
    this.element = make("div", "migm-timeline");
    this.box = make("div", "migm-timeline-box", this.element);
    this.marks = make("div", "migm-timeline-steps", this.box);
    this.marks.setAttribute("role", "img");
    this.headline = make("div", "migm-timeline-headline", this.box);
    this.counts = make("div", "migm-timeline-legend", this.box);
    this.presets = make("div", "migm-timeline-presets", this.box);
    this.presets.setAttribute("role", "group");
    this.remarks = make("div", "migm-timeline-remarks", this.box);
    this.own = button("migm-timeline-own", this.box, () => this.onOwn());
    this.show([], "");
    this.offer({});
  }

  /** Show a run's steps, by kind, and a few words. `legend`: each kind of step that there is, in the order of their looks. */
  show(kinds, headline, legend = this.legend) {
    this.legend = legend;
    this.element.classList.remove("migm-running");
    this.#setSteps(kinds);
    for (const mark of this.marks.children) mark.classList.remove("migm-done");
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

  /** Light the steps up to and with one that has ended, of a run of this many; it was of this kind. */
  light(step, steps, kind, headline) {
    if (this.steps !== steps) this.#setSteps(Array(Math.max(0, Math.min(steps, MAX_STEPS)) || 0).fill(kind), steps);
    this.element.classList.add("migm-running");
    const marks = this.marks.children;
    const last = Math.floor((step * marks.length) / steps);
    for (let i = 0; i < marks.length; i++) marks[i].classList.toggle("migm-done", i <= last);
    if (marks[last] && this.kinds[last] !== kind) {
      this.kinds[last] = kind;
      marks[last].replaceWith(this.#mark(kind, last, "migm-done"));
      setChildren(this.counts, this.#entries());
    }
    this.#setHeadline(headline);
  }

  #setSteps(kinds, steps = kinds.length) {
    this.steps = steps;
    if (kinds.join() === this.kinds?.join()) return;
    this.kinds = kinds.slice(0, MAX_STEPS);
    const columns = Math.min(STEPS_A_ROW, this.kinds.length);
    this.marks.style.setProperty("--columns", columns);
    this.marks.style.setProperty("--row", `${this.kinds.length > STEPS_A_ROW ? ROW.several : ROW.single}px`);
    this.marks.style.setProperty("--gap", columns > 72 ? "0.5px" : columns > 40 ? "1px" : "2px");
    this.marks.replaceChildren(...this.kinds.map((kind, step) => this.#mark(kind, step)));
    setChildren(this.counts, this.#entries());
  }

  /** The mark of a step. */
  #mark(kind, step, more = "") {
    const mark = make("i", `${this.#look(kind)} ${more}`.trim());
    mark.dataset.kind = kind;
    mark.title = words().stepOfKind(step + 1, this.kinds.length, nameOf(kind));
    return mark;
  }

  /** The class of a kind's marks: one of its own for each that a method has, by its place in the legend. */
  #look(kind) {
    if (kind === FULL || kind === SKIPPED) return `migm-${kind}`;
    const own = this.legend.map((entry) => entry.kind).filter((other) => other !== FULL && other !== SKIPPED);
    return `migm-own-${Math.max(0, own.indexOf(kind)) % LOOKS}`;
  }

  /** The numbers of steps of each kind, each with its mark. */
  #entries() {
    const about = Object.fromEntries(this.legend.map(({ kind, about }) => [kind, about]));
    const kinds = new Set([...Object.keys(about), ...this.kinds]);
    return [...kinds].filter((kind) => this.kinds.includes(kind)).map((kind) => {
      const entry = make("span", "migm-timeline-entry");
      make("i", this.#look(kind), entry);
      entry.append(`${this.kinds.filter((other) => other === kind).length} ${nameOf(kind)}`);
      entry.title = words().fromServer(about[kind] ?? "");
      return entry;
    });
  }

  #setHeadline(text) {
    setText(this.headline, text);
    this.marks.setAttribute("aria-label", [words().steps, text, this.counts.textContent].filter(Boolean).join(". "));
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

function remark(remark) {
  const element = make("p", remark.caution ? "migm-timeline-caution" : "migm-timeline-remark");
  element.textContent = remark.caution ?? remark;
  return element;
}

const nameOf = (kind) => words().kinds[kind] ?? kind;

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
