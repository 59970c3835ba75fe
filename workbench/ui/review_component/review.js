// One reviewer at one run's tasks: draws the task, reads keys and clicks, and hands what was said to the outbox.
//
// The server takes every entry once under its nonce, and is never waited for: a key does at once what it does. Keys
// that arrive while the next task is on its way are played when it is there. The outbox, the reviewer's name in this
// browser and the look are those of Rank.

const RESEND_MS = 6000;
const LOOK_AGAIN_MS = 5000;
const MOST_EXAMPLES = 5;

class ReviewDesk extends KeyDesk {
  constructor(root) {
    super(root, { kind: "review", entry: "candidate", item: "id" });
    this.said = []; // what this page submitted, for taking back
    this.lookedAt = Date.now();
    this.edit = null; // the wording while it is being changed
    this.build();
  }

  // ---- to and from the server ----

  receive(data, send) {
    this.send = send;
    const before = this.data;
    this.data = data;
    if (data.seq >= this.sentSeq) this.sentAt = 0;
    if (!data.reviewer) {
      const known = recall(RATER);
      if (known && !data.problem) this.tell(known);
      this.draw();
      return;
    }
    keep(RATER, data.reviewer);
    if (!before || before.run !== data.run || before.reviewer !== data.reviewer) {
      this.outbox = new Outbox(data.run, data.reviewer);
      this.drafts = new Drafts(data.run, data.reviewer);
      this.item = null;
      this.edit = null;
      this.said = [];
    }
    for (const [nonce, problem] of Object.entries(data.results)) this.settle(nonce, problem);
    this.refill(data.items);
  }

  // What the server did with an entry: a refused wording is kept, so that it can be changed and sent again.
  settle(nonce, problem) {
    const entry = this.outbox.all().find((other) => other.nonce === nonce);
    if (!entry) return;
    this.outbox.drop(nonce);
    if (!problem) return;
    const refused = this.said.find((other) => other.nonce === nonce);
    this.note = (refused ? "Task " + refused.item.number.toLocaleString("en") + ": " : "") + problem;
    if (entry.kind === "review") {
      this.said = this.said.filter((other) => other.nonce !== nonce);
      if (entry.verdict === "edit") this.drafts.save(entry.candidate, pick(entry));
    }
  }

  tell(reviewer) {
    this.sentSeq = stamp();
    this.sentAt = Date.now();
    const entries = this.outbox && this.data.reviewer ? this.outbox.all() : [];
    this.send({ seq: this.sentSeq, reviewer: reviewer ?? this.data.reviewer, run: this.data.run, entries });
  }

  // Sends again what got no answer, and looks for tasks that the run has written meanwhile.
  watch() {
    if (!this.data || !this.data.reviewer || !this.send) return;
    const waited = Date.now() - this.sentAt;
    if (this.sentAt ? waited > RESEND_MS : this.outbox.all().length > 0) this.tell();
    else if (!this.item && this.data.growing && Date.now() - this.lookedAt > LOOK_AGAIN_MS) {
      this.lookedAt = Date.now();
      this.tell();
    }
    this.drawSaved();
  }

  // ---- the task ----

  open(item) {
    this.item = item;
    this.edit = null;
    this.drawn = false;
  }

  review(verdict, edit = null) {
    const { item } = this;
    const nonce = makeNonce();
    this.said.push({ nonce, item, edit, verdict });
    this.drafts.drop(item.id);
    this.note = "";
    this.leaveField();
    this.item = null;
    this.submit({ kind: "review", nonce, candidate: item.id, verdict, ...(edit ?? {}) });
    this.advance();
    this.draw();
  }

  undo() {
    const taken = new Set(this.outbox.all().filter((entry) => entry.kind === "undo").map((entry) => entry.target));
    const last = this.said.pop() ?? this.data.history.find((entry) => !taken.has(entry.nonce));
    if (!last) {
      this.say("There is nothing of yours to take back.");
      return;
    }
    if (this.item) this.ahead.unshift(this.item);
    this.data.history = this.data.history.filter((entry) => entry.nonce !== last.nonce);
    if (last.edit) this.drafts.save(last.item.id, last.edit);
    this.submit({ kind: "undo", nonce: makeNonce(), target: last.nonce, candidate: last.item.id, verdict: last.verdict });
    this.open(last.item);
    this.say("Taken back. What about this one?");
  }

  // ---- editing ----

  startEdit() {
    const { item } = this;
    this.edit = this.drafts.load(item.id) ?? pick(item);
    this.note = "";
    this.drawEdit();
    this.draw();
    this.parts.instruction.focus();
  }

  changeEdit(change) {
    change(this.edit);
    this.drafts.save(this.item.id, this.edit);
  }

  stopEdit() {
    this.leaveField();
    this.edit = null;
    this.draw();
  }

  dropEdit() {
    this.drafts.drop(this.item.id);
    this.stopEdit();
  }

  saveEdit() {
    const instruction = this.edit.instruction.trim();
    const instances = this.edit.instances
      .map((each) => ({ input: each.input.trim(), output: each.output.trim() }))
      .filter((each) => each.input || each.output);
    if (!instruction) return this.say("The instruction is empty. Write one, or reject the task.");
    if (!instances.length) return this.say("An example needs an output.");
    const empty = instances.findIndex((each) => !each.output);
    if (empty >= 0) return this.say("Example " + (empty + 1) + " has no output. Write one, or drop the example.");
    const edit = { instruction, instances };
    const same = JSON.stringify(edit) === JSON.stringify(pick(this.item));
    return same ? this.review("accept") : this.review("edit", edit);
  }

  // ---- keys ----

  hear(event) {
    if (!this.data || event.isComposing) return;
    const path = event.composedPath();
    const target = path[0];
    const inside = path.includes(this.root);
    if (isField(target)) {
      if (inside) this.hearField(event, target);
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (path.some((node) => node instanceof Element && node.matches("[role=dialog], [role=menu], [role=listbox]"))) return;
    if (!["a", "e", "r", "Backspace", "Escape"].includes(event.key.length === 1 ? event.key.toLowerCase() : event.key)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.repeat || !this.data.reviewer) return;
    this.press(event.key.toLowerCase());
  }

  hearField(event, field) {
    event.stopPropagation(); // the page around has shortcuts of its own
    if (field === this.parts.name) {
      if (event.key === "Enter") this.takeName(event);
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.stopEdit();
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      if (!event.repeat) this.saveEdit();
    }
  }

  press(key) {
    if (!this.item && (this.waitingKeys.length || (key !== "backspace" && this.moreMayCome()))) {
      this.waitingKeys.push(key);
      this.draw();
      return;
    }
    this.play(key);
  }

  // Keys wait for a task that is known to be there, never for one that the run may still write: nobody has seen that.
  moreMayCome() {
    const asked = Boolean(this.sentAt) || Boolean(this.outbox && this.outbox.all().length);
    return asked && (!this.data.counts || this.counts().left > 0);
  }

  // The server's counts with what it does not know yet.
  counts() {
    const told = { ...this.data.counts };
    for (const entry of this.outbox.all()) {
      const step = entry.kind === "undo" ? -1 : 1;
      const name = entry.verdict === "reject" ? "rejected" : "accepted";
      told[name] = Math.max(0, told[name] + step);
      told.left = Math.max(0, told.left - step);
    }
    return told;
  }

  play(key) {
    if (this.edit) {
      if (key === "escape") this.stopEdit();
      else this.say("Save your wording first, or close it with Escape.");
      return;
    }
    if (key === "backspace") this.undo();
    else if (!this.item) return;
    else if (key === "a") this.review("accept");
    else if (key === "r") this.review("reject");
    else if (key === "e") this.startEdit();
  }

  changeName() {
    forget(RATER);
    this.data = { ...this.data, reviewer: null, problem: "" };
    this.item = null;
    this.draw();
    this.parts.name.focus();
  }

  // ---- drawing ----

  build() {
    const button = (name, label, key, action, help) =>
      make(
        "button",
        { type: "button", class: "act " + name, title: help, on: { click: action } },
        make("span", { text: label }),
        key ? make("kbd", { text: key }) : null,
      );
    const guarded = (key) => () => {
      if (this.item && !this.edit) this.play(key);
    };
    this.parts = {
      name: make("input", { class: "name", type: "text", maxlength: "200", autocomplete: "name", placeholder: "Your name", "aria-label": "Your name" }),
      nameProblem: make("p", { class: "note", role: "alert" }),
      askName: make("form", { class: "ask-name", on: { submit: (event) => this.takeName(event) } }),
      top: make("div", { class: "top" }),
      bar: make("div", { class: "bar", role: "progressbar", "aria-label": "Reviewed" }, make("div", { class: "fill" })),
      progress: make("span", { class: "progress" }),
      verdicts: make("span", { class: "needed" }),
      saved: make("span", { class: "saved", role: "status" }),
      who: make("button", { type: "button", class: "who", title: "Review under another name", on: { click: () => this.changeName() } }),
      task: make("article", { class: "task" }),
      editBox: make("div", { class: "edit" }),
      note: make("p", { class: "note", role: "status", "aria-live": "polite" }),
      acts: make("div", { class: "acts", role: "group", "aria-label": "Keys" }),
      empty: make("div", { class: "empty" }, make("h3"), make("p")),
      work: make("div", { class: "desk" }),
    };
    const parts = this.parts;
    parts.askName.append(
      make("h3", { text: "Who is reviewing?" }),
      make("p", { text: "Your name is kept in this browser and stands beside what you say of each task." }),
      make("div", { class: "row" }, parts.name, make("button", { type: "submit", class: "act submit ready", text: "Start" })),
      parts.nameProblem,
    );
    parts.acts.append(
      button("accept ready", "Accept", "a", guarded("a"), "Into the dataset as it is"),
      button("edit-it", "Edit", "e", guarded("e"), "Change the wording or the examples, then accept"),
      button("reject", "Reject", "r", guarded("r"), "Leave it out"),
      button("undo", "Undo", "⌫", () => this.press("backspace"), "Take back what you said last"),
    );
    parts.work.append(parts.task, parts.editBox, make("div", { class: "panel" }, parts.note, parts.acts));
    parts.top.append(
      parts.bar,
      make("div", { class: "facts" }, parts.progress, parts.verdicts, make("span", { class: "gap" }), parts.saved, parts.who),
    );
    this.root.append(parts.askName, parts.top, parts.work, parts.empty);
  }

  draw() {
    const { parts, data, item } = this;
    if (!data) return;
    const asking = !data.reviewer;
    parts.askName.hidden = !asking || Boolean(this.sentAt);
    parts.top.hidden = asking;
    parts.work.hidden = asking || !item;
    parts.empty.hidden = (asking && !this.sentAt) || Boolean(item);
    if (asking) {
      parts.nameProblem.textContent = data.problem ?? "";
      this.drawEmpty();
      return;
    }
    this.drawTop();
    if (!item) {
      this.drawEmpty();
      return;
    }
    if (!this.drawn) this.drawTask();
    parts.task.hidden = Boolean(this.edit);
    parts.editBox.hidden = !this.edit;
    parts.acts.hidden = Boolean(this.edit);
    parts.note.textContent = this.note;
    parts.acts.querySelector(".edit-it").classList.toggle("begun", this.drafts.load(item.id) !== null);
  }

  drawTop() {
    const { parts, data } = this;
    const told = this.counts();
    const done = told.accepted + told.rejected;
    parts.bar.firstChild.style.width = (done + told.left ? (100 * done) / (done + told.left) : 100) + "%";
    parts.bar.setAttribute("aria-valuenow", String(done));
    parts.bar.setAttribute("aria-valuemax", String(done + told.left));
    parts.progress.textContent = done.toLocaleString("en") + " reviewed, " + told.left.toLocaleString("en") + " left";
    parts.verdicts.textContent = done ? told.accepted.toLocaleString("en") + " accepted, " + told.rejected.toLocaleString("en") + " rejected" : "";
    parts.who.textContent = data.reviewer;
    this.drawSaved();
  }

  drawEmpty() {
    const { parts, data } = this;
    const [head, body] = parts.empty.children;
    const told = data.reviewer ? this.counts() : null;
    const done = told ? told.accepted + told.rejected : 0;
    if (this.moreMayCome()) {
      head.textContent = "The next task is on its way";
      const keys = this.waitingKeys.length;
      body.textContent = keys ? plural(keys, "key") + " pressed so far will count for it." : "";
    } else if (data.growing) {
      head.textContent = "All that is there is reviewed";
      body.textContent = "The run is still writing; new tasks appear here by themselves.";
    } else {
      head.textContent = done ? "All done, thank you" : "Nothing to review";
      body.textContent = done
        ? "Every task that was kept is reviewed. Backspace still takes back what you said last."
        : "The filters kept no task. Under Candidates you can rescue one; a lower bar is set under Threshold.";
      if (this.note) body.textContent = this.note + " " + body.textContent;
    }
  }

  drawTask() {
    const { parts, item } = this;
    this.drawn = true;
    const examples = item.instances.map((each, place) =>
      make(
        "section",
        { class: "example" },
        item.instances.length > 1 ? make("h4", { text: "Example " + (place + 1) }) : null,
        each.input ? make("div", { class: "label", text: "Input" }) : null,
        each.input ? make("div", { class: "text input", dir: "auto", text: each.input }) : null,
        make("div", { class: "label", text: "Output" }),
        make("div", { class: "text output", dir: "auto", text: each.output }),
      ),
    );
    const facts = ["Task " + item.number.toLocaleString("en")];
    if (item.classification) facts.push("classification");
    if (item.dropped) facts.push(plural(item.dropped, "further example") + " thrown out");
    parts.task.replaceChildren(
      make("div", { class: "meta", text: facts.join(" · ") }),
      make("div", { class: "instruction text", dir: "auto", text: item.instruction }),
      make("div", { class: "examples" }, ...examples),
      item.nearest
        ? make(
            "div",
            { class: "nearest" },
            make("span", { class: "label", text: "Closest, " + item.score.toFixed(2) + " (" + item.nearest_kind + ")" }),
            make("span", { class: "text", dir: "auto", text: item.nearest }),
          )
        : null,
    );
    this.root.scrollIntoView({ block: "nearest" });
  }

  drawEdit() {
    const { parts, edit } = this;
    const area = (label, value, rows, change) => {
      const field = make("textarea", { rows: String(rows), dir: "auto", "aria-label": label });
      field.value = value;
      field.addEventListener("input", () => this.changeEdit(() => change(field.value)));
      return field;
    };
    const rowsOf = (text, least) => Math.min(12, Math.max(least, Math.ceil(text.length / 90) + text.split("\n").length - 1));
    parts.instruction = area("Instruction", edit.instruction, rowsOf(edit.instruction, 2), (value) => {
      edit.instruction = value;
    });
    const again = (change) => () => {
      this.changeEdit(change);
      this.drawEdit();
    };
    const examples = edit.instances.map((each, place) =>
      make(
        "fieldset",
        {},
        make(
          "div",
          { class: "row" },
          make("h4", { text: "Example " + (place + 1) }),
          edit.instances.length > 1
            ? make("button", { type: "button", class: "act quiet drop", text: "Drop this example", on: { click: again(() => edit.instances.splice(place, 1)) } })
            : null,
        ),
        make("label", { text: "Input, empty where the task needs none" }),
        area("Input of example " + (place + 1), each.input, rowsOf(each.input, 1), (value) => {
          each.input = value;
        }),
        make("label", { text: "Output" }),
        area("Output of example " + (place + 1), each.output, rowsOf(each.output, 2), (value) => {
          each.output = value;
        }),
      ),
    );
    parts.editBox.replaceChildren(
      make("label", { text: "Instruction" }),
      parts.instruction,
      ...examples,
      make(
        "div",
        { class: "acts" },
        make("button", { type: "button", class: "act ready save", on: { click: () => this.saveEdit() } }, make("span", { text: "Save and accept" }), make("kbd", { text: "Ctrl Enter" })),
        edit.instances.length < MOST_EXAMPLES
          ? make("button", { type: "button", class: "act", text: "Add an example", on: { click: again(() => edit.instances.push({ input: "", output: "" })) } })
          : null,
        make("button", { type: "button", class: "act", on: { click: () => this.stopEdit() } }, make("span", { text: "Close" }), make("kbd", { text: "Esc" })),
        make("button", { type: "button", class: "act quiet", text: "Forget my changes", on: { click: () => this.dropEdit() } }),
      ),
    );
  }
}

// The words of a task that an edit changes, as a copy.
function pick(task) {
  return {
    instruction: task.instruction,
    instances: task.instances.map(({ input, output }) => ({ input, output })),
  };
}

export default mountDesks(ReviewDesk);
