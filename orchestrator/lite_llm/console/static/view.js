// The fleet as the stream tells it: the first event is whole, later ones are what changed.
import { nameOf } from "/console/words.js";

export class View {
  agents = new Map();
  models = new Map();
  held = {};

  saw(event) {
    for (const agent of event.agents ?? []) this.agents.set(agent.node, agent);
    for (const model of event.models ?? []) this.models.set(nameOf(model.spec.ref), model);
    for (const node of event.removed_agents ?? []) this.agents.delete(node);
    for (const ref of event.removed_models ?? []) this.models.delete(nameOf(ref));
  }

  sortedAgents() {
    return [...this.agents.values()].sort((a, b) => a.node.localeCompare(b.node));
  }

  sortedModels() {
    return [...this.models].sort(([a], [b]) => a.localeCompare(b));
  }
}

const NEAREST_FIRST = ["ACTIVE", "EXPANDING", "RECOVERING", "FROZEN", "WARM", "INIT"];

// The state that matters to whoever asks: of the agent where most is possible.
export function stateOf(model) {
  const states = (model.residencies ?? []).map((held) => (held.state ?? "").replace("MODEL_STATE_", ""));
  return (NEAREST_FIRST.find((state) => states.includes(state)) ?? "cold").toLowerCase();
}

export function sum(model, field) {
  return (model.residencies ?? []).reduce((total, held) => total + (held[field] ?? 0), 0);
}

export function why(model) {
  const ingestion = model.ingestion;
  if (ingestion && ingestion.state !== "INGESTION_STATE_DONE" && ingestion.reason) return ingestion.reason;
  const held = (model.residencies ?? []).map((each) => each.reason).filter(Boolean);
  return held[0] ?? model.scaling?.reason ?? "nobody has asked for it";
}
