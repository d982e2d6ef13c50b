// Keeps the page up to date, and sends the actions that it offers.
"use strict";

const main = document.querySelector("main");
const live = document.querySelector("#live");
const pause = document.querySelector("#pause");
const dialog = document.querySelector("#action");
const csrf = document.querySelector("meta[name=csrf]")?.content;
// The browser gives up on a stream that is refused: too many are open, or the replica starts.
const RETRY_MS = 5000;
let paused = false;
let loading = false;

function show(state) {
  live.textContent = paused ? "paused" : state;
}

// What an operator reads with the keyboard, selects or fills in must not move.
function isInUse() {
  const focused = document.activeElement;
  return (focused !== main && main.contains(focused)) || dialog.open || !getSelection().isCollapsed;
}

async function refresh() {
  if (paused || loading || document.hidden || isInUse()) return;
  loading = true;
  try {
    const answer = await fetch(location.href, { headers: { "x-tollgate-part": "main" } });
    if (answer.redirected) return location.reload();
    if (!answer.ok) throw new Error(answer.status);
    const content = await answer.text();
    // From here on nothing waits: what the operator has begun meanwhile counts.
    if (isInUse()) return;
    const open = [...main.querySelectorAll("details[open]")].map((details) => details.id);
    const fields = [...main.querySelectorAll(".fields [name]")].map(({ id, value }) => [id, value]);
    main.innerHTML = content;
    for (const [id, value] of fields) {
      const field = document.getElementById(id);
      if (field) field.value = value;
    }
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    show("live");
  } catch {
    show("no answer");
  } finally {
    loading = false;
  }
}

function follow() {
  const events = new EventSource("/api/v1/events");
  events.addEventListener("stats", () => {
    show("live");
    refresh();
  });
  events.onerror = () => {
    show("reconnecting");
    if (events.readyState !== EventSource.CLOSED) return;
    refresh();
    setTimeout(follow, RETRY_MS);
  };
}

if (live) follow();

pause?.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  show("live");
});

async function send(method, path, body) {
  const headers = { "content-type": "application/json" };
  if (csrf) headers["x-csrf-token"] = csrf;
  const answer = await fetch("/api/v1" + path, { method, headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? answer.statusText);
}

// A button names a call of the API; the form asks for the reason.
let action;

main?.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-path]");
  if (!button) return;
  action = { ...button.dataset };
  dialog.querySelector("h2").textContent = button.textContent;
  dialog.querySelector("#action-object").textContent = action.object;
  dialog.querySelector("#action-error").textContent = "";
  dialog.querySelector("form").reset();
  dialog.showModal();
});

function done() {
  document.activeElement?.blur();
  refresh();
}

dialog?.querySelector("#action-cancel").addEventListener("click", () => dialog.close());
dialog?.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const reason = dialog.querySelector("#action-reason").value;
  try {
    await send(action.method, action.path, { ...JSON.parse(action.body ?? "{}"), reason });
    dialog.close();
    done();
  } catch (error) {
    dialog.querySelector("#action-error").textContent = error.message;
  }
});

// `user=alice,path=/login`, or a JSON list of entries.
function entries(text) {
  if (text.trim().startsWith("[")) return JSON.parse(text);
  return text.split(",").map((pair) => {
    const at = pair.indexOf("=");
    if (at < 0) throw new Error("descriptor: expected key=value[,key=value…]");
    return { key: pair.slice(0, at), value: pair.slice(at + 1) };
  });
}

main?.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!("override" in form.dataset || "shadow" in form.dataset)) return;
  event.preventDefault();
  const { domain, descriptor, kind, limit, rule, ttl, reason } = Object.fromEntries(new FormData(form));
  const error = form.querySelector("[role=alert]");
  error.textContent = "";
  try {
    if ("shadow" in form.dataset) {
      await send("POST", "/rules:shadow", { rule, ttl, reason });
    } else {
      const effect = kind === "limit" ? { limit } : { [kind]: true };
      await send("PUT", "/overrides", { domain, descriptor: entries(descriptor), ttl, reason, ...effect });
    }
    form.reset();
    if ("shadow" in form.dataset || location.pathname === "/overrides") done();
    else location.assign("/overrides");
  } catch (failure) {
    error.textContent = failure.message;
  }
});

// `/` goes to the search field; `g` and the key of a page go there.
let goes = false;
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && document.querySelector("#q")) {
    event.preventDefault();
    document.querySelector("#q").focus();
  } else if (goes) {
    document.querySelector(`header a[data-key="${CSS.escape(event.key)}"]`)?.click();
  }
  goes = event.key === "g";
});
