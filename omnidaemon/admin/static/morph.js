/* Makes one tree like another and touches only what differs, so that focus, selection, scrolling
   and what was opened by hand stay as they are. */

function keyOf(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return "";
  return node.id || node.dataset.key || node.getAttribute("aria-labelledby") || "";
}

function isLike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
}

function isKept(element, name) {
  if (name === "open") return element.nodeName === "DETAILS" || element.nodeName === "DIALOG";
  return element.hasAttribute("data-keep") && (name === "value" || name === "checked");
}

function morphAttributes(from, to) {
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && !isKept(from, name)) from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (from.getAttribute(name) !== value && !isKept(from, name)) from.setAttribute(name, value);
  }
}

/* The child from `place` on that can become what is wanted; text only where it stands. */
function findLike(place, wanted) {
  if (wanted.nodeType !== Node.ELEMENT_NODE) return place && isLike(place, wanted) ? place : null;
  for (let child = place; child; child = child.nextSibling) if (isLike(child, wanted)) return child;
  return null;
}

function morphAll(from, to) {
  const keys = new Set([...to.children].map(keyOf));
  let place = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    const found = findLike(place, wanted);
    if (!found) {
      from.insertBefore(document.importNode(wanted, true), place);
      continue;
    }
    // What stands before it goes, rather than that it moves: what is moved loses the focus.
    while (place !== found && !(keyOf(place) && keys.has(keyOf(place)))) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
    if (place === found) place = found.nextSibling;
    else from.insertBefore(found, place);
    morph(found, wanted);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

export function morphChildren(from, to) {
  const focused = document.activeElement;
  morphAll(from, to);
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
}

function morph(from, to) {
  if (from.isEqualNode(to)) return;
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
    return;
  }
  if (from === document.activeElement && from.matches("input, textarea, select")) return;
  morphAttributes(from, to);
  // A time's words are kept up here, from its attribute.
  if (from.matches("time[data-ago]")) return;
  morphAll(from, to);
}
