/** Puts the step timeline on every Shortcut Sampler, keeps it to what is set and connected, and lights it while the sampler runs. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { UNKNOWN, nodeById, placeOf, sourceOf, valueOf } from "./graph.js";
import { Timeline } from "./timeline.js";
import { words } from "./words.js";

const SAMPLER = "MIGMShortcutSampler";
const LOADER = "MIGMLoadLumina";
const WIDGETS = ["preset", "steps", "budget", "method"];
const SETTLE = 120; // ms without a change before the server is asked
const MARGIN = 4; // around the element in the classic canvas, px

/** The samplers in the graph: node to Watcher. */
const watchers = new Map();
/** Seconds of a step by kind, of the last run with a model: for an estimate before the next. */
const measured = new Map();

/** One sampler's timeline, and what it was last told. */
class Watcher {
  constructor(node) {
    this.node = node;
    this.timeline = new Timeline();
    this.asked = null; // the query that is shown or on its way
    this.plan = null; // its answer
    this.last = null; // the last run's summary, until something is changed
    this.running = false;
  }

  /** Look again, soon. */
  refresh({ force = false } = {}) {
    if (force) this.asked = null;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#ask(), SETTLE);
  }

  async #ask() {
    const { query, model, reason } = wanted(this.node);
    const asked = query?.toString() ?? reason;
    if (asked === this.asked) return;
    this.asked = asked;
    this.model = model;
    this.request?.abort();
    this.last = null;
    if (reason) return this.#show(null, reason);
    const { signal } = (this.request = new AbortController());
    try {
      const response = await api.fetchApi(`/migm/plan?${query}`, { signal });
      const answer = await response.json();
      this.#show(response.ok ? answer : null, answer.error);
    } catch (error) {
      if (signal.aborted) return;
      this.asked = null; // ask again at the next change
      this.#show(null, words().noAnswer);
    }
  }

  #show(plan, reason) {
    this.plan = plan;
    this.reason = reason;
    if (!this.running) this.show();
  }

  /** Show the last run where it is the one that is set, else the plan, else why there is none. */
  show() {
    const { timeline, last, plan } = this;
    timeline.unlight();
    if (last) timeline.showPlan(last.kinds, measuredWords(last), notAccelerated(plan));
    else if (plan) timeline.showPlan(plan.kinds, expectedWords(plan, this.model), notAccelerated(plan));
    else timeline.showReason(this.reason ?? "");
    this.node.setDirtyCanvas?.(true, true);
  }

  step({ step, steps, kind }) {
    if (!this.running || this.timeline.kinds.length !== steps) {
      const kinds = this.plan?.kinds.length === steps ? this.plan.kinds : Array(steps).fill(kind);
      this.timeline.showPlan(kinds, "");
    }
    this.running = true;
    this.timeline.light(step, kind);
  }

  /** A run has ended; with its summary where it was not stopped. */
  end(run = null) {
    this.running = false;
    if (run?.kinds.length) {
      this.last = run;
      measured.set(this.model, { ...measured.get(this.model), ...run.step_seconds });
    }
    this.show();
  }

  dispose() {
    clearTimeout(this.timer);
    this.request?.abort();
  }
}

/** What to ask the server for a sampler, as `query` and the name of the `model`; or the `reason` why nothing can be asked. */
function wanted(node) {
  const place = placeOf(node);
  if (!place) return { reason: "" };
  const query = new URLSearchParams();
  for (const name of WIDGETS) {
    const value = valueOf(place, name);
    if (value !== UNKNOWN) query.set(name, value);
    else if (["preset", "method"].includes(name) || query.get("preset") === "Custom")
      return { reason: words().fromAnotherNode(name) };
  }
  query.set("head", sourceOf(place, "head") ? 1 : 0);
  const loader = sourceOf(place, "model");
  if (!loader) return query.get("preset") === "Custom" ? { query } : { reason: words().connectModel };
  const model = loader.node.type === LOADER ? valueOf(loader, "model") : UNKNOWN;
  if (model !== UNKNOWN) query.set("model", model);
  else if (query.get("preset") !== "Custom") return { reason: words().modelFromAnotherNode };
  return { query, model };
}

/** The expected speed-up: by the measured step times where there are any, else what it could be at most. */
function expectedWords({ kinds }, model) {
  const full = kinds.filter((kind) => kind === "full").length;
  if (full === kinds.length) return words().everyStepFull;
  const seconds = measured.get(model);
  if (kinds.every((kind) => seconds?.[kind] > 0)) {
    const sum = kinds.reduce((sum, kind) => sum + seconds[kind], 0);
    return words().about((seconds.full * kinds.length) / sum);
  }
  return words().upTo(kinds.length / full);
}

function measuredWords({ kinds, seconds, speed_up }) {
  const took = seconds < 10 ? seconds.toPrecision(2) : Math.round(seconds);
  if (kinds.every((kind) => kind === "full")) return words().tookFull(took);
  return words().took(took, speed_up);
}

/** Why another method runs than the one asked for, where the server says so. */
function notAccelerated(plan) {
  const { notes, notAccelerated } = words();
  return plan?.notes.length ? notAccelerated(plan.notes.map((note) => notes[note] ?? note).join(" ")) : "";
}

/** Call `after` with the same arguments whenever a function of an object is called. */
function chain(object, name, after) {
  const before = object[name];
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}

function addTimeline(node) {
  const watcher = new Watcher(node);
  const { timeline } = watcher;
  const height = () => timeline.height + 2 * MARGIN;
  const widget = node.addDOMWidget("step_timeline", "MIGM_STEP_TIMELINE", timeline.element, {
    serialize: false, // not in the prompt
    hideInPanel: true,
    margin: MARGIN,
    getMinHeight: height,
    getMaxHeight: height,
  });
  widget.serialize = false; // not in the workflow
  node.setSize?.([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
  letTheCanvasHaveThePointer(timeline.element);

  for (const name of WIDGETS) {
    const setting = node.widgets.find((widget) => widget.name === name);
    if (setting) chain(setting, "callback", () => watcher.refresh());
  }
  chain(node, "onAdded", () => {
    watchers.set(node, watcher);
    watcher.refresh();
  });
  chain(node, "onRemoved", () => {
    watchers.delete(node);
    watcher.dispose();
  });
  chain(node, "onConfigure", () => watcher.refresh());
  chain(node, "onConnectionsChange", () => watcher.refresh());
  chain(node, "onExecuted", (output) => output?.migm_run?.[0] && watcher.end(output.migm_run[0]));
}

/** In the classic canvas the element lies over the canvas: what the pointer does on it means the node beneath. */
function letTheCanvasHaveThePointer(element) {
  for (const type of ["pointerdown", "pointermove", "pointerup", "wheel"]) {
    element.addEventListener(
      type,
      (event) => {
        if (!element.closest(".dom-widget")) return;
        event.preventDefault();
        event.stopPropagation();
        app.canvas.canvas.dispatchEvent(new event.constructor(event.type, event));
      },
      { passive: false },
    );
  }
}

function refreshAll(options) {
  for (const watcher of watchers.values()) watcher.refresh(options);
}

function addStyle() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./step_timeline.css", import.meta.url);
  document.head.append(link);
}

app.registerExtension({
  name: "MIGM.StepTimeline",

  setup() {
    addStyle();
    api.addEventListener("migm.step", ({ detail }) => watchers.get(detail.node === null ? null : nodeById(detail.node))?.step(detail));
    for (const type of ["execution_success", "execution_error", "execution_interrupted"])
      api.addEventListener(type, () => {
        for (const watcher of watchers.values()) if (watcher.running) watcher.end();
      });
    api.addEventListener("graphChanged", () => refreshAll()); // links, modes and other nodes' settings
    api.addEventListener("reconnected", () => refreshAll({ force: true }));
  },

  nodeCreated(node) {
    if (node.comfyClass === SAMPLER) addTimeline(node);
  },

  refreshComboInNodes() {
    refreshAll({ force: true }); // other models may be there now
  },
});
