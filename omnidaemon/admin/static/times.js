/* <time data-ago>: how long ago, kept up; the exact local time on hover. */
const UNITS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];
const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function words(seconds) {
  const length = Math.abs(seconds);
  if (length < 1) return "just now";
  const [unit, name] = UNITS.find(([unit]) => length >= unit);
  const text = `${Math.floor(length / unit)} ${name}`;
  return seconds > 0 ? `${text} ago` : `in ${text}`;
}

/* The server's clock counts, not this machine's: the page says what time it was when it was made. */
export function updateTimes(root = document) {
  for (const time of root.querySelectorAll("time[data-ago]")) {
    const at = Date.parse(time.dateTime);
    const text = words((Date.now() - at) / 1000);
    if (time.textContent !== text) time.textContent = text;
    const exact = EXACT.format(at);
    if (time.title !== exact) time.title = exact;
  }
}

export function keepTimes() {
  updateTimes();
  setInterval(() => document.hidden || updateTimes(), 1000);
}
