"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const views = {};
const find = (selector) => document.querySelector(selector);
const narrow = matchMedia("(max-width: 700px)");
const percent = (x) => `${(100 * x).toFixed(1)} %`;
const short = (x) => (x === 0 ? "0" : Math.abs(x) < 0.001 || Math.abs(x) >= 10000 ? x.toExponential(2) : x.toPrecision(3));
const many = (x) => (x < 1e6 ? `${(x / 1e3).toFixed(2)} k` : `${(x / 1e6).toFixed(2)} M`);

/** A new element: its attributes, and text or elements inside. Text is never read as HTML. */
function make(tag, attributes, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

async function chart(name, spec) {
  const place = find(`[data-chart="${name}"]`);
  if (!place) return;
  if (narrow.matches) spec.config.legend.columns = 1;
  // The interpreter needs no eval, so that the page can forbid it.
  const drawn = await vegaEmbed(place, spec, { renderer: "svg", actions: false, ast: true, logLevel: 1 });
  views[name] = drawn.view;
}

async function feed(name, sets) {
  if (!views[name]) return;
  for (const [set, rows] of Object.entries(sets)) views[name].data(set, rows);
  await views[name].runAsync();
}

// ── the map ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const map = { by: "kept", cells: [], at: 0 };

function buildMap() {
  const place = find(".map");
  place.style.setProperty("--layers", data.rows.length);
  place.style.setProperty("--weights", data.columns.length);
  place.classList.toggle("dense-grid", data.rows.length > 36);
  const every = data.rows.length > 36 ? 10 : data.rows.length > 16 ? 5 : 1;
  data.columns.forEach((label, w) => place.append(make("span", { class: "weight", style: `--w:${w}`, "aria-hidden": "true" }, label)));
  data.rows.forEach((label, l) => {
    const shown = make("span", { class: "layer", style: `--l:${l}`, "aria-hidden": "true" }, label);
    if (l % every) shown.dataset.between = "";
    place.append(shown);
  });
  map.cells = data.weights.map((weight, i) => {
    const cell = make("button", { type: "button", style: `--l:${weight.row};--w:${weight.column}`, tabindex: i ? -1 : 0 });
    cell.addEventListener("click", () => pick(i, true));
    cell.addEventListener("keydown", (event) => walk(event, i));
    place.append(cell);
    return cell;
  });
  for (const radio of document.querySelectorAll('input[name="by"]')) {
    radio.addEventListener("change", () => { map.by = radio.value; paint(); });
  }
  thin();
  narrow.addEventListener("change", thin);
}

/** On a wide page only every fifth or tenth layer has room for its number. */
function thin() {
  for (const label of document.querySelectorAll(".map > [data-between]")) label.style.visibility = narrow.matches ? "" : "hidden";
}

function walk(event, i) {
  const along = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
  if (!along) return;
  event.preventDefault();
  const [layers, kinds] = narrow.matches ? [along[1], along[0]] : along;
  let { row, column } = data.weights[i];
  for (let steps = 0; steps < data.rows.length + data.columns.length; steps += 1) {
    row += layers;
    column += kinds;
    const next = data.weights.findIndex((w) => w.row === row && w.column === column);
    if (next >= 0) return pick(next, true);
  }
}

// The loss of what is narrowed jointly stands at one of the weights, and is 0 at the others.
const loss = (name) => data.choices[name].error;
const total = () => Object.values(data.choices).reduce((sum, option) => sum + option.error, 0);
const keptOf = (weight) => data.choices[weight.name].cost[data.kept_in] / weight.cost[data.kept_in];

function paint() {
  find(".map").dataset.by = map.by;
  const top = Math.max(...Object.values(data.choices).map((option) => option.error), Number.MIN_VALUE);
  const sum = total();
  data.weights.forEach((weight, i) => {
    const option = data.choices[weight.name];
    const kept = keptOf(weight);
    const lost = loss(weight.name);
    const cell = map.cells[i];
    const kind = data.structures.indexOf(option.structure);
    const depth = lost > 0 ? Math.max(0, 1 + Math.log10(lost / top) / 4) : 0;
    const t = map.by === "kept" ? Math.min(1, kept) : depth;
    cell.style.setProperty("--t", t.toFixed(3));
    cell.style.background = map.by === "structure" ? `var(--s${kind % 8})` : "";
    cell.classList.toggle("strong", map.by !== "structure" && t > 0.62);
    cell.dataset.s = kind % 8;
    cell.textContent = { kept: Math.round(100 * kept), loss: lost > 0 ? Math.round((100 * lost) / sum) || "·" : "", structure: letter(option.structure) }[map.by];
    const said = `${weight.name}: ${option.structure}, size ${option.size}, ${percent(kept)} kept, predicted loss ${short(lost)}`;
    cell.setAttribute("aria-label", said);
    cell.title = said;
  });
  key(top);
  table();
}

/** A letter for a structure, so that colour is never alone: of two that begin alike the second takes its next letter. */
function letter(name) {
  const taken = [];
  for (const known of data.structures) {
    const one = [...known.toUpperCase()].find((c) => /[A-Z]/.test(c) && !taken.includes(c)) ?? "?";
    if (known === name) return one;
    taken.push(one);
  }
  return "?";
}

function key(top) {
  const ramp = (name) => make("span", { class: "ramp", style: `background:linear-gradient(in oklab to right,var(--${name}-0),var(--${name}-1))` });
  const rows = {
    kept: () => [make("span", {}, "0 %", ramp("kept"), `100 % of the weight's ${data.kept} kept; the number is the percentage`)],
    loss: () => [make("span", {}, short(top / 1e4), ramp("loss"), `${short(top)} ${data.unit}, logarithmic; the number is the percentage of the whole predicted loss`)],
    structure: () => data.structures.map((name, i) => make("span", {}, make("i", { style: `background:var(--s${i % 8})` }), `${letter(name)} ${name}`)),
  };
  find(".key").replaceChildren(...rows[map.by]());
}

function pick(i, focus) {
  map.cells[map.at].tabIndex = -1;
  map.cells[map.at].setAttribute("aria-pressed", "false");
  map.at = i;
  map.cells[i].tabIndex = 0;
  map.cells[i].setAttribute("aria-pressed", "true");
  if (focus) map.cells[i].focus();
  return shown();
}

/** The picked weight: its numbers and its spectrum. */
function shown() {
  const weight = data.weights[map.at];
  const option = data.choices[weight.name];
  find(".picked h3").textContent = weight.name;
  const facts = [
    ["shape", `${weight.shape[0]} × ${weight.shape[1]}, ${many(weight.cost.params)} parameters`],
    ["becomes", option.structure === "dense" ? "dense: left as it is" : `${option.structure} of size ${option.size}`],
    ["kept", `${percent(keptOf(weight))} of its ${data.kept}`],
    ["predicted loss", `${short(loss(weight.name))} ${data.unit}${total() > 0 ? `, ${percent(loss(weight.name) / total())} of the whole` : ""}`],
  ];
  find(".picked dl").replaceChildren(...facts.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
  const points = Object.entries(weight.ways).flatMap(([structure, rows]) => rows.map(([size, kept, y]) => ({ structure, size, kept, loss: y })));
  const chosen = option.structure === "dense" ? [] : points
    .filter((p) => p.structure === option.structure)
    .sort((a, b) => Math.abs(a.size - option.size) - Math.abs(b.size - option.size))
    .slice(0, 1)
    .map((p) => ({ ...p, size: option.size, kept: keptOf(weight), loss: loss(weight.name) || p.loss }));
  const [lowest, highest] = [Math.min(...points.map((p) => p.loss)), Math.max(...points.map((p) => p.loss))];
  find(".picked figcaption").textContent = points.length
    ? `Predicted loss over what is kept of this weight: from ${short(highest)} at its smallest to ${short(lowest)} ${data.unit} at its largest size.`
    : "This weight was not priced: it stays dense.";
  const drawn = points.filter((p) => p.loss > 0);
  return feed("spectrum", { points: drawn, dots: drawn, chosen: chosen.filter((p) => p.loss > 0) });
}

function table() {
  const place = find(".weights tbody");
  if (!place || !place.closest("details").open) return;
  const sum = total();
  place.replaceChildren(...data.weights.map((weight) => {
    const option = data.choices[weight.name];
    const share = sum > 0 ? loss(weight.name) / sum : 0;
    const bar = make("span", { class: "bar warm" }, make("i", { style: `width:${Math.round(100 * share)}%` }));
    return make("tr", {},
      make("th", { scope: "row", class: "mono" }, weight.name),
      make("td", {}, `${weight.shape[0]} × ${weight.shape[1]}`),
      make("td", { class: "text" }, option.structure),
      make("td", {}, option.structure === "dense" ? "–" : String(option.size)),
      make("td", {}, percent(keptOf(weight))),
      make("td", {}, short(loss(weight.name))),
      make("td", {}, percent(share), bar));
  }));
}

// ── explore: the budget moves ───────────────────────────────────────────────────────────────────────────────────────

const explore = { asked: null, busy: false };

/** Least predicted loss on the frontier at an amount: what can be said before the plan has come. */
function between(points, x) {
  const right = points.findIndex(([at]) => at >= x);
  if (right <= 0) return points[right < 0 ? points.length - 1 : 0][1];
  const [[a, low], [b, high]] = [points[right - 1], points[right]];
  return low + ((high - low) * (x - a)) / (b - a || 1);
}

function unitOf() {
  return data.units.find((unit) => unit.name === find("#unit").value);
}

function wantUnit() {
  const unit = unitOf();
  for (const input of [find("#amount"), find("#exact")]) {
    for (const name of ["min", "max", "step"]) input[name] = unit[name];
  }
  find("#exact").value = find("#amount").value = unit.start;
  find("#of").textContent = unit.of;
  chart("frontier", data.charts[`frontier ${unit.name}`]).then(() => want(unit.start));
}

function want(amount) {
  explore.asked = { unit: find("#unit").value, amount };
  const about = between(data.frontiers[explore.asked.unit], amount * unitOf().scale);
  find("#predicted").textContent = `${short(about)} ${data.unit}`;
  find("#bound").textContent = ", read off the line; the plan is being made …";
  document.body.classList.add("waiting");
  if (!explore.busy) ask();
}

/** One question at a time, always the latest: whatever the slider passed meanwhile is left out. */
async function ask() {
  explore.busy = true;
  while (explore.asked) {
    const { unit, amount } = explore.asked;
    explore.asked = null;
    try {
      const answer = await fetch(`plan?${new URLSearchParams({ of: data.of, unit, amount })}`);
      const plan = await answer.json();
      if (!explore.asked) await follow(plan, amount);
    } catch (error) {
      say(`gossamer explore does not answer any more (${error.message}); start it again and reload this page.`);
    }
  }
  explore.busy = false;
}

async function follow(plan, amount) {
  document.body.classList.remove("waiting");
  find("#write").disabled = "error" in plan;
  say(plan.error ?? "");
  if (plan.error) {
    find("#predicted").textContent = "–";
    return find("#bound").replaceChildren();
  }
  data.choices = plan.choices;
  data.amount = amount;
  find("#predicted").textContent = `${short(plan.predicted)} ${data.unit}`;
  find("#bound").textContent = plan.bound > 0 ? `, no plan below ${short(plan.bound)}` : "";
  for (const [name, texts] of Object.entries(plan.figures)) {
    texts.forEach((text, i) => { find(`#figure-${name}-${i}`).textContent = text; });
  }
  paint();
  await Promise.all([shown(), feed("frontier", { marks: [{ x: plan.x, y: Math.max(plan.predicted, 1e-12), what: "this plan" }] })]);
}

function say(text) {
  find("#said").textContent = text;
}

async function write() {
  const asked = { of: data.of, unit: find("#unit").value, amount: String(data.amount) };
  const answer = await fetch("write", { method: "POST", headers: { "Content-Type": "application/json", "X-Gossamer": data.token }, body: JSON.stringify(asked) });
  const told = await answer.json();
  say(told.error ?? `Written: ${told.path}. Carry it out with: ${told.command}`);
}

function buildExplorer() {
  find("#unit").addEventListener("change", wantUnit);
  find("#amount").addEventListener("input", (event) => { find("#exact").value = event.target.value; want(Number(event.target.value)); });
  find("#exact").addEventListener("change", (event) => { find("#amount").value = event.target.value; want(Number(event.target.value)); });
  find("#write").addEventListener("click", () => write().catch((error) => say(`Not written: ${error.message}`)));
  const other = find("#of-model");
  if (other) other.addEventListener("change", () => { location.search = `?of=${encodeURIComponent(other.value)}`; });
}

async function start() {
  if (data.weights) {
    buildMap();
    paint();
    find(".weights").addEventListener("toggle", table);
  }
  await Promise.all(Object.entries(data.charts).filter(([name]) => find(`[data-chart="${name}"]`)).map(([name, spec]) => chart(name, spec)));
  if (data.weights) await pick(data.first ?? 0, false);
  if (data.units) {
    buildExplorer();
    wantUnit();
  }
  document.body.dataset.ready = "";
}

start();
