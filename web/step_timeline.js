/** Puts the step timeline on every sampler of this pack, and tells it what happens in the graph and at the server. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { nodeById } from "./graph.js";
import { onSize } from "./picture_size.js";
import { labelInCanvas, labelInVueNodes, labelPreviews } from "./preview_label.js";
import { Watcher, united } from "./watcher.js";

const PACK = "MIGM"; // how its nodes' types begin
const MARGIN = 4; // around the element in the classic canvas, px
const FIRST_HEIGHT = 66; // of the element, before it was laid out, px

/** The samplers in the graph: node to Watcher. */
const watchers = new Map();

/** A node of this pack that samples in one way of several. */
function isSampler(node) {
  const names = new Set(node.widgets?.map(({ name }) => name));
  return Boolean(node.comfyClass?.startsWith(PACK)) && names.has("steps") && names.has("method");
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
  const { element, box } = watcher.timeline;
  const own = node.widgets.map((widget) => widget);
  let height = FIRST_HEIGHT;
  const widget = node.addDOMWidget("step_timeline", "MIGM_STEP_TIMELINE", element, {
    serialize: false, // not in the prompt
    hideInPanel: true,
    margin: MARGIN,
    getMinHeight: () => height + 2 * MARGIN,
    getMaxHeight: () => height + 2 * MARGIN,
  });
  widget.serialize = false; // not in the workflow
  const room = new Room(node, element);
  room.fit();
  const observer = new ResizeObserver(() => {
    if (!box.offsetHeight || box.offsetHeight === height) return; // not shown, or nothing new
    height = box.offsetHeight;
    if (inClassicCanvas(element)) room.fit();
  });
  letTheCanvasHaveThePointer(element);
  watcher.onShow = () => takePlace(node, element);

  for (const setting of own) chain(setting, "callback", () => watcher.refresh());
  chain(node, "onAdded", () => {
    watchers.set(node, watcher);
    observer.observe(box);
    watcher.refresh();
  });
  chain(node, "onRemoved", () => {
    watchers.delete(node);
    observer.disconnect();
    watcher.dispose();
  });
  chain(node, "onConfigure", () => watcher.refresh());
  chain(node, "onConnectionsChange", () => watcher.refresh());
  chain(node, "onDrawForeground", () => labelInCanvas(node));
  chain(node, "onSerialize", (saved) => (saved.size = [saved.size[0], Math.min(saved.size[1], room.given)]));
  chain(node, "onExecuted", (output) => output?.migm_run?.length && watcher.end(united(output.migm_run)));
}

const inClassicCanvas = (element) => Boolean(element.closest(".dom-widget"));

/**
 * The height that a node has for the timeline. What it grows by when there is more to say is not the user's: it is taken back, and not
 * saved, or each change of words would be a change of the workflow, to be undone.
 */
class Room {
  #before = null; // in the classic canvas: the node's height without what it grew by
  #grown = null; // and with it

  constructor(node, element) {
    this.node = node;
    this.element = element;
  }

  /** In the classic canvas, make the node as high as it must be. In the other one its elements do. */
  fit() {
    const { node } = this;
    const [width, height] = node.size;
    const least = node.computeSize()[1];
    if (height !== this.#grown) this.#before = this.#grown = null; // sized by hand since
    if (height < least) this.#before ??= height;
    const wanted = this.#before === null ? height : Math.max(this.#before, least);
    if (wanted === height) return;
    node.setSize([width, wanted]);
    this.#grown = wanted;
    node.setDirtyCanvas?.(true, true);
  }

  /** The height that was given to the node; infinite where that is all of it, or not known. */
  get given() {
    const { node, element } = this;
    const vue = element.closest("[data-node-id]");
    if (vue) return parseFloat(vue.style.getPropertyValue("--node-height")) - LiteGraph.NODE_TITLE_HEIGHT || Infinity;
    return node.size[1] === this.#grown && this.#before !== null ? this.#before : Infinity;
  }
}

/** Vue nodes keep the elements of a node that undo has replaced by its like: put the new one's in their place. */
function takePlace(node, element) {
  if (element.isConnected || node.graph !== app.canvas.graph) return;
  document.querySelector(`[data-node-id="${CSS.escape(node.id)}"] .migm-timeline`)?.replaceWith(element);
}

/** In the classic canvas the element lies over the canvas: what the pointer does on it, buttons aside, means the node beneath. */
function letTheCanvasHaveThePointer(element) {
  for (const type of ["pointerdown", "pointermove", "pointerup", "wheel"]) {
    element.addEventListener(
      type,
      (event) => {
        if (!inClassicCanvas(element) || (type !== "wheel" && event.target.closest("button"))) return;
        event.preventDefault();
        event.stopPropagation();
        app.canvas.canvas.dispatchEvent(new event.constructor(event.type, event));
      },
      { passive: false },
    );
  }
}

/** A step has ended somewhere. */
function step({ node: id, ...step }) {
  const node = id === null ? null : nodeById(id);
  const watcher = watchers.get(node);
  if (!watcher?.mayBeOf(step.model)) return;
  if (step.width > 0 && step.height > 0) labelPreviews(node, step.width, step.height);
  watcher.step(step);
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
    labelInVueNodes();
    api.addEventListener("migm.step", ({ detail }) => step(detail));
    for (const type of ["execution_success", "execution_error", "execution_interrupted"])
      api.addEventListener(type, () => {
        for (const watcher of watchers.values()) if (watcher.running) watcher.end();
        refreshAll({ force: true }); // there are measured times now
      });
    onSize.addEventListener("size", () => refreshAll());
    api.addEventListener("graphChanged", () => refreshAll()); // links, modes and other nodes' settings
    app.canvas?.canvas.addEventListener("litegraph:set-graph", () => refreshAll()); // a subgraph was opened or left
    api.addEventListener("reconnected", () => {
      for (const watcher of watchers.values()) if (watcher.running) watcher.end(); // a server that has died tells of no end; one that goes on, of its next step
      refreshAll({ force: true });
    });
  },

  nodeCreated(node) {
    if (isSampler(node)) addTimeline(node);
  },

  refreshComboInNodes() {
    refreshAll({ force: true }); // other models may be there now
  },
});
