/** How many pixels a picture has, as far as the page can tell before a run: of a file that is loaded, or of an empty image. */

import { api } from "../../scripts/api.js";
import { UNKNOWN, valueOf } from "./graph.js";

const LOADERS = { LoadImage: "input", LoadImageOutput: "output" }; // and the folder that they load from
const EMPTY = "EmptyImage";
const NAMED = /^(?:(.*)\/)?([^/]+?)(?: \[(input|output|temp)\])?$/; // as loaders write it: folder/file [where]

/** By URL: "width x height" as text, or null while it is not known. */
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
  if (!sizes.has(url)) {
    sizes.set(url, null);
    const image = new Image();
    image.onload = () => {
      sizes.set(url, `${image.naturalWidth}x${image.naturalHeight}`);
      onSize.dispatchEvent(new Event("size"));
    };
    image.onerror = () => sizes.delete(url); // it may be there later
    image.src = url;
  }
  return sizes.get(url);
}
