/** A sampler's numbers: what they are, and writing them as an edit by hand would. */

import { app } from "../../scripts/app.js";
import { UNKNOWN, settingOf, valueOf } from "./graph.js";
import { words } from "./words.js";

/** The numbers that the server needs, by input: their widgets say their range. */
const NUMBERS = { steps: Number.isInteger, budget: Number.isInteger, cfg: Number.isFinite, temperature: Number.isFinite };

/** What a sampler's numbers are, as `values`; or the `reason` why they are not known or not to be asked for. */
export function numbersOf(place) {
  const values = {};
  for (const [name, fits] of Object.entries(NUMBERS)) {
    const value = valueOf(place, name);
    if (value === UNKNOWN) {
      if (name === "steps" || name === "budget") return { reason: words().fromAnotherNode(name) };
      continue;
    }
    const { min = 0, max = 1024 } = place.node.widgets?.find((widget) => widget.name === name)?.options ?? {};
    if (!fits(value) || value < min || value > max) return { reason: words().outOfRange(name, value, min, max) };
    values[name] = value;
  }
  return { values };
}

/** Write numbers into the widgets that set them; one step for undo. Those that links set stay. */
export function write(place, values) {
  const { canvas } = app;
  canvas.emitBeforeChange?.();
  try {
    for (const [name, value] of Object.entries(values)) {
      const { node, widget } = settingOf(place, name) ?? {};
      if (!widget || !NUMBERS[name]?.(value)) continue;
      widget.value = value;
      widget.callback?.(value, canvas, node);
    }
  } finally {
    canvas.emitAfterChange?.();
  }
  place.node.setDirtyCanvas?.(true, true);
}

/** Grey a widget that does nothing as things stand. */
export function setDisabled(node, name, disabled) {
  const widget = node.widgets?.find((widget) => widget.name === name);
  if (!widget || Boolean(widget.disabled) === disabled) return;
  widget.disabled = disabled;
  node.setDirtyCanvas?.(true, true);
}
