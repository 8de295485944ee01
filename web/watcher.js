/** One sampler's timeline, kept to what is set and connected, and to its last run. */

import { api } from "../../scripts/api.js";
import { questionOf } from "./question.js";
import { labelOf, setDisabled, write } from "./settings.js";
import { Timeline } from "./timeline.js";
import { words } from "./words.js";

const SETTLE = 120; // ms without a change before the server is asked

export class Watcher {
  /** Called when the timeline was looked after, whether or not it shows something else now. */
  onShow = () => {};

  constructor(node) {
    this.node = node;
    this.timeline = new Timeline();
    this.timeline.onPreset = (name) => this.#write(this.plan?.presets?.[name]);
    this.timeline.onOwn = () => this.#write(this.#own());
    this.asked = null; // the query that is shown or on its way
    this.plan = null; // its answer
    this.settings = []; // the names of all methods' settings, by the last plan that there was
    this.last = null; // the last run's summary, as long as its settings are set
    this.running = false;
  }

  /** Look again, soon. */
  refresh({ force = false } = {}) {
    if (force) this.asked = null;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#ask(), SETTLE);
  }

  async #ask() {
    const { query, reason, ...question } = questionOf(this.node);
    this.question = question;
    const now = asked({ query, reason });
    if (now === this.asked) return this.onShow();
    this.asked = now;
    this.request?.abort();
    if (!query) return this.#show(null, reason);
    const { signal } = (this.request = new AbortController());
    try {
      const response = await api.fetchApi(`/migm/plan?${query}`, { signal });
      const answer = await response.json();
      if (response.ok && Array.isArray(answer.kinds)) this.#show(answer, "");
      else this.#show(null, answer.error ?? words().noAnswer);
    } catch (error) {
      if (signal.aborted) return;
      this.asked = null; // ask again at the next change
      this.#show(null, words().noAnswer);
    }
  }

  #show(plan, reason) {
    this.plan = plan;
    this.reason = reason;
    if (plan) this.settings = plan.method_settings;
    for (const name of this.settings) setDisabled(this.node, name, Boolean(plan) && !plan.uses.includes(name)); // without a plan, each may count
    if (this.last && this.lastAsked !== undefined && this.lastAsked !== this.asked) this.last = null;
    if (this.last) this.lastAsked = this.asked;
    this.show();
  }

  /** Show the last run where it is of what is set, else the plan, else why there is none; while it runs, its steps stay. */
  show() {
    const { timeline, plan, reason } = this;
    const run = this.last && (!plan || isOf(this.last, plan)) ? this.last : null;
    if (!this.running) timeline.show(run?.kinds ?? plan?.kinds ?? [], run ? measured(run) : plan ? promise(plan) : "", plan?.legend);
    timeline.offer({ remarks: [...(reason ? [reason] : []), ...remarks(plan, run)], ...this.#choices(plan) });
    this.node.setDirtyCanvas?.(true, true);
    this.onShow();
  }

  /** The presets, where the method has a budget to set; and the model's own settings, where others are set. */
  #choices(plan) {
    const set = this.question?.values;
    if (!plan?.own || !set) return {};
    const fits = ({ steps, budget }) => steps === set.steps && budget === set.budget;
    const all = Object.entries(plan.presets ?? {}).sort(([, a], [, b]) => a.budget - b.budget);
    const presets = all.map(([name, preset]) => {
      return { name, label: words().presetNames[name] ?? name, title: words().preset(preset), pressed: fits(preset) };
    });
    const own = Object.entries(this.#own());
    const same = ([name, value]) => !(name in set) || (typeof value === "number" ? Math.abs(set[name] - value) < 1e-6 : set[name] === String(value));
    const ofBudget = ([name]) => name === "steps" || name === "budget";
    const ownSteps = presets.length ? presets.some(({ pressed }) => pressed) : set.steps === plan.own.steps;
    const isOwn = ownSteps && own.filter((entry) => !ofBudget(entry)).every(same);
    const said = own.map(([name, value]) => [labelOf(this.node, name), value]);
    return { presets, own: isOwn ? "" : words().own(said) };
  }

  /** The model's own settings, as far as the sampler has them. */
  #own() {
    const names = new Set(this.node.widgets.map(({ name }) => name));
    return Object.fromEntries(Object.entries(this.plan?.own ?? {}).filter(([name]) => names.has(name)));
  }

  #write(values) {
    if (values && this.question?.place) write(this.question.place, values);
    this.refresh();
  }

  /** Whether a run of a model may be this sampler's: another workflow may have one with the same id. Names are told by what they end in. */
  mayBeOf(model) {
    const own = this.question?.model;
    return !model || !own || lastPart(model) === lastPart(own);
  }

  /** A step has ended. */
  step({ step, steps, kind, width, height }) {
    if (!this.running) this.timeline.show(this.plan?.kinds.length === steps ? this.plan.kinds : [], "", this.plan?.legend);
    this.running = true;
    this.timeline.light(step, steps, kind, words().step(step + 1, steps, width && height ? words().size(width, height) : ""));
  }

  /** A run has ended; with its summary where it was not stopped. */
  end(run = null) {
    if (run && !this.mayBeOf(run.model)) return;
    this.running = false;
    if (Array.isArray(run?.kinds)) {
      this.last = run;
      this.lastAsked = asked(questionOf(this.node)); // what is set now may not have been asked yet
    }
    this.show();
  }

  dispose() {
    clearTimeout(this.timer);
    this.request?.abort();
  }
}

const lastPart = (name) => name.split(/[/\\]/).at(-1).toLowerCase();

/** Several runs of one sampler, of a list of prompts, as one. */
export function united(runs) {
  const last = runs.findLast(({ kinds }) => kinds?.length) ?? runs.at(-1); // one that had nothing masked says nothing of the others
  const all = (name) => [...new Set(runs.flatMap((run) => run[name] ?? []))];
  const seconds = runs.reduce((sum, run) => sum + run.seconds, 0);
  const ofVanilla = runs.reduce((sum, run) => sum + run.seconds * run.speed_up, 0);
  return { ...last, seconds, speed_up: last.speed_up && ofVanilla / seconds, cautions: all("cautions"), unknown_words: all("unknown_words") };
}

const asked = ({ query, reason }) => query?.toString() ?? reason;

const isOf = (run, plan) =>
  run.method === plan.method && run.steps === plan.steps && Object.entries(plan.settings ?? {}).every(([name, value]) => run.settings?.[name] === value);

const isAccelerated = (kinds) => kinds.some((kind) => kind !== "full" && kind !== "skipped");

/** The expected speed-up: what was measured with this model, else what its sizes allow. */
function promise({ kinds, speed_up }) {
  if (!isAccelerated(kinds)) return words().everyStepFull;
  if (!(speed_up?.value > 0)) return "";
  return speed_up.source === "measured" ? words().about(speed_up.value) : words().atMost(speed_up.value);
}

function measured({ kinds, seconds, speed_up }) {
  if (!kinds.length) return words().nothing;
  if (!isAccelerated(kinds)) return words().tookFull(seconds);
  return words().took(seconds, speed_up);
}

/** What is to be said of a plan and its last run: once each. */
function remarks(plan, run) {
  const say = words().fromServer;
  const notes = new Set((plan?.notes ?? []).map(say));
  const cautions = new Set([...(plan?.cautions ?? []), ...(run?.cautions ?? [])].map(say));
  const unknown = run?.unknown_words?.length ? [words().unknownWords(run.unknown_words)] : [];
  return [...notes, ...[...cautions, ...unknown].map((caution) => ({ caution }))];
}
