"use strict";
const PAUSE = 150; // ms without a key before the text is asked about
const found = (id) => document.getElementById(id);
const asked = { picture: null, text: "", word: null, stage: null };
const panels = [];
let about;
let first = 0; // of the example images that are shown

async function fetched(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({ error: `${response.status} ${response.statusText}` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function posted(path, question, signal) {
  const headers = { "Content-Type": "application/json" };
  return fetched(path, { method: "POST", headers, body: JSON.stringify(question), signal });
}

function made(name, text, properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text, ...properties });
}

function listed(list, buttons) {
  list.replaceChildren(...buttons.map((button) => made("li", "")));
  buttons.forEach((button, place) => list.children[place].append(button));
}

const debounced = (action) => {
  let waiting;
  return () => {
    clearTimeout(waiting);
    waiting = setTimeout(action, PAUSE);
  };
};

const complain = (line) => (found("message").textContent = line);

// Requests of one kind, of which only the newest counts: it aborts the one before, whose answer then never comes.
class Newest {
  next() {
    this.controller?.abort();
    this.controller = new AbortController();
    return this.controller.signal;
  }
}

// One run: what it answers about the image, and where it weighs the chosen word.
class Panel {
  constructor(number, run) {
    this.number = number;
    this.run = run;
    this.answers = new Newest();
    this.maps = new Newest();
    this.words = [];
    this.weights = [];
    this.node = found("run").content.cloneNode(true).firstElementChild;
    this.part("h2").textContent = run.name;
    this.part(".of").textContent = `${run.task}, step ${run.step.toLocaleString("en")}`;
    this.part(".of").title = run.origin;
    this.part(".shown").addEventListener("load", ({ target }) => this.fit(target.naturalWidth, target.naturalHeight));
  }

  part(selector) {
    return this.node.querySelector(selector);
  }

  fit(width, height) {
    const picture = this.part(".picture");
    picture.hidden = false;
    picture.style.setProperty("--ratio", width / height);
    picture.classList.toggle("crisp", Math.max(width, height) <= 160);
    this.part("svg").setAttribute("viewBox", `0 0 ${width} ${height}`);
  }

  look(picture) {
    this.clear();
    this.part(".shown").src = `pictures/${picture}`;
  }

  clear() {
    this.answers.next();
    this.words = [];
    this.forget();
    this.draw(null, null);
    for (const part of [".said", ".took"]) this.part(part).textContent = "";
    this.part("figure").removeAttribute("aria-busy");
  }

  async ask() {
    const { picture, text } = asked;
    const signal = this.answers.next();
    const begun = performance.now();
    this.part("figure").setAttribute("aria-busy", "true");
    try {
      const answer = await posted("answer", { run: this.number, picture, text }, signal);
      this.show(answer, performance.now() - begun);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.clear();
      this.part(".said").replaceChildren(made("span", error.message, { className: "wrong" }));
    }
    this.part("figure").removeAttribute("aria-busy");
    showWords();
    this.weigh();
  }

  show(answer, trip) {
    this.words = answer.words;
    this.draw(answer.box, answer.mask);
    const sure = `confidence ${answer.confidence.toFixed(2)}`;
    this.part(".said").replaceChildren(made("strong", said(answer)), ` · ${sure}`);
    this.part(".took").textContent = `model ${Math.round(answer.milliseconds)} ms, round trip ${Math.round(trip)} ms`;
  }

  draw(box, mask) {
    const [x1, y1, x2, y2] = box ?? [0, 0, 0, 0];
    for (const rect of this.node.querySelectorAll("rect")) {
      Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 }).forEach(([side, value]) => rect.setAttribute(side, value));
      rect.style.display = box ? "" : "none";
    }
    lay(this.part(".mask"), mask);
  }

  async weigh() {
    const { picture, text, word } = asked;
    if (word === null || this.run.unexplained || !this.words[word]?.read) return this.forget();
    const signal = this.maps.next();
    try {
      this.weights = await posted("maps", { run: this.number, picture, text, word }, signal);
    } catch (error) {
      if (error.name !== "AbortError") complain(error.message);
      return;
    }
    showStages();
    this.drawMap();
  }

  forget() {
    this.maps.next();
    this.weights = [];
    this.drawMap();
  }

  drawMap() {
    const chosen = this.weights.find((weight) => weight.stage === asked.stage) ?? this.weights[0];
    lay(this.part(".weights"), chosen?.map ?? null);
    const where = chosen?.stage ? `stage ${chosen.stage}` : "all stages";
    this.part(".weighs").textContent = chosen
      ? `“${this.words[asked.word].word}” weighs ${chosen.least.toFixed(2)} (dark) to ${chosen.most.toFixed(2)} (bright) in ${where}`
      : "";
  }
}

function lay(image, source) {
  image.hidden = source === null;
  if (source === null) image.removeAttribute("src");
  else image.src = source;
}

function said({ box, mask, share, answer }) {
  if (answer !== null) return answer;
  if (mask !== null) return share ? `a mask of ${(100 * share).toFixed(1)} % of the image` : "nothing that fits";
  if (box === null) return "nothing that fits";
  const [x1, y1, x2, y2] = box.map(Math.round);
  return `a box from ${x1}, ${y1} to ${x2}, ${y2}`;
}

// What is to be said of a word: which runs do not know it, or do not read so far; [class, text] each.
function notes(place) {
  return [["unknown", "known"], ["unread", "read"]].flatMap(([kind, what]) => {
    const lacking = panels.filter((panel) => panel.words[place] && !panel.words[place][what]);
    const names = lacking.map((panel) => panel.run.name).join(", ");
    if (!lacking.length) return [];
    return [[kind, `not ${what}${lacking.length < panels.length ? ` by ${names}` : ""}`]];
  });
}

function wordButton({ word }, place) {
  const button = made("button", word, { type: "button", onclick: () => choose(asked.word === place ? null : place) });
  for (const [kind, note] of notes(place)) {
    button.classList.add(kind);
    button.append(made("small", ` ${note}`));
  }
  return button;
}

// The words as the first run that has answered reads them. Buttons stay where nothing about them changes: one may have the focus.
function showWords() {
  const words = panels.find((panel) => panel.words.length)?.words ?? [];
  if (asked.word >= words.length) asked.word = null;
  const told = JSON.stringify(words.map(({ word }, place) => [word, notes(place)]));
  if (found("words").dataset.told !== told) {
    found("words").dataset.told = told;
    const held = [...found("words").children].findIndex((item) => item.contains(document.activeElement));
    listed(found("words"), words.map(wordButton));
    found("words").children[held]?.firstElementChild.focus();
  }
  [...found("words").children].forEach((item, place) =>
    item.firstElementChild.setAttribute("aria-pressed", String(place === asked.word)),
  );
  found("reading").hidden = !words.length;
  found("word").hidden = asked.word === null;
  if (asked.word !== null) found("swapped").textContent = words[asked.word].word;
}

function choose(place) {
  asked.word = place;
  found("swap").value = "";
  showWords();
  if (place !== null) offer();
  for (const panel of panels) panel.weigh();
}

function showStages() {
  const stages = panels.find((panel) => panel.weights.length)?.weights.map(({ stage }) => stage) ?? [];
  const fieldset = found("stages");
  fieldset.hidden = !stages.length;
  if (fieldset.dataset.told === String(stages)) return;
  fieldset.dataset.told = String(stages);
  fieldset.replaceChildren(
    fieldset.firstElementChild,
    ...stages.map((stage) => {
      const label = made("label", "");
      const radio = made("input", "", { type: "radio", name: "stage", checked: stage === asked.stage });
      radio.addEventListener("change", () => {
        asked.stage = stage;
        for (const panel of panels) panel.drawMap();
      });
      label.append(radio, ` ${stage === null ? "all stages" : `stage ${stage}`}`);
      return label;
    }),
  );
}

const offers = new Newest();
async function offer() {
  try {
    const words = await fetched(`vocabulary?begin=${encodeURIComponent(found("swap").value.trim())}`, { signal: offers.next() });
    const button = (word) => made("button", word, { type: "button", onclick: () => swap(word) });
    listed(found("others"), words.map(button));
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
  }
}

// The text becomes the words as they are read: marks and capitals mean nothing to the network.
function swap(word) {
  const words = [...found("words").children].map((item) => item.firstElementChild.firstChild.data);
  words[asked.word] = word;
  found("text").value = words.join(" ");
  found("swap").value = "";
  ask();
  offer();
}

function ask() {
  asked.text = found("text").value;
  complain("");
  if (asked.picture === null) return complain("Choose an image first.");
  if (asked.text.trim()) return panels.forEach((panel) => panel.ask());
  panels.forEach((panel) => panel.clear());
  showWords();
  complain("Type an expression or a question.");
}

function look(picture, texts = []) {
  asked.picture = picture;
  panels.forEach((panel) => panel.look(picture));
  found("examples").querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.picture === picture)));
  listed(
    found("texts"),
    texts.map((text) => made("button", text, { type: "button", onclick: () => { found("text").value = text; ask(); } })),
  );
  if (!found("text").value.trim() && texts.length) found("text").value = texts[0];
  ask();
}

async function upload(file) {
  if (!file) return;
  if (file.size > about.bytes) return complain(`The file has ${file.size.toLocaleString("en")} bytes; at most ${about.bytes.toLocaleString("en")} are taken.`);
  try {
    const { picture } = await fetched("pictures", { method: "POST", body: file });
    look(picture);
  } catch (error) {
    complain(error.message);
  }
}

async function offerExamples() {
  const some = await fetched(`examples?first=${first}`);
  listed(
    found("examples"),
    some.map(({ picture, texts }) => {
      const button = made("button", "", { type: "button", onclick: () => look(picture, texts) });
      button.dataset.picture = picture;
      button.append(made("img", "", { src: `pictures/${picture}`, alt: texts[0] }));
      button.setAttribute("aria-pressed", String(picture === asked.picture));
      return button;
    }),
  );
  const { set, split, number } = about.examples;
  found("place").textContent = `${(first + 1).toLocaleString("en")} to ${(first + some.length).toLocaleString("en")} of ${number.toLocaleString("en")} in ${split} of ${set}`;
  found("earlier").disabled = first === 0;
  found("later").disabled = first + some.length >= number;
  found("earlier").hidden = found("later").hidden = number <= some.length;
  return some;
}

function listen() {
  found("text").addEventListener("input", debounced(ask));
  found("text").addEventListener("keydown", (event) => event.key === "Enter" && ask());
  found("swap").addEventListener("input", debounced(offer));
  found("swap").addEventListener("keydown", (event) => {
    const typed = found("swap").value.trim();
    if (event.key === "Enter" && typed) swap(typed);
  });
  found("upload").addEventListener("change", ({ target }) => {
    upload(target.files[0]);
    target.value = "";
  });
  document.addEventListener("paste", (event) => upload(event.clipboardData.files[0]));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    found("choice").classList.add("over");
  });
  document.addEventListener("dragleave", () => found("choice").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    found("choice").classList.remove("over");
    upload(event.dataTransfer.files[0]);
  });
  const turn = (way) => () => {
    first += way * about.examples.at_once;
    offerExamples().catch((error) => complain(error.message));
  };
  found("earlier").addEventListener("click", turn(-1));
  found("later").addEventListener("click", turn(1));
}

async function begin() {
  about = await fetched("about");
  document.body.classList.toggle("single", about.runs.length === 1);
  panels.push(...about.runs.map((run, number) => new Panel(number, run)));
  found("runs").append(...panels.map((panel) => panel.node));
  found("text").maxLength = about.characters;
  const reasons = about.runs.filter((run) => run.unexplained).map((run) => `${run.name} has no maps of words: ${run.unexplained}`);
  found("unexplained").textContent = reasons.join("; ");
  found("unexplained").hidden = !reasons.length;
  listen();
  if (about.examples === null) return complain(about.note);
  const [example] = await offerExamples();
  look(example.picture, example.texts);
}

begin().catch((error) => complain(error.message));
