/**
 * Where a node's inputs come from, as far as the page can tell: through reroutes, bypassed nodes, and in and out of subgraphs.
 *
 * A place is a node and the subgraph nodes around it, outermost first: `{ node, around }`.
 */

import { app } from "../../scripts/app.js";

const SUBGRAPH_INPUT = "-10"; // the origin of a link from a subgraph's input
const NEVER = 2; // the modes in which a node does not run
const BYPASS = 4;
const MAX_HOPS = 100;

/** The value is not known before the graph runs. */
export const UNKNOWN = Symbol("unknown");

const root = () => app.rootGraph ?? app.graph;

/** Where a node lies; with several uses of one subgraph, the first. Null for a node in no graph. */
export function placeOf(node) {
  const search = (graph, around) => {
    if (graph === node.graph) return { node, around };
    for (const outer of graph.nodes ?? []) {
      const found = outer.subgraph && search(outer.subgraph, [...around, outer]);
      if (found) return found;
    }
    return null;
  };
  return node.graph ? search(root(), []) : null;
}

/** The node that the host calls "7", or "3:7" where it is node 7 in subgraph node 3. */
export function nodeById(id) {
  let graph = root();
  const path = String(id).split(":");
  for (const outer of path.slice(0, -1)) graph = graph?.getNodeById(outer)?.subgraph;
  return graph?.getNodeById(path.at(-1)) ?? null;
}

/** The node whose outputs the host keeps under "7", or under "<id of a subgraph>:7" where it lies in one. */
export function nodeByLocator(locator) {
  const [id, subgraph] = String(locator).split(":").reverse();
  const graph = subgraph ? root().subgraphs?.get(subgraph) : root();
  return graph?.getNodeById(id) ?? null;
}

/** The place whose output arrives at an input; null where nothing will. */
export function sourceOf(place, inputName) {
  return follow(place, indexOf(place.node, inputName), inputName).source;
}

/** What an input will be: a value, or UNKNOWN. */
export function valueOf(place, inputName) {
  const { source, at } = follow(place, indexOf(place.node, inputName), inputName);
  if (!source) return widgetNamed(at)?.value ?? UNKNOWN;
  return source.node.type?.startsWith("Primitive") ? (source.node.widgets?.[0]?.value ?? UNKNOWN) : UNKNOWN;
}

/** The widget that sets an input, which is the subgraph's where that hands its own in, as `{ node, widget }`; null where a link sets it. */
export function settingOf(place, inputName) {
  const { source, at } = follow(place, indexOf(place.node, inputName), inputName);
  const widget = source ? null : widgetNamed(at);
  return widget ? { node: at.node, widget } : null;
}

const widgetNamed = ({ node, name }) => node.widgets?.find((widget) => widget.name === name);

const indexOf = (node, inputName) => node.inputs?.findIndex((input) => input.name === inputName) ?? -1;

/**
 * Walk up the link of an input.
 *
 * Returns `source`, the place that the link begins at, or null; and `at`, the node and the widget's name where the walk ended without a
 * link, which differ from those it began with where a subgraph hands its own input in.
 */
function follow({ node, around }, index, name) {
  let at = { node, name };
  for (let hop = 0; hop < MAX_HOPS; hop++) {
    const link = linkOf(node, index);
    if (!link) return { source: null, at };
    if (String(link.origin_id) === SUBGRAPH_INPUT) {
      if (!around.length) return { source: null, at };
      [node, index, around] = [around.at(-1), link.origin_slot, around.slice(0, -1)];
      at = { node, name: node.inputs[index]?.widget?.name ?? node.inputs[index]?.name };
      continue;
    }
    let origin = node.graph.getNodeById(link.origin_id);
    let slot = link.origin_slot;
    while (origin?.subgraph && origin.mode !== BYPASS && origin.mode !== NEVER) {
      const inner = origin.subgraph.outputs[slot]?.getLinks()[0];
      around = [...around, origin];
      [origin, slot] = [inner && origin.subgraph.getNodeById(inner.origin_id), inner?.origin_slot];
    }
    if (!origin || origin.mode === NEVER) return { source: null, at };
    if (origin.mode !== BYPASS && origin.type !== "Reroute") return { source: { node: origin, around }, at };
    node = origin;
    index = origin.type === "Reroute" ? 0 : passedBy(origin, slot);
  }
  return { source: null, at };
}

/** The link that ends at an input. A subgraph's node has a function of this name that means its outputs, so all take the common one. */
function linkOf(node, index) {
  if (!node.graph || !node.inputs?.[index]) return null;
  return LiteGraph.LGraphNode.prototype.getInputLink.call(node, index);
}

/** The input that a bypassed node hands on as an output: the one in its row, else the first of its type. */
function passedBy(node, slot) {
  const type = node.outputs?.[slot]?.type;
  return node.inputs?.[slot]?.type === type ? slot : (node.inputs?.findIndex((input) => input.type === type) ?? -1);
}
