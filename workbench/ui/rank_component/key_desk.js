// What a desk that is worked by keys does whatever is judged at it: it is never behind a key, keeps what the server has
// not taken yet, and plays keys that came early. A desk says what its entries are called, and draws.

class KeyDesk {
  // names: kind of an entry that settles an item, and where entry and item say which item that is.
  constructor(root, names) {
    this.root = root;
    this.names = names;
    this.data = null;
    this.item = null;
    this.ahead = []; // items after this one
    this.waitingKeys = [];
    this.sentSeq = 0;
    this.sentAt = 0;
    this.note = "";
    this.onKey = (event) => this.hear(event);
    window.addEventListener("keydown", this.onKey, true);
    this.timer = window.setInterval(() => this.watch(), 1000);
  }

  close() {
    window.removeEventListener("keydown", this.onKey, true);
    window.clearInterval(this.timer);
  }

  submit(entry) {
    this.outbox.add(entry);
    if (!this.sentAt) this.tell();
  }

  // Takes up the items that the server offers, less those that something was said of.
  refill(items) {
    const { entry: inEntry, item: inItem } = this.names;
    const pending = this.outbox.all();
    const gone = this.goneItems(pending);
    // What was just taken back is here, although the server may not know yet that it is open again.
    const back = new Set(pending.filter((entry) => entry.kind === "undo").map((entry) => entry[inEntry]));
    const kept = this.ahead.filter((item) => back.has(item[inItem]));
    const others = items.filter((item) => !kept.some((other) => other[inItem] === item[inItem]));
    const offered = [...kept, ...others].filter((item) => !gone.has(item[inItem]));
    if (this.item) {
      this.ahead = offered.filter((item) => item[inItem] !== this.item[inItem]);
    } else {
      this.ahead = offered;
      this.advance();
    }
    if (pending.length && !this.sentAt) this.tell();
    this.playWaitingKeys();
    this.draw();
  }

  // Items that something was said of although the server may not know it yet.
  goneItems(pending) {
    const gone = new Map();
    for (const entry of pending) {
      if (entry.kind === this.names.kind) gone.set(entry.nonce, entry[this.names.entry]);
      if (entry.kind === "undo") gone.delete(entry.target);
    }
    return new Set(gone.values());
  }

  advance() {
    this.open(this.ahead.shift() ?? null);
  }

  say(note) {
    this.note = note;
    this.draw();
  }

  playWaitingKeys() {
    while (this.item && this.waitingKeys.length) this.play(this.waitingKeys.shift());
    if (!this.item && !this.moreMayCome()) this.waitingKeys = [];
  }

  leaveField() {
    const focused = this.root.getRootNode().activeElement;
    if (isField(focused)) focused.blur();
  }

  takeName(event) {
    event.preventDefault();
    const name = this.parts.name.value.trim();
    if (name) this.tell(name);
    else this.parts.name.focus();
  }

  drawSaved() {
    if (!this.outbox) return;
    const pending = this.outbox.all().length;
    const late = this.sentAt && Date.now() - this.sentAt > 3000;
    this.parts.saved.textContent = pending ? (late ? plural(pending, "change") + " kept here, not sent yet" : "Saving") : "Saved";
    this.parts.saved.classList.toggle("late", Boolean(pending && late));
  }
}

// The component's function for a kind of desk: one desk for each place in the page.
function mountDesks(Kind) {
  const desks = new WeakMap();
  return (component) => {
    const { parentElement, data, setStateValue } = component;
    let desk = desks.get(parentElement);
    if (!desk) {
      desk = new Kind(parentElement.querySelector(".rank"));
      desks.set(parentElement, desk);
    }
    desk.receive(data, (outbox) => setStateValue("outbox", outbox));
    return () => {
      desk.close();
      desks.delete(parentElement);
    };
  };
}
