// Send requests to the studio, and show errors on the page.

const place = document.getElementById("problem");

export function say(problem) {
  place.textContent = problem;
  place.hidden = !problem;
  if (problem) place.scrollIntoView({ block: "nearest" });
}

// Send a request and return the JSON of the answer. Throws an Error with a message for the page.
export async function send(method, path, body) {
  const headers = { accept: "application/json" };
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The studio does not answer. Start it again, and open its new address.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `The studio answered ${response.status}. Reload this page.`);
  return answer;
}

// Call a function, and show the message of its error.
export async function attempt(call) {
  try {
    say("");
    return await call();
  } catch (error) {
    say(error.message);
  }
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function duration(seconds) {
  const s = Math.round(seconds), m = Math.floor(s / 60), h = Math.floor(m / 60);
  const two = number => String(number).padStart(2, "0");
  if (h) return `${h}h ${two(m % 60)}m`;
  return m ? `${m}m ${two(s % 60)}s` : `${s}s`;
}
