// From the view to the page. Everything is drawn anew: a fleet's page has hundreds of nodes, not thousands.
import { element, MEDIA, MEDIUM_WORDS, seconds, size, table, word } from "/console/words.js";
import { stateOf, sum, why } from "/console/view.js";

export function drawAgents(place, view) {
  const cards = view.sortedAgents().map((agent) => card(agent, view));
  place.replaceChildren(...(cards.length ? cards : [empty("no agent has registered yet")]));
}

function card(agent, view) {
  const ill = agent.health?.healthy === false || agent.health?.reason;
  const facts = [agent.zone, agent.price_class, agent.draining && "draining", `v${agent.version ?? "?"}`];
  const models = view.sortedModels().flatMap(([name, model]) =>
    (model.residencies ?? []).filter((held) => held.node === agent.node).map((held) => chip(name, held)));
  return element("article", { class: ill ? "card ill" : "card", "data-node": agent.node },
    element("h3", {}, agent.node),
    element("p", {}, facts.filter(Boolean).join(" · ")),
    ...(agent.media ?? []).map(mediumBar),
    element("p", {}, `${agent.running_requests ?? 0} running, ${agent.waiting_requests ?? 0} waiting`),
    element("div", {}, ...models),
    ...(ill ? [element("p", { class: "wrong" }, agent.health.reason || "unhealthy")] : []));
}

function mediumBar(medium) {
  const name = word(medium.medium, "MEDIUM_");
  const capacity = Number(medium.capacity_bytes ?? 0), used = Number(medium.used_bytes ?? 0);
  return bar(MEDIUM_WORDS[name], [[name, capacity ? used / capacity : 0]], `${size(used)} of ${size(capacity)}`);
}

function bar(label, shares, words) {
  const parts = shares.map(([kind, share]) =>
    element("i", { class: kind, width: `${Math.min(100, share * 100)}%` }));
  return element("div", { class: "bar" },
    element("span", {}, label), element("div", { class: "track" }, ...parts), element("span", {}, words));
}

function chip(name, held) {
  const state = word(held.state, "MODEL_STATE_");
  return element("span", { class: `chip ${state}`, title: held.reason ?? "" }, `${name}: ${state}`);
}

export function drawModels(body, view, chosen) {
  const rows = view.sortedModels().map(([name, model]) => {
    const state = stateOf(model), active = (model.residencies ?? []).filter((held) =>
      ["MODEL_STATE_ACTIVE", "MODEL_STATE_EXPANDING"].includes(held.state)).length;
    const wanted = model.scaling?.desired ?? 0;
    const number = (value) => element("td", { class: "number" }, String(value));
    return element("tr", { "data-model": name, tabindex: "0", "aria-selected": String(name === chosen) },
      element("td", {}, name),
      element("td", {}, element("span", { class: `chip ${state}` }, state)),
      number(active < wanted ? `${active} of ${wanted}` : String(active)),
      number(sum(model, "running_requests")), number(sum(model, "waiting_requests")),
      number(view.held[`${model.spec.ref.namespace}/${model.spec.ref.name}`] ?? 0),
      element("td", {}, why(model)));
  });
  body.replaceChildren(...(rows.length ? rows
    : [element("tr", {}, element("td", { colspan: "7", class: "empty" }, "no model is declared"))]));
}

export function drawTiers(place, model) {
  const rows = (model.residencies ?? []).flatMap((held) => (held.tiers ?? []).map((tier) => [
    held.node, tier.tier, MEDIUM_WORDS[word(tier.medium, "MEDIUM_")], size(tier.bytes ?? 0), tier.experts || ""]));
  place.replaceChildren(rows.length ? table(["Agent", "Tier", "Lies in", "Size", "Experts"], rows)
    : empty("nothing of it lies on any agent"));
}

const PHASES = ["queue", "schedule", "fetch", "read", "to_gpu", "init", "first_token"];

export function drawStarts(place, model) {
  const starts = (model.residencies ?? []).filter((held) => held.last_cold_start?.phases?.length);
  if (!starts.length) return place.replaceChildren(empty("no start has been seen"));
  place.replaceChildren(...starts.map((held) => {
    const phases = held.last_cold_start.phases.map((each) => [word(each.phase, "LOAD_PHASE_"), each.seconds ?? 0]);
    const total = phases.reduce((all, [, time]) => all + time, 0);
    const shares = phases.map(([phase, time]) => [`p${PHASES.indexOf(phase)}`, total ? time / total : 0]);
    const words = phases.map(([phase, time]) => `${phase.replace("_", " ")} ${seconds(time)}`).join(", ");
    return element("div", { class: "start" },
      bar(held.last_cold_start.path ?? "", shares, seconds(total)),
      element("p", { class: "facts" }, `${held.node}: ${words}`));
  }));
}

export function drawExperts(place, map) {
  const layers = map?.layers ?? [];
  if (!layers.length) return place.replaceChildren(empty("no experts, or none of them lies on an agent that serves"));
  const counts = {}, widths = new Map();
  const rows = layers.map((layer) => {
    const tiers = (layer.tiers ?? []).map((tier) => {
      const cells = [...atob(tier.media ?? "")].map((byte, index) => {
        const name = MEDIA[byte.charCodeAt(0)] ?? "unspecified";
        counts[name] = (counts[name] ?? 0) + 1;
        return element("i", { class: name, title: `layer ${layer.layer ?? 0}, ${tier.tier} ${index}: ${MEDIUM_WORDS[name]}` });
      });
      widths.set(tier.tier, Math.max(cells.length, widths.get(tier.tier) ?? 0));
      return element("div", { class: "cells" }, ...cells);
    });
    return element("div", { class: "layer" }, element("span", {}, String(layer.layer ?? 0)), ...tiers);
  });
  const shares = `2.2rem ${[...widths.values()].map((width) => `minmax(3.2rem, ${width}fr)`).join(" ")}`;
  const titles = element("div", { class: "titles" }, element("span", {}, "layer"),
    ...[...widths.keys()].map((tier) => element("b", {}, tier)));
  for (const row of [titles, ...rows]) row.style.gridTemplateColumns = shares;
  const legend = Object.entries(counts).flatMap(([name, count]) =>
    [element("i", { class: name }), `${MEDIUM_WORDS[name]} ${count}`]);
  place.replaceChildren(titles, ...rows, element("p", { class: "legend" }, `on ${map.node ?? ""}:`, ...legend));
}

export function drawScores(place, explanation) {
  const rows = (explanation?.candidates ?? []).map((each) => [
    each.agent ?? each.node, each.excluded ? "–" : each.score ?? 0, each.cache_level ?? 0, each.kv_hit_rate ?? 0,
    each.queue_length ?? 0, each.load_seconds ?? 0, each.excluded ?? ""]);
  place.replaceChildren(rows.length
    ? table(["Agent", "Score", "Cache level", "Prefix found", "Waiting", "Seconds to load", "Can't, because"], rows)
    : empty("no agent"));
}

export function drawChoices(select, view) {
  const names = view.sortedModels().map(([name]) => name);
  if (names.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
  const kept = select.value;
  select.replaceChildren(...names.map((name) => element("option", {}, name)));
  if (names.includes(kept)) select.value = kept;
}

function empty(words) {
  return element("p", { class: "empty" }, words);
}
