/** What the page asks the server about a sampler: with what it would run, as far as the page can tell. */

import { UNKNOWN, placeOf, sourceOf, valueOf } from "./graph.js";
import { numbersOf } from "./settings.js";
import { words } from "./words.js";

const LOADER = "MIGMLoadLumina";
const PROMPT = "MIGMPrompt";
const EMPTY_CANVAS = "MIGMEmptyCanvas";
const MAX_NAME = 1024; // characters

/**
 * What to ask for a sampler.
 *
 * Returns its `place`, and a `query` with the `values` of its numbers, or the `reason` why nothing can be asked;
 * `usesBudget` is whether its method looks at the budget.
 */
export function questionOf(node) {
  const place = placeOf(node);
  if (!place) return { reason: "", usesBudget: true };
  const method = valueOf(place, "method");
  const hasHead = Boolean(sourceOf(place, "head"));
  const usesBudget = hasHead && (method === "shortcut" || method === UNKNOWN);
  const { values, reason } = numbersOf(place);
  if (reason) return { place, reason, usesBudget };
  if (method === UNKNOWN) return { place, reason: words().fromAnotherNode("method"), usesBudget };
  const loader = sourceOf(place, "model");
  if (!loader) return { place, reason: words().connectModel, usesBudget };
  const model = loader.node.type === LOADER ? valueOf(loader, "model") : UNKNOWN;
  if (typeof model !== "string" || model.length > MAX_NAME) return { place, reason: words().modelFromAnotherNode, usesBudget };
  const query = new URLSearchParams({ model, method: String(method).slice(0, MAX_NAME), head: hasHead ? 1 : 0, ...values, ...sizeOf(place) });
  const negative = hasNegative(place);
  if (negative !== null) query.set("negative", negative ? 1 : 0);
  return { place, query, values, usesBudget };
}

/** Width, height and number of the pictures where an empty canvas gives them; without a canvas it is one of the model's own size. */
function sizeOf(place) {
  const canvas = sourceOf(place, "canvas");
  if (!canvas) return { batch: 1 };
  if (canvas.node.type !== EMPTY_CANVAS) return {};
  const size = ["width", "height", "batch"].map((name) => [name, valueOf(canvas, name)]);
  return Object.fromEntries(size.filter(([, number]) => Number.isInteger(number) && number > 0 && number < 1e6));
}

/** Whether there is a negative prompt; null where that is not known. */
function hasNegative(place) {
  const prompt = sourceOf(place, "prompt");
  if (prompt?.node.type !== PROMPT) return null;
  const negative = valueOf(prompt, "negative");
  return negative === UNKNOWN ? null : String(negative).trim() !== "";
}
