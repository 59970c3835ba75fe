// What acts mean: the list of acts that a rater made on one item becomes an order. No browser in here.
//
// An act is {do: "put" | "bad-answer", at: <number of the answer>}, or {do: "tie" | "mark" | "all-bad"}.
// Backspace takes the last act away and the order is read anew, so every act can be undone the same way.

const LETTERS = "ABCDEFGHI";

function readActs(acts, count) {
  let tiers = [];
  let unusable = [];
  let allBad = false;
  let marking = false; // x was pressed: the next number is unusable
  let before = "";

  const takeOut = (answer) => {
    const held = tiers.some((tier) => tier.includes(answer)) || unusable.includes(answer);
    tiers = tiers.map((tier) => tier.filter((other) => other !== answer)).filter((tier) => tier.length);
    unusable = unusable.filter((other) => other !== answer);
    return held;
  };

  for (const act of acts) {
    if (act.do === "put" && marking) {
      takeOut(act.at);
      unusable.push(act.at);
      marking = false;
    } else if (act.do === "put") {
      const wasUnusable = unusable.includes(act.at);
      if (!takeOut(act.at) || wasUnusable) tiers.push([act.at]);
    } else if (act.do === "bad-answer") {
      const wasUnusable = unusable.includes(act.at);
      takeOut(act.at);
      if (!wasUnusable) unusable.push(act.at);
    } else if (act.do === "mark") {
      marking = !marking;
    } else if (act.do === "tie") {
      const last = tiers[tiers.length - 1];
      if (before === "tie" && last && last.length > 1) {
        tiers = [...tiers.slice(0, -1), last.slice(0, -1), last.slice(-1)];
      } else if (tiers.length > 1) {
        tiers = [...tiers.slice(0, -2), [...tiers[tiers.length - 2], ...last]];
      }
    } else if (act.do === "all-bad") {
      allBad = !allBad;
    }
    if (act.do !== "all-bad") allBad = false;
    before = act.do;
  }
  const left = [];
  for (let answer = 0; answer < count; answer += 1) {
    if (!unusable.includes(answer) && !tiers.some((tier) => tier.includes(answer))) left.push(answer);
  }
  return { tiers, unusable, allBad, marking, left };
}

// The order as it would be sent: the one answer that is left over comes last. Null while more than one is left.
function finishOrder(order) {
  if (order.allBad) return { tiers: [], unusable: [], allBad: true };
  if (order.left.length > 1) return null;
  return { tiers: order.left.length ? [...order.tiers, order.left] : order.tiers, unusable: order.unusable, allBad: false };
}

function placeOf(order, answer) {
  let better = 0;
  for (const tier of order.tiers) {
    if (tier.includes(answer)) return { place: better + 1, tied: tier.length > 1 };
    better += tier.length;
  }
  return null;
}

function ordinal(place) {
  return place + (["th", "st", "nd", "rd"][place] || "th");
}

function spellOrder(order) {
  if (order.allBad) return "All bad";
  const parts = order.tiers.map((tier) => tier.map((answer) => LETTERS[answer]).join(" = "));
  const told = parts.join("  >  ");
  const bad = order.unusable.map((answer) => LETTERS[answer]).join(", ");
  return told + (bad ? (told ? "   ·   " : "") + "unusable: " + bad : "");
}
