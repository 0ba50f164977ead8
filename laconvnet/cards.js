"use strict";
const form = document.querySelector("form");
const cards = [...document.querySelectorAll(".card")];
const lists = [...document.querySelectorAll("ul.cards")].map((list) => [list, [...list.children]]);

// A part fits where each of its values is the chosen one; what is drawn for it goes with it, and so does a card without any.
function filter() {
  const chosen = [...form.querySelectorAll("select:not([name=order])")].filter((select) => select.value !== "");
  let shown = 0;
  for (const card of cards) {
    let any = chosen.length === 0;
    for (const part of card.querySelectorAll("[data-part]")) {
      const fits = chosen.every((select) => part.dataset[select.name] === select.value);
      part.style.display = fits ? "" : "none";
      any = any || fits;
    }
    card.style.display = any ? "" : "none";
    shown += any ? 1 : 0;
  }
  document.querySelector("output").textContent = `${shown} of ${cards.length} shown`;
}

// Each list by the number that its cards have of this name, from the smallest on; of "-name" from the largest on.
function order(by) {
  const sign = by.startsWith("-") ? -1 : 1;
  const number = (card) => Number(card.dataset[by.replace("-", "")] ?? 0);
  for (const [list, given] of lists) {
    list.append(...(by ? [...given].sort((one, other) => sign * (number(one) - number(other))) : given));
  }
}

form.addEventListener("change", (event) => {
  if (event.target.name === "order") order(event.target.value);
  filter();
});
form.hidden = false;
filter();
