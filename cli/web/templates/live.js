"use strict";
// Keeps parts of the page as the service renders them. While the page is hidden, nothing is asked for.
const part = document.querySelector("[data-live]");
let source = null;

function put(place, html) {
  const held = place.contains(document.activeElement) ? document.activeElement.id : "";
  place.innerHTML = html; // rendered by the service, every text in it escaped
  if (held && document.getElementById(held)) document.getElementById(held).focus();
}

// Only what has changed of a list: who reads or selects beside it is not disturbed.
function fill(html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  for (const now of fresh.content.querySelectorAll("p[id]")) {
    const old = document.getElementById(now.id);
    if (old && old.innerHTML !== now.innerHTML) put(old, now.innerHTML);
  }
}

function follow() {
  if (source) source.close();
  source = null;
  if (document.hidden) return;
  source = new EventSource(part.dataset.live);
  source.addEventListener("message", (event) => put(part, event.data));
  source.addEventListener("rows", (event) => fill(event.data));
  source.addEventListener("done", () => {
    source.close();
    document.removeEventListener("visibilitychange", follow);
  });
}

if (part) {
  document.addEventListener("visibilitychange", follow);
  follow();
  document.addEventListener("click", (event) => {
    if (event.target.id === "again") location.reload();
  });
}
