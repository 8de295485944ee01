/** What the page asks the server about a sampler: with what it would run, as far as the page can tell. */

import { UNKNOWN, placeOf, sourceOf, valueOf } from "./graph.js";
import { settingsOf } from "./settings.js";
import { words } from "./words.js";

const LOADERS = "MIGMLoad"; // how their types begin
const PROMPT = "MIGMPrompt";
const EMPTY_CANVAS = "MIGMEmptyCanvas";
const MAX_NAME = 1024; // characters

/**
 * What to ask for a sampler.
 *
 * Returns its `place`, and a `query` with the `values` of its settings, or the `reason` why nothing can be asked.
 */
export function questionOf(node) {
  const place = placeOf(node);
  if (!place) return { reason: "" };
  const { values, unknown, reason } = settingsOf(place);
  if (reason) return { place, reason };
  const loader = sourceOf(place, "model");
  if (!loader) return { place, reason: words().connectModel };
  const model = loader.node.type?.startsWith(LOADERS) ? valueOf(loader, "model") : UNKNOWN;
  if (typeof model !== "string" || model.length > MAX_NAME) return { place, reason: words().modelFromAnotherNode };
  const query = new URLSearchParams({ model, head: sourceOf(place, "head") ? 1 : 0, ...values, ...sizeOf(place) });
  if (unknown.length) query.set("unknown", unknown.join());
  const negative = hasNegative(place);
  if (negative !== null) query.set("negative", negative ? 1 : 0);
  return { place, query, values };
}

/** Width, height and number of the pictures where an empty canvas gives them; without a canvas it is one of the model's own size. */
function sizeOf(place) {
  const canvas = sourceOf(place, "canvas");
  if (!canvas) return sourceOf(place, "prompt")?.node.type === PROMPT ? { batch: 1 } : {}; // of a task: its pictures', which only a run can tell
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
