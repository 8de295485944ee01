/** Shows the answer of MIGM Ask About Image on its node when it was not written just now: after a cached run, undo, or a change of tabs. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { nodeByLocator } from "./graph.js";
import { words } from "./words.js";

const TYPE = "MIGMAskAboutImage";
const PREVIEW = "$$node-text-preview"; // the host's widget for text that comes while a node runs
const [LEAST, MOST] = [58, 220]; // of it, px
const [LINE, LETTER, AROUND] = [16, 6.5, 50]; // of its text, about, px

/** The last output of a node in a subgraph that is not open, by node. */
const unseen = new WeakMap();

/** Show a node's output: its answers, and beneath them what is to be said of them. */
function show(node, output) {
  const { text, migm_notes: notes = [] } = output ?? {}; // null of a node that was blocked
  if (!Array.isArray(text)) return;
  const shown = [text.join("\n\n") || words().emptyAnswer, ...notes.map((note) => `⚠ ${words().fromServer(note)}`)].join("\n\n");
  const there = () => node.widgets?.find(({ name }) => name === PREVIEW);
  if (there()) there().value = shown;
  // As the server would send it: so the host makes the widget, in its own way. It does so in the graph that is open.
  else if (node.graph === app.canvas?.graph) api.dispatchCustomEvent("progress_text", { nodeId: String(node.id), text: shown });
  else unseen.set(node, { text, migm_notes: notes });
  if (there()) makeRoom(node, there(), shown);
}

/** In the classic canvas the host gives the text three lines, and a bar to scroll: have it give more, within bounds. Vue nodes fit. */
function makeRoom(node, widget, text) {
  if (LiteGraph.vueNodesMode || !widget.options) return;
  const across = Math.max(1, node.size[0] - AROUND) / LETTER;
  const letters = (line) => line.length + (line.match(/[^\u0000-\u2fff]/g)?.length ?? 0); // a Chinese one is twice as wide
  const lines = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(letters(line) / across)), 0);
  const height = Math.min(MOST, Math.max(LEAST, lines * LINE + AROUND));
  widget.options.getMinHeight = () => height;
  const [width, now] = node.size;
  node.setSize([width, Math.max(now, node.computeSize()[1])]);
  node.setDirtyCanvas?.(true, true);
}

/** A subgraph was opened or left. */
function showUnseen() {
  for (const node of app.canvas.graph?.nodes ?? []) {
    const output = unseen.get(node);
    unseen.delete(node);
    if (output) show(node, output);
  }
}

app.registerExtension({
  name: "MIGM.Answer",

  setup() {
    app.canvas?.canvas.addEventListener("litegraph:set-graph", showUnseen);
  },

  nodeCreated(node) {
    if (node.comfyClass !== TYPE) return;
    const { onExecuted } = node;
    node.onExecuted = function (output, ...more) {
      onExecuted?.call(this, output, ...more);
      show(this, output);
    };
  },

  /** The host has put outputs of an earlier run in place again. */
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs ?? {})) {
      const node = nodeByLocator(locator);
      if (node?.comfyClass === TYPE) show(node, output);
    }
  },
});
