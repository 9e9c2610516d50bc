// One completion at a time, streamed, with what the headers and the explanation tell.
import { ask, events } from "/console/line.js";
import { drawScores } from "/console/draw.js";
import { seconds } from "/console/words.js";

const at = (id) => document.getElementById(id);

export function playground() {
  let running = null;
  at("try-stop").addEventListener("click", () => running?.abort());
  at("try").addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    if (running) return;
    running = new AbortController();
    at("try-go").disabled = true;
    at("try-stop").disabled = false;
    try {
      await stream(running.signal);
    } catch (error) {
      tell(error.name === "AbortError" ? "stopped" : error.message, error.name !== "AbortError");
    } finally {
      running = null;
      at("try-go").disabled = false;
      at("try-stop").disabled = true;
    }
  });
}

async function stream(signal) {
  const answer = at("try-answer"), began = performance.now();
  answer.textContent = "";
  at("try-scores").replaceChildren();
  tell("waiting for the first token");
  const extension = { explain: true };
  if (at("try-tiers").value) extension.tier_set = at("try-tiers").value;
  const response = await ask("/v1/completions", {
    signal,
    body: {
      model: at("try-model").value, prompt: at("try-prompt").value, stream: true,
      max_tokens: Number(at("try-tokens").value), seed: Number(at("try-seed").value),
      stream_options: { include_usage: true }, lite_llm: extension,
    },
  });
  let first = null, told = null, usage = null;
  for await (const { data } of events(response)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    told = chunk.lite_llm ?? told;
    usage = chunk.usage ?? usage;
    const text = chunk.choices?.[0]?.text ?? "";
    if (text && first === null) first = performance.now();
    answer.append(text);
  }
  const ended = performance.now(), tokens = usage?.completion_tokens ?? 0;
  const facts = [
    told?.agent && `agent ${told.agent}`,
    told?.tiers?.length && `tiers ${told.tiers.join(", ")}`,
    first !== null && `first token after ${seconds((first - began) / 1000)}`,
    tokens > 1 && first !== null && `${((tokens - 1) / ((ended - first) / 1000)).toFixed(0)} tokens/s`,
    tokens && `${tokens} tokens`,
    told?.cold_start && `cold start: ${told.cold_start.path}, held ${seconds(told.cold_start.held)}`,
  ];
  tell(facts.filter(Boolean).join(" · "));
  if (told?.candidates) drawScores(at("try-scores"), told);
}

function tell(words, wrong = false) {
  at("try-facts").textContent = words;
  at("try-facts").classList.toggle("wrong", wrong);
}
