/** What the step timeline says, in the language of the page. The server speaks English: `server` has what it may say, in English. */

import { app } from "../../scripts/app.js";

/** A speed-up to two digits, never above what it is. */
const times = (factor) => (factor < 10 ? (Math.floor(factor * 10 + 1e-9) / 10).toFixed(1) : Math.floor(factor));

const duration = (seconds) => (seconds < 10 ? Number(seconds).toPrecision(2) : Math.round(seconds));

const en = {
  steps: "Steps of the run",
  kinds: {}, // each as the server calls it
  step: (step, steps, size) => `Step ${step} of ${steps}${size && `, ${size}`}`,
  size: (width, height) => `${width} × ${height}`,
  stepOfKind: (step, steps, kind) => `Step ${step} of ${steps}: ${kind}`,
  atMost: (factor) => `At most ${times(factor)} times as fast, by the model's sizes`,
  about: (factor) => `About ${times(factor)} times as fast, measured`,
  everyStepFull: "Every step full: not accelerated",
  took: (seconds, factor) => `Took ${duration(seconds)} s${factor ? `: ${times(factor)} times as fast, measured` : ""}`,
  tookFull: (seconds) => `Took ${duration(seconds)} s, every step full: not accelerated`,
  nothing: "Nothing was generated: the canvas has no masked tokens.",
  presets: "Presets",
  presetNames: {},
  preset: ({ steps, budget }) => `${budget} of ${steps} steps full`,
  useOwn: "Use the model's settings",
  own: (settings) => settings.map(([name, value]) => `${name} ${value}`).join(", "),
  unknownWords: (list) => `Words of the last prompt that this model does not know: ${list.join(", ")}.`,
  fromServer: (sentence) => String(sentence),
  outOfRange: (name, value, min, max) => `${name} is ${shown(value)}, but must be a number from ${min} to ${max}.`,
  connectModel: "Connect a model to see the steps.",
  modelFromAnotherNode: "The steps will be known when it runs: the model is chosen by another node.",
  sockets: {}, // that a task brings, each by its name
  emptyAnswer: "(The answer is empty.)",
  noAnswer: "The server does not answer, so the steps are not known.",
};

const zh = {
  steps: "运行的各步",
  kinds: { full: "完整", shortcut: "捷径", partial: "部分", skipped: "跳过" },
  step: (step, steps, size) => `第 ${step} 步，共 ${steps} 步${size && `，${size}`}`,
  size: (width, height) => `${width} × ${height}`,
  stepOfKind: (step, steps, kind) => `第 ${step} 步，共 ${steps} 步：${kind}`,
  atMost: (factor) => `按模型的大小，最快 ${times(factor)} 倍速度`,
  about: (factor) => `实测约 ${times(factor)} 倍速度`,
  everyStepFull: "每一步都是完整步：未加速",
  took: (seconds, factor) => `用时 ${duration(seconds)} 秒${factor ? `：实测 ${times(factor)} 倍速度` : ""}`,
  tookFull: (seconds) => `用时 ${duration(seconds)} 秒，每一步都是完整步：未加速`,
  nothing: "没有生成任何内容：画布里没有被掩码的 token。",
  presets: "预设",
  presetNames: { Fast: "快速", Balanced: "均衡", Quality: "质量" },
  preset: ({ steps, budget }) => `${steps} 步中有 ${budget} 步完整`,
  useOwn: "使用模型自己的设置",
  own: (settings) => settings.map(([name, value]) => `${name} ${value}`).join("，"),
  unknownWords: (list) => `上次的提示词里，此模型不认识的词：${list.join("、")}。`,
  fromServer: (sentence) => translated(String(sentence)),
  outOfRange: (name, value, min, max) => `${name} 是 ${shown(value)}，应是 ${min} 到 ${max} 之间的数。`,
  connectModel: "连接模型即可看到各步。",
  modelFromAnotherNode: "各步要到运行时才知道：模型由另一个节点选择。",
  sockets: { model: "模型", image: "图像", style_image: "风格图像" },
  emptyAnswer: "（回答是空的。）",
  noAnswer: "服务器没有响应，所以各步未知。",
};

/** What the server may say, known by how it begins, each with its numbers and names as `(…)`; and the same in Chinese. */
const SENTENCES = [
  [/^No shortcut head is connected/, () => "没有连接 Shortcut 头，所以每一步都运行整个模型。请把“MIGM 加载 Shortcut 头”接到“Shortcut 头”输入。"],
  [/^The budget is not below the number of steps/, () => "预算不小于步数，所以每一步都运行整个模型。请减小预算，或增加步数。"],
  [/^This model was trained for (.+) pixels only; an image of (\w+) /, (sizes, size) => `此模型只为 ${sizes.replaceAll(" and ", "、")} 像素训练过；${size} 的图像会是噪声。`],
  [/^This model was not trained for guidance: cfg ([\d.e+-]+) /, (cfg) => `此模型没有为 cfg 训练过：cfg 为 ${cfg} 时图像更差，用时加倍。请把 cfg 设为 0。`],
  [/^(.+) was trained on another base model of the same shape than (.+): images/, (head, base) => `头 ${head} 是为另一个同样大小的基础模型训练的，不是 ${base}：图像可能较差。请使用为它训练的头。`],
  [/^This model was not trained for (.+), but for (.+): what it makes of it means nothing/, (task, others) =>
    `此模型没有为 ${task} 训练过，只为 ${others.replaceAll(", ", "、")} 训练过：它由此生成的内容没有意义。`],
  [/^Nothing says how many attention heads this model has, and its width, (\d+), is none of the published ones, (.+): (\d+) are assumed/, (width, known, heads) =>
    `没有文件说明此模型有几个注意力头，它的宽度 ${width} 也不是发布的 ${known.replaceAll(" and ", "、")}：按 ${heads} 个计算。如果图像是噪声，请在它旁边的 config.json 里写明。`],
  [/^The answer was not finished in (\d+) tokens/, (length) => `回答在 ${length} 个 token 里没有写完，可能在中间中断。请加大长度。`],
  [/^Kept keys and values were off by (\S+) nats where they were oldest, and (\S+) of/, (kl, share) =>
    `保留的键与值在最旧处偏差 ${kl} nats，那里有 ${share} 的最可能 token 不同。`],
  [/^The negative prompt changes nothing/, () => "cfg 为 0，所以负面提示词不起作用。"],
  [/^The whole model runs/, () => "运行整个模型。"],
  [/^The shortcut head predicts/, () => "由 Shortcut 头预测模型的计算结果。"],
  [/^The model runs for some tokens/, () => "模型只计算一部分 token，其余取自缓存。"],
  [/^(?:The picture|Picture (\d+)) has transparent parts/, (which) => `${which ? `第 ${which} 张` : ""}图片有透明部分：透明处按白色读取。`],
  [/^(?:The picture|Picture (\d+)) has more than 8 bits a channel/, (which) => `${which ? `第 ${which} 张` : ""}图片每通道超过 8 位：按 8 位读取。`],
  [/^The task (\S+) has words of its own: the prompt/, (task) => `任务 ${task} 有自己的文字：不读取提示词。`],
  [/^The transparent parts of the picture are what is generated/, () => "没有给遮罩，所以生成的是图片的透明部分。"],
  [/^The mask has (\w+) pixels and the picture (\w+): /, (mask, picture) => `遮罩是 ${mask} 像素，图片是 ${picture}：遮罩已缩放。`],
  [/^The picture is scaled from (\w+) to (\w+) pixels, whole tokens/, (size, to) =>
    `图片从 ${size} 缩放到 ${to} 像素，凑成整数个 token：所有像素都略有变化。要保持不变，请先裁剪到这个尺寸。`],
  [/^The mask takes all of the picture/, () => "遮罩占了整张图片：没有留下可以参照的部分。"],
  [/^The picture has (\w+) pixels, ([\d.]+) times what the model was trained on/, (size, factor) => `图片是 ${size} 像素，为模型训练尺寸的 ${factor} 倍：缩小后结果更好更快。`],
  [/^(?:The picture|Picture (\d+)) has (\w+) pixels, but the model takes pictures up to (\S+): only its middle, (\S+),/, (which, size, widest, share) =>
    `${which ? `第 ${which} 张` : ""}图片是 ${size} 像素，但模型接受的图片最宽为 ${widest}：只用了中间的 ${share}。`],
  [/^No token is unmasked/, () => "这一步不揭开任何 token，所以什么也不运行。"],
  [/^The steps will be known when it runs: (\w+) comes/, (name) => `各步要到运行时才知道：${name} 来自另一个节点。`],
  [/^budget is (\d+), but/, (budget) => `预算是 ${budget}，应在 2 到步数之间。`],
  [/^There is no model '(.*)'\. Found: (.*?)\. Put it/, (name, found) => `没有模型“${name}”。现有：${found}。请把它放进 models/migm，按 R 刷新，再选一次。`],
];

function translated(sentence) {
  for (const [pattern, say] of SENTENCES) {
    const match = sentence.match(pattern);
    if (match) return say(...match.slice(1));
  }
  return sentence;
}

const shown = (value) => String(value).slice(0, 20);

/** The texts of the page's language, as it is now: English where there are none. */
export function words() {
  return app.extensionManager?.setting?.get("Comfy.Locale") === "zh" ? zh : en;
}

/** Whether a socket that a task brings bears the label that it gets in some language, not one of its user. */
export function isOurLabel(label, name) {
  return label === name || [en, zh].some(({ sockets }) => label === sockets[name]);
}
