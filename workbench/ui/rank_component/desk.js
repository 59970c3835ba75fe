// One rater at one queue: draws the item, reads keys and clicks, and hands submissions to the outbox.
//
// A key press is never waited for: what it does is done here at once, and the server hears of it afterwards. Keys that
// arrive while the next item is still on its way are kept and played when it is there. Text of prompts and answers is
// only ever set as text.

const RESEND_MS = 6000;
const LOOK_AGAIN_MS = 8000;
const QUIET_MS = 1200; // without a key, after which a half ranking is told to the server
const SKIP_REASONS = ["I do not understand the prompt", "I do not know the subject", "Too alike to tell", "Something is broken"];

class Desk extends KeyDesk {
  constructor(root) {
    super(root, { kind: "vote", entry: "slot", item: "slot" });
    this.voted = []; // what this page submitted, for taking back
    this.changedAt = 0; // when the half ranking last changed without the server knowing
    this.kept = null; // the half ranking that the server had at the beginning, perhaps of another browser
    this.skipping = false;
    this.build();
  }

  // ---- to and from the server ----

  receive(data, send) {
    this.send = send;
    const before = this.data;
    this.data = data;
    if (data.seq >= this.sentSeq) this.sentAt = 0;
    if (!data.rater) {
      const known = recall(RATER);
      if (known && !data.problem) this.tell(known);
      this.draw();
      return;
    }
    if (!data.rater_fixed) keep(RATER, data.rater);
    if (!before || before.queue !== data.queue || before.rater !== data.rater) {
      this.outbox = new Outbox(data.queue, data.rater);
      this.drafts = new Drafts(data.queue, data.rater);
      this.kept = data.draft;
      this.item = null;
      this.voted = [];
    }
    for (const [nonce, problem] of Object.entries(data.results)) {
      this.outbox.drop(nonce);
      if (problem && !(before && before.results[nonce])) this.say(problem);
    }
    this.refill(data.items);
  }

  tell(rater) {
    this.sentSeq = stamp();
    this.sentAt = Date.now();
    const name = rater ?? this.data.rater;
    const told = { seq: this.sentSeq, rater: name, queue: this.data.queue, entries: this.outbox && this.data.rater ? this.outbox.all() : [] };
    if (this.data.rater && name === this.data.rater) {
      told.draft = this.halfRanking();
      this.changedAt = 0;
    }
    this.send(told);
  }

  // Sends again what got no answer, and looks for items that others gave back.
  watch() {
    if (!this.data || !this.data.rater || !this.send) return;
    const waited = Date.now() - this.sentAt;
    if (this.sentAt ? waited > RESEND_MS : this.outbox.all().length > 0) this.tell();
    else if (this.changedAt && !this.sentAt && Date.now() - this.changedAt > QUIET_MS) this.tell();
    else if (!this.item && this.data.held_by_others && Date.now() - (this.lookedAt ?? 0) > LOOK_AGAIN_MS) {
      this.lookedAt = Date.now();
      this.tell();
    }
    this.drawSaved();
  }

  // ---- the item ----

  open(item) {
    this.item = item;
    this.skipping = false;
    if (!item) return;
    const here = this.drafts.load(item.slot);
    const there = this.kept?.slot === item.slot ? this.kept : null;
    const draft = (there && there.at > (here?.at ?? 0) ? there : here) ?? {};
    if (there) this.kept = null;
    this.acts = draft.acts ?? [];
    this.comment = draft.comment ?? "";
    this.confidence = draft.confidence ?? null;
    this.edited = draft.edited ?? null;
    this.spent = draft.spent ?? 0;
    this.since = Date.now();
    this.drawn = false;
  }

  saveDraft() {
    if (!this.item) return;
    this.changedAt = Date.now();
    const half = this.halfRanking();
    if (half) this.drafts.save(this.item.slot, half);
    else this.drafts.drop(this.item.slot);
  }

  // What there is of a ranking that is not submitted; null where there is nothing.
  halfRanking() {
    if (!this.item) return null;
    const { acts, comment, confidence, edited } = this;
    if (!acts.length && !comment && confidence === null && edited === null) return null;
    return { slot: this.item.slot, at: Date.now(), acts, comment, confidence, edited, spent: this.spentSeconds() };
  }

  spentSeconds() {
    return this.spent + (Date.now() - this.since) / 1000;
  }

  order() {
    return readActs(this.acts, this.item.answers.length);
  }

  act(act) {
    this.acts = [...this.acts, act];
    this.note = "";
    this.saveDraft();
    this.draw();
  }

  vote(fields) {
    const { item } = this;
    const nonce = makeNonce();
    const entry = {
      kind: "vote",
      nonce,
      item: item.id,
      slot: item.slot,
      shown: item.answers.map((answer) => answer.id),
      tiers: [],
      unusable: [],
      all_bad: false,
      skipped: null,
      confidence: this.confidence,
      comment: this.comment,
      edited: null,
      seconds: Math.round(this.spentSeconds() * 100) / 100,
      ...fields,
    };
    this.voted.push({ nonce, item });
    this.drafts.drop(item.slot);
    this.note = "";
    this.leaveField();
    this.item = null;
    this.submit(entry);
    this.advance();
    this.draw();
  }

  finish() {
    const order = finishOrder(this.order());
    if (!order) {
      const left = this.order().left.map((answer) => LETTERS[answer]).join(", ");
      this.say("Still without a place: " + left + ".");
      return;
    }
    const ids = (answers) => answers.map((answer) => this.item.answers[answer].id);
    const best = order.tiers.length ? this.item.answers[order.tiers[0][0]] : null;
    const edited = best && this.edited !== null && this.edited.trim() && this.edited !== best.text ? this.edited : null;
    this.vote({ tiers: order.tiers.map(ids), unusable: ids(order.unusable), all_bad: order.allBad, edited });
  }

  skip(reason) {
    this.vote({ skipped: reason.trim() || "no reason given", confidence: null });
  }

  // Backspace: first what was done on this item, then the vote before it.
  undo() {
    if (this.item && this.acts.length) {
      this.acts = this.acts.slice(0, -1);
      this.note = "";
      this.saveDraft();
      this.draw();
      return;
    }
    const taken = new Set(this.outbox.all().filter((entry) => entry.kind === "undo").map((entry) => entry.target));
    const last = this.voted.pop() ?? this.data.history.find((vote) => !taken.has(vote.nonce));
    if (!last) {
      this.say("There is no vote of yours to take back.");
      return;
    }
    if (this.item) this.ahead.unshift(this.item);
    this.data.history = this.data.history.filter((vote) => vote.nonce !== last.nonce);
    this.submit({ kind: "undo", nonce: makeNonce(), target: last.nonce, slot: last.item.slot });
    this.open(last.item);
    this.say("Your last vote is taken back. Rank it again.");
  }

  startEdit() {
    const order = finishOrder(this.order()) ?? this.order();
    if (order.allBad || !order.tiers.length) {
      this.say("Put the best answer first, then e opens it for editing.");
      return;
    }
    this.edited = this.edited ?? this.item.answers[order.tiers[0][0]].text;
    this.draw();
    this.parts.edited.focus();
  }

  // ---- keys ----

  hear(event) {
    if (!this.data || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const path = event.composedPath();
    const target = path[0];
    const inside = path.includes(this.root);
    if (isField(target)) {
      if (inside) this.hearField(event, target);
      return;
    }
    if (path.some((node) => node instanceof Element && node.matches("[role=dialog], [role=menu], [role=listbox]"))) return;
    const activates = event.key === "Enter" || event.key === " ";
    if (activates && !inside && target instanceof Element && target.matches("a, button, summary, [role=button], [role=tab]")) return;
    if (!this.isShortcut(event.key)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.repeat || !this.data.rater) return;
    this.press(event.key);
  }

  isShortcut(key) {
    return /^[0-9]$/.test(key) || ["Enter", "Backspace", "Escape"].includes(key) || "txsecf".includes(key.toLowerCase());
  }

  hearField(event, field) {
    event.stopPropagation(); // the page around has shortcuts of its own
    if (event.key !== "Escape" && event.key !== "Enter") return;
    if (field === this.parts.reason) {
      event.preventDefault();
      if (event.key === "Enter") this.skip(field.value);
      else this.stopSkipping();
    } else if (field === this.parts.name) {
      if (event.key === "Enter") this.takeName(event);
    } else if (event.key === "Escape" || field === this.parts.comment) {
      event.preventDefault();
      this.leaveField();
    }
  }

  press(key) {
    if (!this.item && (this.waitingKeys.length || (key !== "Backspace" && this.moreMayCome()))) {
      this.waitingKeys.push(key);
      this.draw();
      return;
    }
    this.play(key);
  }

  moreMayCome() {
    return Boolean(this.sentAt) || Boolean(this.outbox && this.outbox.all().length);
  }

  play(pressed) {
    const key = pressed.toLowerCase();
    if (this.skipping) {
      if (key === "enter") this.skip(this.parts.reason.value);
      else if (key === "escape") this.stopSkipping();
      else if (key === "backspace") this.parts.reason.value = this.parts.reason.value.slice(0, -1);
      else this.parts.reason.value += key;
      return;
    }
    if (key === "backspace") this.undo();
    if (!this.item) return;
    if (/^[1-9]$/.test(key)) {
      const answer = Number(key) - 1;
      if (answer < this.item.answers.length) this.act({ do: "put", at: answer });
      else this.say("There are only " + this.item.answers.length + " answers.");
    } else if (key === "0") this.act({ do: "all-bad" });
    else if (key === "t") this.tie();
    else if (key === "x") this.markUnusable();
    else if (key === "s") this.startSkipping();
    else if (key === "e") this.startEdit();
    else if (key === "c") this.parts.comment.focus();
    else if (key === "f") this.setConfidence(this.confidence === 5 ? null : (this.confidence ?? 0) + 1);
    else if (key === "enter") this.finish();
  }

  tie() {
    const { tiers } = this.order();
    if (tiers.length < 2 && !(tiers.length === 1 && tiers[0].length > 1)) {
      this.say("Place two answers; then t ties the last with the one before.");
      return;
    }
    this.act({ do: "tie" });
  }

  markUnusable() {
    const focused = this.root.getRootNode().activeElement?.closest(".card");
    if (focused && focused.matches(":has(:focus-visible)")) {
      this.act({ do: "bad-answer", at: Number(focused.dataset.answer) });
      return;
    }
    this.act({ do: "mark" });
  }

  setConfidence(value) {
    this.confidence = value;
    this.saveDraft();
    this.draw();
  }

  startSkipping() {
    this.skipping = true;
    this.parts.reason.value = "";
    this.draw();
    this.parts.reason.focus();
  }

  stopSkipping() {
    this.skipping = false;
    this.leaveField();
    this.draw();
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
    const guarded = (action) => () => {
      if (this.item) action();
    };
    this.parts = {
      name: make("input", { class: "name", type: "text", maxlength: "200", autocomplete: "name", placeholder: "Your name", "aria-label": "Your name" }),
      nameProblem: make("p", { class: "note", role: "alert" }),
      askName: make("form", { class: "ask-name", on: { submit: (event) => this.takeName(event) } }),
      top: make("div", { class: "top" }),
      bar: make("div", { class: "bar", role: "progressbar", "aria-label": "Ranked" }, make("div", { class: "fill" })),
      progress: make("span", { class: "progress" }),
      needed: make("span", { class: "needed" }),
      saved: make("span", { class: "saved", role: "status" }),
      who: make("button", { type: "button", class: "who", title: "Rank under another name", on: { click: () => this.changeName() } }),
      prompt: make("div", { class: "prompt" }),
      leak: make("p", { class: "leak", role: "note" }),
      guidelines: make("details", { class: "guidelines" }, make("summary", { text: "Guidelines" }), make("p")),
      cards: make("div", { class: "cards" }),
      order: make("output", { class: "order" }),
      note: make("p", { class: "note", role: "status", "aria-live": "polite" }),
      acts: make("div", { class: "acts", role: "group", "aria-label": "Keys" }),
      comment: make("input", { class: "comment", type: "text", maxlength: "2000", placeholder: "Comment (c)", "aria-label": "Comment" }),
      confidence: make("div", { class: "confidence", role: "group", "aria-label": "How sure are you" }),
      editBox: make("div", { class: "edit" }),
      edited: make("textarea", { class: "edited", rows: "6", dir: "auto", "aria-label": "Your better version of the best answer" }),
      skipBox: make("div", { class: "skip-box" }),
      reason: make("input", { class: "reason", type: "text", maxlength: "300", placeholder: "Why? Enter skips, Escape goes back", "aria-label": "Why skip" }),
      empty: make("div", { class: "empty" }, make("h3"), make("p")),
      work: make("div", { class: "work" }),
    };
    const parts = this.parts;
    parts.askName.append(
      make("h3", { text: "Who is ranking?" }),
      make("p", { text: "Your name is kept in this browser and stands beside your votes. Answers are shown without saying who wrote them." }),
      make("div", { class: "row" }, parts.name, make("button", { type: "submit", class: "act submit ready", text: "Start" })),
      parts.nameProblem,
    );
    parts.comment.addEventListener("input", () => {
      this.comment = parts.comment.value;
      this.saveDraft();
    });
    parts.edited.addEventListener("input", () => {
      this.edited = parts.edited.value;
      this.saveDraft();
    });
    parts.confidence.append(make("span", { class: "label" }, make("span", { text: "Sure?" }), make("kbd", { text: "f" })));
    for (let value = 1; value <= 5; value += 1) {
      const title = ["a guess", "rather unsure", "fairly sure", "sure", "certain"][value - 1];
      const choose = guarded(() => this.setConfidence(this.confidence === value ? null : value));
      parts.confidence.append(make("button", { type: "button", class: "level", title, text: String(value), on: { click: choose } }));
    }
    const drop = () => {
      this.edited = null;
      this.saveDraft();
      this.leaveField();
      this.draw();
    };
    parts.editBox.append(
      make("label", { text: "Your better version of the best answer (Escape goes back to the keys)" }),
      parts.edited,
      make("button", { type: "button", class: "act quiet", text: "Drop the edit", on: { click: drop } }),
    );
    parts.skipBox.append(
      ...SKIP_REASONS.map((reason) => make("button", { type: "button", class: "act", text: reason, on: { click: guarded(() => this.skip(reason)) } })),
      parts.reason,
    );
    parts.acts.append(
      button("submit", "Submit", "Enter", guarded(() => this.finish()), "Send the order; the last answer left over comes last"),
      button("undo", "Undo", "⌫", () => this.undo(), "Take back the last key; with none, the last vote"),
      button("tie", "Tie", "t", guarded(() => this.tie()), "Tie the last answer placed with the one before"),
      button("mark", "Unusable", "x", guarded(() => this.act({ do: "mark" })), "The next number is no answer at all"),
      button("all-bad", "All bad", "0", guarded(() => this.act({ do: "all-bad" })), "Every answer is bad"),
      button("edit-best", "Edit best", "e", guarded(() => this.startEdit()), "Write a better version of the best answer"),
      button("skip", "Skip", "s", guarded(() => this.startSkipping()), "Pass over this item, with a reason"),
    );
    parts.work.append(
      make("aside", {}, make("h4", { text: "Prompt" }), parts.prompt, parts.guidelines),
      make(
        "section",
        {},
        parts.leak,
        parts.cards,
        parts.editBox,
        make(
          "div",
          { class: "panel" },
          make("div", { class: "row" }, make("div", { class: "told" }, parts.order, parts.note), parts.confidence, parts.comment),
          parts.skipBox,
          parts.acts,
        ),
      ),
    );
    parts.top.append(
      parts.bar,
      make("div", { class: "facts" }, parts.progress, parts.needed, make("span", { class: "gap" }), parts.saved, parts.who),
    );
    parts.guidelines.open = this.root.clientWidth === 0 || this.root.clientWidth > 640;
    this.root.append(parts.askName, parts.top, parts.work, parts.empty);
  }

  changeName() {
    if (this.data.rater_fixed) return;
    forget(RATER);
    this.data = { ...this.data, rater: null, problem: "" };
    this.item = null;
    this.draw();
    this.parts.name.focus();
  }

  draw() {
    const { parts, data, item } = this;
    if (!data) return;
    const asking = !data.rater;
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
    if (!this.drawn) this.drawItem();
    this.drawOrder();
  }

  drawTop() {
    const { parts, data } = this;
    const pending = this.outbox.all();
    const votes = pending.filter((entry) => entry.kind === "vote").length - pending.filter((entry) => entry.kind === "undo").length;
    const mine = Math.max(0, data.progress.mine + votes);
    const left = Math.max(0, data.progress.left - votes);
    parts.bar.firstChild.style.width = (mine + left ? (100 * mine) / (mine + left) : 100) + "%";
    parts.bar.setAttribute("aria-valuenow", String(mine));
    parts.bar.setAttribute("aria-valuemax", String(mine + left));
    parts.progress.textContent = mine.toLocaleString("en") + " ranked, " + left.toLocaleString("en") + " left";
    parts.needed.textContent = data.needed;
    parts.who.textContent = data.rater;
    parts.who.disabled = data.rater_fixed;
    this.drawSaved();
  }

  drawEmpty() {
    const { parts, data } = this;
    const [head, body] = parts.empty.children;
    if (this.moreMayCome()) {
      head.textContent = "The next item is on its way";
      const keys = this.waitingKeys.length;
      body.textContent = keys ? plural(keys, "key") + " pressed so far will count for it." : "";
    } else if (data.held_by_others) {
      head.textContent = "The rest is with other raters";
      body.textContent = "What they leave comes back here by itself. You can close this page; your votes are saved.";
    } else {
      head.textContent = data.progress && data.progress.mine ? "All done, thank you" : "Nothing to rank here";
      body.textContent = data.progress && data.progress.mine
        ? "Every item you can rank has your vote. Backspace still takes back the last one."
        : "Every item of this queue has its votes already.";
    }
  }

  drawItem() {
    const { parts, item, data } = this;
    this.drawn = true;
    parts.prompt.replaceChildren(
      ...item.prompt.map((message) =>
        make(
          "div",
          { class: "message " + message.role },
          item.prompt.length > 1 ? make("span", { class: "role", text: message.role }) : null,
          make("div", { class: "text", dir: "auto", text: message.content }),
        ),
      ),
    );
    parts.guidelines.hidden = !data.guidelines;
    parts.guidelines.lastChild.textContent = data.guidelines;
    parts.leak.hidden = !item.leak;
    parts.leak.textContent = item.leak;
    parts.cards.dataset.count = String(item.answers.length);
    parts.cards.replaceChildren(...item.answers.map((answer, place) => this.makeCard(answer, place)));
    parts.comment.value = this.comment;
    parts.edited.value = this.edited ?? "";
    for (const scrolled of [parts.prompt, parts.cards]) scrolled.scrollTop = 0;
  }

  makeCard(answer, place) {
    const letter = LETTERS[place];
    const put = () => {
      if (!window.getSelection()?.toString()) this.act({ do: "put", at: place });
    };
    const stop = (action) => (event) => {
      event.stopPropagation();
      action();
    };
    return make(
      "article",
      { class: "card", "data-answer": String(place), on: { click: put } },
      make(
        "header",
        {},
        make("button", { type: "button", class: "place", "aria-label": "Answer " + letter, on: { click: stop(() => this.act({ do: "put", at: place })) } }, make("span", { class: "letter", text: letter }), make("kbd", { text: String(place + 1) })),
        make("span", { class: "badge" }),
        make("button", { type: "button", class: "no-use", title: "No answer at all", text: "Unusable", on: { click: stop(() => this.act({ do: "bad-answer", at: place })) } }),
      ),
      make("div", { class: "text", dir: "auto", text: answer.text || "(empty answer)" }),
    );
  }

  drawOrder() {
    const { parts } = this;
    const order = this.order();
    const finished = finishOrder(order);
    [...parts.cards.children].forEach((card, answer) => {
      const place = placeOf(order, answer);
      const unusable = order.unusable.includes(answer);
      const last = !place && !unusable && finished && !order.allBad && this.acts.length > 0;
      card.classList.toggle("placed", Boolean(place) && !order.allBad);
      card.classList.toggle("unusable", unusable || order.allBad);
      card.classList.toggle("best", Boolean(place && place.place === 1) && !order.allBad);
      card.querySelector(".no-use").setAttribute("aria-pressed", String(unusable));
      card.querySelector(".place").setAttribute("aria-pressed", String(Boolean(place)));
      const told = order.allBad ? "bad" : place ? ordinal(place.place) + (place.tied ? ", tied" : "") : last ? "last" : "";
      card.querySelector(".badge").textContent = told;
    });
    parts.cards.classList.toggle("marking", order.marking);
    parts.order.textContent = this.acts.length ? spellOrder(finished ?? order) : "Press the number of the best answer first, or click it.";
    parts.order.classList.toggle("quiet", !this.acts.length);
    parts.note.textContent = order.marking ? "The next number is unusable." : this.note;
    parts.acts.querySelector(".submit").classList.toggle("ready", Boolean(finished) && this.acts.length > 0);
    parts.acts.querySelector(".all-bad").setAttribute("aria-pressed", String(order.allBad));
    parts.acts.querySelector(".mark").setAttribute("aria-pressed", String(order.marking));
    parts.editBox.hidden = this.edited === null;
    if (this.edited !== null && parts.edited.value !== this.edited) parts.edited.value = this.edited;
    parts.skipBox.hidden = !this.skipping;
    [...parts.confidence.querySelectorAll(".level")].forEach((level, index) => {
      level.setAttribute("aria-pressed", String(this.confidence === index + 1));
    });
  }
}

export default mountDesks(Desk);
