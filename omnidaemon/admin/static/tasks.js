/* The list of tasks: what is new appears at the top, unless that would move what is being read. */
const SETTLED = 2000;

class List {
  constructor(place) {
    this.section = place.querySelector("[data-fragment]");
    this.button = place.querySelector("[data-show-new]");
    this.waiting = 0;
    this.moved = -SETTLED;
    place.addEventListener("run", () => this.heard());
    this.section.addEventListener("pointermove", () => (this.moved = performance.now()));
    this.section.addEventListener("focusout", () => setTimeout(() => this.release()));
    this.section.addEventListener("drawn", () => this.mark());
    document.addEventListener("scroll", () => this.release(), { passive: true });
    this.button.addEventListener("click", () => this.show());
    this.rows = this.keys();
  }

  keys() {
    return new Set([...this.section.querySelectorAll("tr[data-key]")].map((row) => row.dataset.key));
  }

  get isRead() {
    if (this.section.contains(document.activeElement)) return true;
    if (this.section.getBoundingClientRect().top < 0) return true;
    if (performance.now() - this.moved < SETTLED) return true;
    const selection = document.getSelection();
    return !selection.isCollapsed && this.section.contains(selection.anchorNode);
  }

  heard() {
    if (!this.isRead) {
      delete this.section.dataset.held;
      return;
    }
    this.section.dataset.held = "";
    this.waiting += 1;
    this.button.hidden = false;
    this.button.textContent = this.waiting === 1 ? "1 new run: show it" : `${this.waiting} new runs: show them`;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.release(), SETTLED + 500);
  }

  release() {
    if (this.waiting && !this.isRead) this.refresh();
  }

  show() {
    this.section.scrollIntoView({ block: "nearest" });
    window.scrollTo({ top: 0 });
    this.refresh();
  }

  refresh() {
    this.waiting = 0;
    this.button.hidden = true;
    delete this.section.dataset.held;
    this.section.dispatchEvent(new Event("refresh"));
  }

  mark() {
    const known = this.rows;
    this.rows = this.keys();
    for (const row of this.section.querySelectorAll("tr[data-key]")) {
      row.classList.toggle("fresh", known.size > 0 && !known.has(row.dataset.key));
    }
  }
}

for (const place of document.querySelectorAll("[data-list]")) new List(place);
