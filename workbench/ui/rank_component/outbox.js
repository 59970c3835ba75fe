// What the server has not confirmed yet, and half-made rankings, in this browser's own storage.
//
// Every submission is an entry of its own, under its nonce: tabs never overwrite each other's, and a tab that was
// closed leaves its entries to the next one. The server takes a nonce once, so sending an entry again is harmless.

const STORE = "workbench.rank";
const RATER = STORE + ".rater";
const memory = new Map(); // where the browser refuses to store, this page still works until it is closed

function keep(key, value) {
  const text = JSON.stringify(value);
  memory.set(key, text);
  try {
    window.localStorage.setItem(key, text);
  } catch {
    return;
  }
}

function forget(key) {
  memory.delete(key);
  try {
    window.localStorage.removeItem(key);
  } catch {
    return;
  }
}

function recall(key) {
  let text = memory.get(key) ?? null;
  try {
    text = window.localStorage.getItem(key) ?? text;
  } catch {
    // memory it is
  }
  try {
    return text === null ? null : JSON.parse(text);
  } catch {
    return null;
  }
}

function keysWith(prefix) {
  const found = new Set([...memory.keys()].filter((key) => key.startsWith(prefix)));
  try {
    for (let place = 0; place < window.localStorage.length; place += 1) {
      const key = window.localStorage.key(place);
      if (key !== null && key.startsWith(prefix)) found.add(key);
    }
  } catch {
    // memory it is
  }
  return [...found];
}

let lastStamp = 0;

function stamp() {
  lastStamp = Math.max(Date.now() * 1000, lastStamp + 1);
  return lastStamp;
}

function makeNonce() {
  const bytes = window.crypto.getRandomValues(new Uint8Array(16)); // randomUUID is missing over plain HTTP
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

class Outbox {
  constructor(queue, rater) {
    this.prefix = [STORE, "sent", queue, rater, ""].join("|");
  }

  add(entry) {
    keep(this.prefix + entry.nonce, { ...entry, at: stamp() });
  }

  all() {
    const entries = keysWith(this.prefix).map(recall);
    return entries.filter((entry) => entry && entry.nonce).sort((one, other) => one.at - other.at);
  }

  drop(nonce) {
    forget(this.prefix + nonce);
  }
}

class Drafts {
  constructor(queue, rater) {
    this.prefix = [STORE, "draft", queue, rater, ""].join("|");
  }

  save(slot, draft) {
    keep(this.prefix + slot, draft);
  }

  load(slot) {
    return recall(this.prefix + slot);
  }

  drop(slot) {
    forget(this.prefix + slot);
  }
}
