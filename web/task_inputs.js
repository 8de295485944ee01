/**
 * The inputs of a node with a list of tasks: widgets that do not count for a task are taken away, such as the text of MIGM Prompt where a
 * task has words of its own; and sockets that a task brings are labelled in the page's language, which the host does for widgets only.
 *
 * A node names such widgets in its schema: `"migm_unused": { list: [value, ...] }` in the options of a widget.
 */

import { app } from "../../scripts/app.js";
import { isOurLabel, words } from "./words.js";

const KEY = "migm_unused";

/** The rules of a node, each as `{ widget, list, values }`. */
function rulesOf(node) {
  const { required = {}, optional = {} } = node.constructor.nodeData?.input ?? {};
  const named = (name) => node.widgets?.find((widget) => widget.name === name);
  return Object.entries({ ...required, ...optional })
    .flatMap(([name, [, options]]) => Object.entries(options?.[KEY] ?? {}).map(([list, values]) => ({ widget: named(name), list: named(list), values })))
    .filter(({ widget, list }) => widget && list);
}

function apply(node, rules, saved = []) {
  for (const { widget, list, values } of rules) {
    const unused = values.includes(list.value);
    widget.hidden = unused; // in the classic canvas
    widget.disabled = unused; // in Vue nodes, which have seen by now whether it is hidden: there it is grey
    label(node, `${list.name}.`, saved);
  }
  const [width, height] = node.size;
  const least = LiteGraph.vueNodesMode ? 0 : node.computeSize()[1];
  if (height < least) node.setSize([width, least]); // Vue nodes grow by themselves
  node.setDirtyCanvas?.(true, true);
}

/**
 * Label the sockets that a list brings, whose names begin like this. What a user has named stays, also in the inputs of a workflow as they were
 * `saved`: the host makes the sockets anew.
 */
function label(node, prefix, saved) {
  for (const input of node.inputs ?? []) {
    if (!input.name.startsWith(prefix) || input.widget) continue;
    const name = input.name.slice(prefix.length);
    const label = saved.find((each) => each.name === input.name)?.label || input.label;
    const own = label && label !== input.name && !isOurLabel(label, name);
    input.label = own ? label : (words().sockets[name] ?? name);
  }
}

app.registerExtension({
  name: "MIGM.TaskInputs",

  nodeCreated(node) {
    const rules = node.comfyClass?.startsWith("MIGM") ? rulesOf(node) : [];
    if (!rules.length) return;
    for (const { list } of rules) {
      const { callback } = list;
      list.callback = function (...given) {
        const result = callback?.apply(this, given);
        apply(node, rules);
        return result;
      };
    }
    const { onConfigure } = node;
    node.onConfigure = function (...given) {
      onConfigure?.apply(this, given);
      apply(node, rules, given[0]?.inputs);
    };
  },
});
