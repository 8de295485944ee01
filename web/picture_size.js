/** How many pixels a picture has, as far as the page can tell before a run: of a file that is loaded, or of an empty image. */

import { api } from "../../scripts/api.js";
import { UNKNOWN, valueOf } from "./graph.js";

const LOADERS = { LoadImage: "input", LoadImageOutput: "output" }; // and the folder that they load from
const EMPTY = "EmptyImage";
const NAMED = /^(?:(.*)\/)?([^/]+?)(?: \[(input|output|temp)\])?$/; // as loaders write it: folder/file [where]

const FRESH = 5000; // ms in which a file is not looked at again: another picture may be saved under its name

/** By URL: `{ size, asked }`, "width x height" as text, or null while it is not known, and when the server was last asked. */
const sizes = new Map();

/** Called when the size of a picture has become known. */
export const onSize = new EventTarget();

/** The size of the picture that a place gives, such as "512x768"; null where it is not known, or not yet. */
export function sizeOfPicture(place) {
  if (!place) return null;
  if (place.node.type === EMPTY) {
    const sides = ["width", "height"].map((name) => valueOf(place, name));
    return sides.includes(UNKNOWN) ? null : sides.join("x");
  }
  const folder = LOADERS[place.node.type];
  const file = folder && valueOf(place, "image");
  return typeof file === "string" ? sizeOfFile(file, folder) : null;
}

function sizeOfFile(file, folder) {
  const [, subfolder = "", filename, type = folder] = file.match(NAMED) ?? [];
  if (!filename) return null;
  const url = api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
  const { size = null, asked = -Infinity } = sizes.get(url) ?? {};
  if (performance.now() - asked > FRESH) ask(url, size);
  return size;
}

/** Look at a file; `known` is its size when it was last looked at. */
async function ask(url, known) {
  const asked = performance.now();
  sizes.set(url, { size: known, asked });
  try {
    const answer = await fetch(url, { cache: "no-cache" }); // the server says whether it has changed
    if (!answer.ok) throw new Error(answer.statusText);
    const picture = await createImageBitmap(await answer.blob());
    const size = `${picture.width}x${picture.height}`;
    picture.close();
    sizes.set(url, { size, asked });
    if (size !== known) onSize.dispatchEvent(new Event("size"));
  } catch {
    sizes.delete(url); // no picture; it may be there later
  }
}
