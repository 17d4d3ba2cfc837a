/* <section data-fragment="/ui/..." data-name="live" data-every="2">: drawn again by the server every
   two seconds, while somebody looks. A part that is over says so by an element with data-over. */
import { morphChildren } from "./morph.js";
import { updateTimes } from "./times.js";

const SLOWEST = 30;

function offline(text) {
  const place = document.getElementById("offline");
  if (!place) return;
  place.hidden = !text;
  place.querySelector("span").textContent = text;
}

class Fragment {
  constructor(section, announce) {
    this.section = section;
    this.announce = announce;
    this.failures = 0;
    this.timer = undefined;
    this.busy = false;
    section.addEventListener("refresh", () => this.refresh(true));
    this.plan();
  }

  get every() {
    if (this.section.querySelector("[data-over]")) return 0;
    return Number(this.section.dataset.every) || 0;
  }

  plan() {
    clearTimeout(this.timer);
    if (!this.every || document.hidden) return;
    const seconds = Math.min(SLOWEST, this.every * 2 ** this.failures);
    this.timer = setTimeout(() => this.refresh(), seconds * 1000);
  }

  /* A part with data-held is being read: it is drawn again only when that was asked for. */
  async refresh(asked = false) {
    clearTimeout(this.timer);
    if (this.busy) return;
    if (!asked && this.section.hasAttribute("data-held")) {
      this.plan();
      return;
    }
    this.busy = true;
    try {
      await this.fetch();
    } finally {
      this.busy = false;
      this.plan();
    }
  }

  async fetch() {
    let answer;
    try {
      answer = await fetch(this.section.dataset.fragment, {
        headers: { "Omnidaemon-Fragment": this.section.dataset.name },
        redirect: "error",
      });
    } catch {
      this.failed("This page does not reach its server; it keeps trying.");
      return;
    }
    if (answer.status === 401) {
      location.reload(); // to log in, and come back
      return;
    }
    const text = await answer.text();
    if (!answer.ok) {
      const page = new DOMParser().parseFromString(text, "text/html");
      this.failed(page.querySelector(".refusal")?.textContent ?? `The server answers ${answer.status}.`);
      return;
    }
    this.draw(text);
  }

  failed(text) {
    this.failures += 1;
    this.section.dataset.stale = "";
    offline(text);
  }

  draw(text) {
    this.failures = 0;
    delete this.section.dataset.stale;
    offline("");
    const fresh = document.createElement("template");
    fresh.innerHTML = text;
    morphChildren(this.section, fresh.content);
    updateTimes(this.section);
    this.announce(this.section.querySelector("[data-announce]")?.textContent.trim() ?? "");
    this.section.dispatchEvent(new CustomEvent("drawn", { bubbles: true }));
  }
}

/* Elements with data-stream="/ui/events?..." are told of each run that ends; what they contain of
   fragments is drawn again, at most once a second. */
class Stream {
  constructor(element, fragments) {
    this.element = element;
    this.fragments = fragments;
    this.due = undefined;
    this.listen();
  }

  listen() {
    this.source?.close();
    this.source = undefined;
    // A hidden page holds no connection: browsers allow six to one server, in all tabs together.
    if (document.hidden) return;
    this.source = new EventSource(this.element.dataset.stream);
    this.source.addEventListener("run", (event) => this.heard(event));
    this.source.addEventListener("gap", () => this.soon());
  }

  heard(event) {
    this.element.dispatchEvent(new CustomEvent("run", { bubbles: true, detail: JSON.parse(event.data) }));
    this.soon();
  }

  soon() {
    this.due ??= setTimeout(() => {
      this.due = undefined;
      for (const fragment of this.fragments) {
        if (this.element.contains(fragment.section)) fragment.refresh();
      }
    }, 1000);
  }
}

export function watchFragments(announce) {
  const sections = [...document.querySelectorAll("[data-fragment]")];
  const fragments = sections.map((section) => new Fragment(section, announce));
  const streams = [...document.querySelectorAll("[data-stream]")].map((element) => new Stream(element, fragments));
  document.addEventListener("visibilitychange", () => {
    for (const stream of streams) stream.listen();
    for (const fragment of fragments) {
      if (document.hidden) fragment.plan();
      // What is over may have been replayed meanwhile, in another tab or by somebody else.
      else if (fragment.section.dataset.every) fragment.refresh();
    }
  });
}
