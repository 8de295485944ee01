/** What the step timeline says, in the language of the page. The server speaks English: `notes` has what it may say, by its own words. */

import { app } from "../../scripts/app.js";

const times = (factor) => (factor < 10 ? factor.toFixed(1) : Math.round(factor));

const en = {
  steps: "Steps of the run",
  kinds: { full: "full", shortcut: "shortcut", partial: "partial" },
  step: (step, steps) => `Step ${step} of ${steps}`,
  stepOfKind: (step, steps, kind) => `Step ${step} of ${steps}: ${kind}`,
  upTo: (factor) => `Up to ${times(factor)} times as fast`,
  about: (factor) => `About ${times(factor)} times as fast, by the last run`,
  everyStepFull: "Every step full: not accelerated",
  took: (seconds, factor) => `Took ${seconds} s: measured ${times(factor)} times as fast`,
  tookFull: (seconds) => `Took ${seconds} s, every step full: not accelerated`,
  notAccelerated: (why) => `Not accelerated. ${why}`,
  notes: {},
  fromAnotherNode: (name) => `The steps will be known when it runs: ${name} comes from another node.`,
  connectModel: "Connect Load Lumina-DiMOO to see the steps: a preset depends on the model.",
  modelFromAnotherNode: "The steps will be known when it runs: the model is chosen by another node.",
  noAnswer: "The server does not answer, so the steps are not known.",
};

const zh = {
  steps: "运行的各步",
  kinds: { full: "完整", shortcut: "捷径", partial: "部分" },
  step: (step, steps) => `第 ${step} 步，共 ${steps} 步`,
  stepOfKind: (step, steps, kind) => `第 ${step} 步，共 ${steps} 步：${kind}`,
  upTo: (factor) => `最快可达 ${times(factor)} 倍速度`,
  about: (factor) => `按上次运行估计，约 ${times(factor)} 倍速度`,
  everyStepFull: "每一步都是完整步：未加速",
  took: (seconds, factor) => `用时 ${seconds} 秒：实测 ${times(factor)} 倍速度`,
  tookFull: (seconds) => `用时 ${seconds} 秒，每一步都是完整步：未加速`,
  notAccelerated: (why) => `未加速。${why}`,
  notes: {
    "No shortcut head is connected, so every step runs the whole model. Connect Load Shortcut Head to the input head.":
      "没有连接 Shortcut 头，所以每一步都运行整个模型。请把“加载 Shortcut 头”接到“Shortcut 头”输入。",
    "A single step leaves nothing to a shortcut head.": "只有一步，Shortcut 头无从替代。",
  },
  fromAnotherNode: (name) => `各步要到运行时才知道：${name} 来自另一个节点。`,
  connectModel: "连接“加载 Lumina-DiMOO”即可看到各步：预设取决于模型。",
  modelFromAnotherNode: "各步要到运行时才知道：模型由另一个节点选择。",
  noAnswer: "服务器没有响应，所以各步未知。",
};

/** The texts of the page's language, as it is now: English where there are none. */
export function words() {
  return app.ui?.settings?.getSettingValue("Comfy.Locale") === "zh" ? zh : en;
}
