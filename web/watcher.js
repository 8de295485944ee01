/** One sampler's timeline, kept to what is set and connected, and to its last run. */

import { api } from "../../scripts/api.js";
import { questionOf } from "./question.js";
import { setDisabled, write } from "./settings.js";
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
    this.timeline.onOwn = () => this.#write(numbers(this.plan?.own));
    this.asked = null; // the query that is shown or on its way
    this.plan = null; // its answer
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
    const { query, reason, usesBudget, ...question } = questionOf(this.node);
    setDisabled(this.node, "budget", !usesBudget);
    this.question = { ...question, usesBudget };
    const asked = query?.toString() ?? reason;
    if (asked === this.asked) return this.onShow();
    this.asked = asked;
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
    if (this.last && this.lastAsked !== undefined && this.lastAsked !== this.asked) this.last = null;
    if (this.last) this.lastAsked = this.asked;
    this.show();
  }

  /** Show the last run where it is of what is set, else the plan, else why there is none; while it runs, its steps stay. */
  show() {
    const { timeline, plan, reason } = this;
    const run = this.last && (!plan || isOf(this.last, plan)) ? this.last : null;
    if (!this.running) timeline.show(run?.kinds ?? plan?.kinds ?? [], run ? measured(run) : plan ? promise(plan) : "");
    timeline.offer({ remarks: [...(reason ? [reason] : []), ...remarks(plan, run)], ...this.#choices(plan) });
    this.node.setDirtyCanvas?.(true, true);
    this.onShow();
  }

  /** The presets, where there is a head to use them; and the model's own settings, where others are set. */
  #choices(plan) {
    const set = this.question?.values;
    if (!plan?.own || !set) return {};
    const fits = ({ steps, budget }) => steps === set.steps && budget === set.budget;
    const all = this.question.usesBudget ? Object.entries(plan.presets ?? {}).sort(([, a], [, b]) => a.budget - b.budget) : [];
    const presets = all.map(([name, preset]) => {
      return { name, label: words().presetNames[name] ?? name, title: words().preset(preset), pressed: fits(preset) };
    });
    const { own } = plan;
    const ownSteps = presets.length ? presets.some(({ pressed }) => pressed) : set.steps === own.steps;
    const isOwn = ownSteps && ["cfg", "temperature"].every((name) => !(name in set) || Math.abs(set[name] - own[name]) < 1e-6);
    return { presets, own: isOwn ? "" : words().own(own) };
  }

  #write(values) {
    if (values && this.question?.place) write(this.question.place, values);
    this.refresh();
  }

  /** A step has ended. */
  step({ step, steps, kind, width, height }) {
    if (!this.running) this.timeline.show(this.plan?.kinds.length === steps ? this.plan.kinds : [], "");
    this.running = true;
    this.timeline.light(step, steps, kind, words().step(step + 1, steps, width && height ? words().size(width, height) : ""));
  }

  /** A run has ended; with its summary where it was not stopped. */
  end(run = null) {
    this.running = false;
    if (Array.isArray(run?.kinds)) {
      this.last = run;
      this.lastAsked = this.asked ?? undefined;
    }
    this.show();
  }

  dispose() {
    clearTimeout(this.timer);
    this.request?.abort();
  }
}

const isOf = (run, plan) => ["method", "steps", "budget"].every((name) => run[name] === plan[name]);

const numbers = (own) => own && { steps: own.steps, budget: own.budget, cfg: own.cfg, temperature: own.temperature };

const isAccelerated = (kinds) => kinds.some((kind) => kind === "shortcut" || kind === "partial");

/** The expected speed-up: what was measured with this model, else what its sizes allow. */
function promise({ kinds, speed_up }) {
  if (!isAccelerated(kinds)) return words().everyStepFull;
  if (!(speed_up?.value > 0)) return "";
  return speed_up.source === "measured" ? words().about(speed_up.value) : words().atMost(speed_up.value);
}

function measured({ kinds, seconds, speed_up }) {
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
