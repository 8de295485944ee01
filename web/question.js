/** What the page asks the server about a sampler: with what it would run, as far as the page can tell. */

import { UNKNOWN, placeOf, sourceOf, valueOf } from "./graph.js";
import { sizeOfPicture } from "./picture_size.js";
import { settingsOf } from "./settings.js";
import { words } from "./words.js";

const LOADERS = "MIGMLoad"; // how their types begin
const PROMPT = "MIGMPrompt";
const OF_TASKS = { MIGMPrompt: "task.", MIGMImageTask: "task.", MIGMEditImage: "" }; // and how the names of their pictures begin
const PICTURES = ["image", "style_image"];
const NO_TASK = "text-to-image";
const EMPTY_CANVAS = "MIGMEmptyCanvas";
const MAX_NAME = 1024; // characters

/**
 * What to ask for a sampler.
 *
 * Returns its `place`, and a `query` with the `values` of its settings and the name of its `model`, or the `reason` why nothing can be asked.
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
  const task = taskOf(place);
  const query = new URLSearchParams({ model, head: sourceOf(place, "head") ? 1 : 0, ...values, ...sizeOf(place, task), ...task });
  if (unknown.length) query.set("unknown", unknown.join());
  const negative = hasNegative(place);
  if (negative !== null) query.set("negative", negative ? 1 : 0);
  return { place, query, values, model };
}

/** Width, height and number of the images where an empty canvas gives them; without a canvas it is one of the model's own size, or a task's. */
function sizeOf(place, { task }) {
  const canvas = sourceOf(place, "canvas");
  if (!canvas) return task || sourceOf(place, "prompt")?.node.type !== PROMPT ? {} : { batch: 1 }; // of a task: as many as its pictures
  if (canvas.node.type !== EMPTY_CANVAS) return {};
  const size = ["width", "height", "batch"].map((name) => [name, valueOf(canvas, name)]);
  return Object.fromEntries(size.filter(([, number]) => Number.isInteger(number) && number > 0 && number < 1e6));
}

/** The task of a prompt with pictures, how closely these are followed, and their sizes as far as they are known. */
function taskOf(place) {
  const prompt = sourceOf(place, "prompt");
  const before = OF_TASKS[prompt?.node.type];
  if (before === undefined) return {};
  const task = prompt.node.type === "MIGMEditImage" ? "edit" : valueOf(prompt, "task");
  if (typeof task !== "string" || task === NO_TASK) return {};
  const names = PICTURES.map((name) => before + name).filter((name) => prompt.node.inputs?.some((input) => input.name === name));
  const pictures = names.map((name) => sizeOfPicture(sourceOf(prompt, name)) ?? "").join().replace(/,+$/, "");
  const scale = [`${before}image_cfg`, "image_cfg"].map((name) => valueOf(prompt, name)).find((value) => typeof value === "number");
  return { task, pictures, ...(scale === undefined ? {} : { image_cfg: scale }) };
}

/** Whether there is a negative prompt; null where that is not known. */
function hasNegative(place) {
  const prompt = sourceOf(place, "prompt");
  if (!(prompt?.node.type in OF_TASKS)) return null;
  const negative = valueOf(prompt, "negative");
  return negative === UNKNOWN ? null : String(negative).trim() !== "";
}
