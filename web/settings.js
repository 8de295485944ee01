/** A sampler's settings: what they are, and writing them as an edit by hand would. */

import { app } from "../../scripts/app.js";
import { UNKNOWN, settingOf, valueOf } from "./graph.js";
import { words } from "./words.js";

const OTHERS = new Set(["seed", "control_after_generate", "step_timeline"]); // widgets that do not say how it samples
const MAX_TEXT = 64; // characters
const MAX_NUMBER = 1024; // where a widget does not say it

/**
 * What a sampler's settings are, by the names of its inputs, as `values`, and as `unknown` the names of those that only a run can tell;
 * or the `reason` why they are not to be asked for.
 */
export function settingsOf(place) {
  const values = {};
  const unknown = [];
  for (const { name, options } of place.node.widgets ?? []) {
    if (OTHERS.has(name)) continue;
    const value = valueOf(place, name);
    const { min = 0, max = MAX_NUMBER } = options ?? {};
    if (value === UNKNOWN) unknown.push(name);
    else if (typeof value === "number") {
      if (!Number.isFinite(value) || value < min || value > max) return { reason: words().outOfRange(name, value, min, max) };
      values[name] = value;
    } else if (typeof value === "boolean" || typeof value === "string") values[name] = String(value).slice(0, MAX_TEXT);
  }
  return { values, unknown };
}

/** Write values into the widgets that set them; one step for undo. Those that links set stay. */
export function write(place, values) {
  const { canvas } = app;
  canvas.emitBeforeChange?.();
  try {
    for (const [name, value] of Object.entries(values)) {
      const { node, widget } = settingOf(place, name) ?? {};
      if (!widget || typeof widget.value !== typeof value) continue;
      widget.value = value;
      widget.callback?.(value, canvas, node);
    }
  } finally {
    canvas.emitAfterChange?.();
  }
  place.node.setDirtyCanvas?.(true, true);
}

/** What the page calls a widget of a node. */
export function labelOf(node, name) {
  const widget = node.widgets?.find((widget) => widget.name === name);
  return widget?.label || name;
}

/** Grey a widget that does nothing as things stand. */
export function setDisabled(node, name, disabled) {
  const widget = node.widgets?.find((widget) => widget.name === name);
  if (!widget || Boolean(widget.disabled) === disabled) return;
  widget.disabled = disabled;
  node.setDirtyCanvas?.(true, true);
}
