/**
 * The host labels a preview with the preview's own size. The picture's is another one, as the host enlarges or shrinks previews to its
 * preview size: say the picture's. Where a host draws its labels in another way than is known here, they stay as they are.
 */

import { app } from "../../scripts/app.js";

const PREVIEW = "$$canvas-image-preview"; // the host's widget in the classic canvas
const LABEL = /^\d+ × \d+$/;

/** The picture's size, width and height in pixels, by node. */
const sizes = new WeakMap();
const labelled = new WeakSet();

/** Label the previews of a node with this size from now on. */
export function labelPreviews(node, width, height) {
  sizes.set(node, { width, height });
  labelInCanvas(node);
}

/** In the classic canvas: put the picture's size in the place of the preview's, as the host writes that. */
export function labelInCanvas(node) {
  const widget = sizes.has(node) && node.widgets?.find(({ name }) => name === PREVIEW);
  if (!widget?.drawWidget || labelled.has(widget)) return;
  labelled.add(widget);
  const draw = widget.drawWidget;
  widget.drawWidget = function (context, ...more) {
    const { width, height } = sizes.get(node);
    const write = context.fillText;
    const own = Object.hasOwn(context, "fillText"); // another extension's
    context.fillText = (text, ...at) => write.call(context, LABEL.test(text) ? `${width} × ${height}` : text, ...at);
    try {
      return draw.call(this, context, ...more);
    } finally {
      if (own) context.fillText = write;
      else delete context.fillText; // that of all canvases again
    }
  };
  node.setDirtyCanvas?.(true, true);
}

/** In Vue nodes: the host reads an image's size when it has loaded, after this has. */
export function labelInVueNodes() {
  document.addEventListener(
    "load",
    ({ target: image }) => {
      if (!(image instanceof HTMLImageElement) || !image.src.startsWith("blob:")) return;
      const id = image.closest("[data-node-id]")?.dataset.nodeId;
      const size = id && sizes.get(app.canvas?.graph?.getNodeById(id));
      if (!size) return;
      Object.defineProperty(image, "naturalWidth", { value: size.width, configurable: true });
      Object.defineProperty(image, "naturalHeight", { value: size.height, configurable: true });
    },
    { capture: true },
  );
}
