// Making elements whose text is only ever set as text, and small things both desks need.

function make(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  const { class: classes, text, on, ...rest } = options;
  if (classes) node.className = classes;
  if (text !== undefined) node.textContent = text;
  for (const [event, action] of Object.entries(on ?? {})) node.addEventListener(event, action);
  for (const [name, value] of Object.entries(rest)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

function isField(node) {
  return node instanceof Element && (node.matches("input, textarea, select") || node.isContentEditable);
}

function plural(number, noun) {
  return number.toLocaleString("en") + " " + noun + (number === 1 ? "" : "s");
}
