// Follows the fleet for as long as the page is open, and draws at most once a frame.
import { ask, asked, events, useKey } from "/console/line.js";
import * as draw from "/console/draw.js";
import { playground } from "/console/playground.js";
import { View } from "/console/view.js";
import { counted } from "/console/words.js";

const EXPERTS_MS = 2000;
const RETRY_MS = 2000;
const at = (id) => document.getElementById(id);

let view = new View(), chosen = null, drawing = false;

function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (view.models.size && !view.models.has(chosen)) choose(view.sortedModels()[0][0]);
    draw.drawAgents(at("agents"), view);
    draw.drawModels(at("models").tBodies[0], view, chosen);
    draw.drawChoices(at("try-model"), view);
    const model = view.models.get(chosen);
    at("chosen").hidden = !model;
    if (!model) return;
    at("chosen-title").textContent = chosen;
    draw.drawTiers(at("tiers"), model);
    draw.drawStarts(at("starts"), model);
  });
}

function line(words, kind) {
  at("line").textContent = words;
  at("line").className = `line ${kind}`;
}

async function follow() {
  for (;;) {
    try {
      const answer = await ask("/lite-llm/v1/watch");
      at("key-form").hidden = true;
      view = new View();
      for await (const { event, data } of events(answer)) {
        if (event === "view") view.saw(JSON.parse(data));
        if (event === "held") view.held = JSON.parse(data);
        line(`live, ${counted(view.agents.size, "agent")}, ${counted(view.models.size, "model")}`, "live");
        redraw();
      }
      line("the orchestrator ended the line", "lost");
    } catch (error) {
      line(error.message, "lost");
      if (error.status === 401 || error.status === 403) return askForKey();
    }
    await new Promise((again) => setTimeout(again, RETRY_MS));
  }
}

function askForKey() {
  at("key-form").hidden = false;
  at("key").focus();
}

async function look() {
  const model = chosen;
  if (model && !document.hidden) {
    const query = `model=${encodeURIComponent(model)}`;
    const [experts, scores] = await Promise.allSettled(
      [asked(`/lite-llm/v1/experts?${query}`), asked(`/lite-llm/v1/scores?${query}`)]);
    if (model === chosen) {
      draw.drawExperts(at("experts"), experts.value);
      draw.drawScores(at("scores"), scores.value);
    }
  }
}

function choose(model) {
  if (!model || model === chosen) return;
  chosen = model;
  redraw();
  look();
}

const modelAt = (event) => event.target.closest("tr[data-model]")?.dataset.model;
at("models").addEventListener("click", (event) => choose(modelAt(event)));
at("models").addEventListener("keydown", (event) => {
  if (event.key === "Enter") choose(modelAt(event));
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(at("key").value);
  follow();
});
playground();
setInterval(look, EXPERTS_MS);
follow();
