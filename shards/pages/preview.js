"use strict";
const form = document.querySelector("form");
const cards = [...document.querySelectorAll(".card")];

// An entry fits where each of its values is the chosen one; its boxes go with it, and a card without any goes too.
function apply() {
  const chosen = [...form.querySelectorAll("select")].filter((select) => select.value !== "");
  let shown = 0;
  for (const card of cards) {
    let any = chosen.length === 0;
    for (const part of card.querySelectorAll("[data-kind]")) {
      const fits = chosen.every((select) => part.dataset[select.name] === select.value);
      part.style.display = fits ? "" : "none";
      any = any || fits;
    }
    card.style.display = any ? "" : "none";
    shown += any ? 1 : 0;
  }
  document.querySelector("output").textContent = `${shown} of ${cards.length} shown`;
}

form.addEventListener("change", apply);
form.hidden = false;
apply();
