"use strict";
// Keeps one part of the page as the service renders it. While the page is hidden, nothing is asked for.
const part = document.querySelector("[data-live]");
let source = null;

function replace(html) {
  const held = part.contains(document.activeElement) ? document.activeElement.id : "";
  part.innerHTML = html; // rendered by the service, every text in it escaped
  if (held && document.getElementById(held)) document.getElementById(held).focus();
}

function follow() {
  if (source) source.close();
  source = null;
  if (document.hidden) return;
  source = new EventSource(part.dataset.live);
  source.addEventListener("message", (event) => replace(event.data));
  source.addEventListener("done", () => {
    source.close();
    document.removeEventListener("visibilitychange", follow);
  });
}

if (part) {
  document.addEventListener("visibilitychange", follow);
  follow();
}
