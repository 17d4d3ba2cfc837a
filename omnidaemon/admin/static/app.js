/* What the pages do by themselves. All of them work without it, but then they stand still. */
import { watchFragments } from "./fragments.js";
import { keepTimes } from "./times.js";

function announce(text) {
  const place = document.getElementById("announce");
  if (place && text && place.textContent !== text) place.textContent = text;
}

function chooseTheme(form) {
  form.addEventListener("submit", async (event) => {
    const button = event.submitter;
    if (!button) return;
    event.preventDefault();
    document.documentElement.dataset.theme = button.value;
    for (const other of form.querySelectorAll("button")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    const fields = new URLSearchParams(new FormData(form, button));
    // Only the cookie of the answer matters; the page is as it should be already.
    await fetch(form.action, { method: "POST", body: fields, redirect: "manual" });
  });
}

function isTyping(element) {
  return element instanceof HTMLElement && element.matches("input, textarea, select, [contenteditable]");
}

function focusSearch(event) {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  const search = document.querySelector("[data-search]");
  if (!search) return;
  event.preventDefault();
  search.focus();
  search.select();
}

/* <button data-copy="#id"> copies the text of another element, or data-copy-text its own. */
async function copy(event) {
  const button = event.target.closest?.("[data-copy], [data-copy-text]");
  if (!button) return;
  const text = button.dataset.copyText ?? document.querySelector(button.dataset.copy)?.textContent ?? "";
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied");
    button.dataset.done = "";
    setTimeout(() => delete button.dataset.done, 1500);
  } catch {
    announce("The browser does not let this page copy");
  }
}

/* On a small screen the navigation scrolls. */
function showPlace() {
  const entry = document.querySelector("nav [aria-current=page]");
  const list = entry?.closest("nav");
  if (list) list.scrollLeft = entry.offsetLeft - (list.clientWidth - entry.offsetWidth) / 2;
}

for (const form of document.querySelectorAll("[data-themes]")) chooseTheme(form);
document.addEventListener("keydown", focusSearch);
document.addEventListener("click", copy);
showPlace();
keepTimes();
watchFragments(announce);
