// Talking to the orchestrator: one key, JSON answers, and streams of server-sent events read by fetch, because
// EventSource can't carry a key.
let key = sessionStorage.getItem("lite-llm-key") ?? "";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function useKey(value) {
  key = value;
  sessionStorage.setItem("lite-llm-key", value);
}

export async function ask(path, { signal, body } = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body),
  });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  throw new Refused(answer.status, told?.error?.message ?? `${answer.status} ${answer.statusText}`);
}

export async function asked(path) {
  return (await ask(path)).json();
}

// Yields {event, data} until the server ends the stream; comments are left out.
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const found = { event: "message", data: "" };
        for (const row of part.split("\n")) {
          if (row.startsWith("event: ")) found.event = row.slice(7);
          if (row.startsWith("data: ")) found.data += row.slice(6);
        }
        if (found.data) yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
