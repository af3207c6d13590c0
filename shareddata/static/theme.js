// Light or dark: as the system says, unless this browser was told otherwise. Loaded before the page is drawn.
"use strict";
{
  const choices = ["auto", "light", "dark"];
  let chosen = "auto";
  try { chosen = localStorage.getItem("theme") ?? "auto"; } catch { /* a browser that keeps nothing */ }
  const apply = () => {
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    const label = document.querySelector("#theme span");
    if (label) label.textContent = chosen;
    document.dispatchEvent(new Event("theme"));
  };
  const next = () => {
    chosen = choices[(choices.indexOf(chosen) + 1) % choices.length];
    try { localStorage.setItem("theme", chosen); } catch { /* it counts for this page only */ }
    apply();
  };
  apply();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", next);
    document.addEventListener("keydown", (event) => {
      if (event.key === "t" && !event.ctrlKey && !event.metaKey && !event.altKey && !event.target.closest("input")) next();
    });
  });
}
