"use strict";
// Shows one row at a time. Texts of models and datasets reach the page by textContent alone.
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
let shown = data.rows;

function fits(answer, wanted) {
  if (!answer) return false;
  if (wanted === "cut") return data.ends[answer.end].cut;
  if (wanted === "complete") return answer.complete;
  if (wanted === "incomplete") return !answer.complete;
  if (wanted === "open") return answer.open;
  return !wanted || answer.end === wanted;
}

function matches(row, words, wanted, arm) {
  const looked = arm === "" ? row.answers : [row.answers[Number(arm)]];
  if (wanted && !looked.some((answer) => fits(answer, wanted))) return false;
  if (element("differ").checked && !row.differs) return false;
  if (!words) return true;
  const texts = [row.prompt, ...looked.map((answer) => (answer ? answer.text : ""))];
  return texts.some((text) => text.toLowerCase().includes(words));
}

function filter() {
  const words = element("words").value.trim().toLowerCase();
  shown = data.rows.filter((row) => matches(row, words, element("ending").value, element("arm").value));
  element("count").textContent = shown.length.toLocaleString("en");
  const options = shown.map((row, index) => {
    const option = document.createElement("option");
    option.value = String(index);
    option.textContent = `${row.row}: ${row.prompt.slice(0, 100)}`;
    return option;
  });
  element("row").replaceChildren(...options);
  show(0);
}

function show(index) {
  const row = shown[index];
  element("previous").disabled = !row || index === 0;
  element("next").disabled = !row || index === shown.length - 1;
  element("prompt").textContent = row ? row.prompt : "No row fits.";
  element("answers").replaceChildren(...(row ? row.answers.map(card) : []));
  if (row) element("row").value = String(index);
}

function step(by) {
  const index = Number(element("row").value) + by;
  if (index >= 0 && index < shown.length) show(index);
}

function card(answer, arm) {
  const made = element("card").content.cloneNode(true);
  const article = made.querySelector("article");
  made.querySelector("h3").textContent = data.arms[arm];
  article.className = answer ? answer.kind : "none";
  if (!answer) {
    made.querySelector(".ending").textContent = "no result yet";
    made.querySelector(".curve").hidden = true;
    return made;
  }
  const facts = [`${answer.tokens} token${answer.tokens === 1 ? "" : "s"}`];
  if (answer.attempts > 1) facts.push(`${answer.attempts} attempts`);
  if (answer.most !== null) facts.push(`EOS at most ${(100 * answer.most).toPrecision(2)} %`);
  made.querySelector(".ending").textContent = facts.join(", ");
  const mark = document.createElement("mark");
  const stop = answer.stop === null ? "" : ` ${JSON.stringify(answer.stop)}`;
  const place = answer.open ? ", mid-sentence" : "";
  mark.textContent = `${data.ends[answer.end].cut ? "✂" : "■"} ${data.ends[answer.end].told}${stop}${place}`;
  made.querySelector("details").hidden = answer.reasoning === null;
  made.querySelector("details pre").textContent = answer.reasoning;
  made.querySelector(".answer").append(answer.error ?? answer.text, " ", mark);
  draw(made, answer);
  return made;
}

function draw(made, answer) {
  const plot = data.plot;
  made.querySelector(".curve").hidden = !answer.curve;
  const points = [...answer.curve].map((letter, index) => [
    plot.left + (index / Math.max(1, plot.steps)) * plot.width,
    plot.top + (plot.levels.indexOf(letter) / (plot.levels.length - 1)) * plot.height,
  ]);
  const line = made.querySelector("polyline");
  line.setAttribute("points", points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" "));
  line.setAttribute("class", answer.kind);
  const dot = made.querySelector("circle");
  const last = points.at(-1);
  if (last && data.ends[answer.end].eos) {
    dot.setAttribute("class", answer.kind);
    dot.setAttribute("cx", last[0].toFixed(1));
    dot.setAttribute("cy", last[1].toFixed(1));
  } else dot.remove();
}

function copy() {
  getSelection().selectAllChildren(element("command"));
  const button = element("copy");
  const told = (text) => () => { button.textContent = text; };
  if (!navigator.clipboard) told("Selected")();
  else navigator.clipboard.writeText(element("command").textContent).then(told("Copied"), told("Selected"));
}

if (element("copy")) element("copy").addEventListener("click", copy);
element("filters").addEventListener("input", filter);
element("filters").addEventListener("submit", (event) => event.preventDefault());
element("row").addEventListener("change", () => show(Number(element("row").value)));
element("previous").addEventListener("click", () => step(-1));
element("next").addEventListener("click", () => step(1));
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
filter();
