/**
 * Where a node's inputs come from, as far as the page can tell: through reroutes, bypassed nodes, and in and out of subgraphs.
 *
 * A place is a node and the subgraph nodes around it, outermost first: `{ node, around }`.
 */

import { app } from "../../scripts/app.js";

const SUBGRAPH_INPUT = -10; // the origin of a link from a subgraph's input
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

/** The place whose output arrives at an input; null where nothing will. */
export function sourceOf(place, inputName) {
  return follow(place, place.node.inputs?.findIndex((input) => input.name === inputName) ?? -1).source;
}

/** What an input will be: a value, or UNKNOWN. */
export function valueOf(place, inputName) {
  const index = place.node.inputs?.findIndex((input) => input.name === inputName) ?? -1;
  const { source, at } = follow(place, index);
  if (source) return source.node.type?.startsWith("Primitive") ? widgetValue(source.node, source.node.widgets?.[0]?.name) : UNKNOWN;
  return widgetValue(at.node, at.name ?? inputName);
}

function widgetValue(node, name) {
  const widget = node.widgets?.find((widget) => widget.name === name);
  return widget ? widget.value : UNKNOWN;
}

/**
 * Walk up the link of an input.
 *
 * Returns `source`, the place that the link begins at, or null; and `at`, the node and the input's name where the walk ended without a
 * link, which differ from those it began with where a subgraph hands its own input in.
 */
function follow({ node, around }, index) {
  let at = { node, name: node.inputs?.[index]?.name };
  for (let hop = 0; hop < MAX_HOPS; hop++) {
    const link = node.graph?.getLink?.(node.inputs?.[index]?.link);
    if (!link) return { source: null, at };
    if (link.origin_id === SUBGRAPH_INPUT) {
      if (!around.length) return { source: null, at };
      [node, index, around] = [around.at(-1), link.origin_slot, around.slice(0, -1)];
      at = { node, name: node.inputs[index]?.name };
      continue;
    }
    let origin = node.graph.getNodeById(link.origin_id);
    let slot = link.origin_slot;
    while (origin?.subgraph && origin.mode !== BYPASS && origin.mode !== NEVER) {
      const inner = origin.subgraph.getLink(origin.subgraph.outputs[slot]?.linkIds?.[0]);
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

/** The input that a bypassed node hands on as an output: the one in its row, else the first of its type. */
function passedBy(node, slot) {
  const type = node.outputs?.[slot]?.type;
  return node.inputs?.[slot]?.type === type ? slot : (node.inputs?.findIndex((input) => input.type === type) ?? -1);
}
