// Keeps the page up to date, and sends the few actions that it offers.
"use strict";

const main = document.querySelector("main");
const live = document.querySelector("#live");
const pause = document.querySelector("#pause");
let paused = false;
let loading = false;

async function refresh() {
  // What an operator reads with the keyboard must not move.
  if (paused || loading || document.hidden || main.contains(document.activeElement)) return;
  loading = true;
  try {
    const answer = await fetch(location.href, { headers: { "x-tollgate-part": "main" } });
    if (!answer.ok) throw new Error(answer.status);
    const open = [...main.querySelectorAll("details[open]")].map((details) => details.id);
    main.innerHTML = await answer.text();
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    live.textContent = "live";
  } catch {
    live.textContent = "no answer";
  } finally {
    loading = false;
  }
}

const events = new EventSource("/api/v1/events");
events.addEventListener("stats", refresh);
events.onerror = () => { live.textContent = "reconnecting"; };

pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  live.textContent = paused ? "paused" : "live";
});

async function write(method, path, question) {
  const reason = prompt(question + "\nReason, for the audit log:");
  if (!reason) return;
  const answer = await fetch(path, {
    method, headers: { "content-type": "application/json" }, body: JSON.stringify({ reason }),
  });
  if (!answer.ok) alert((await answer.json().catch(() => ({ error: answer.statusText }))).error);
  document.activeElement?.blur();
  refresh();
}

main.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.unlock) {
    write("DELETE", "/api/v1/lockouts/" + encodeURIComponent(button.dataset.unlock), button.getAttribute("aria-label") + "?");
  } else if (button && "reload" in button.dataset) {
    write("POST", "/api/v1/config:reload", "Reload the rules?");
  }
});

// `/` goes to the search field; `g` and the first letter of a page go there.
let goes = false;
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && document.querySelector("#q")) {
    event.preventDefault();
    document.querySelector("#q").focus();
  } else if (goes) {
    document.querySelector(`header a[data-key="${CSS.escape(event.key)}"]`)?.click();
  }
  goes = event.key === "g";
});
