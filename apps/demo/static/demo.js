"use strict";

// Who answered, in the order in which they are stacked; a route stands for its reason as the endpoint gives it.
const ROUTES = [
  { name: "teacher", colour: "--teacher", of: (route) => route === "escalated" || route === "pinned" },
  { name: "student, sure of it", colour: "--student", of: (route) => route === "confident" },
  { name: "student, for the teacher", colour: "--stand-in", of: (route) => route.startsWith("fallback") },
  { name: "refused, for want of time", colour: "--refused", of: (route) => route === "shed" },
  { name: "failed", colour: "--failed", of: (route) => route === "failed" },
];
const LEFT = 44, RIGHT = 8, TOP = 18, BOTTOM = 18;

const state = { facts: null, acts: [], began: [], samples: [], notes: [], act: -1 };
const element = (id) => document.getElementById(id);
const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(share > 0.9995 ? 0 : 1)} %`);

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function nice(most) {
  const step = 10 ** Math.floor(Math.log10(most));
  return [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((times) => times * step).find((limit) => limit >= most);
}

// An axis frame with the acts behind it; returns the functions that place a point.
function frame(id, low, high, ticks, label) {
  const target = element(id), width = target.clientWidth, height = target.clientHeight;
  target.replaceChildren();
  target.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const total = state.facts.seconds;
  const top = label ? TOP : 6;
  const x = (at) => LEFT + (Math.min(at, total) / total) * (width - LEFT - RIGHT);
  const y = (value) => height - BOTTOM - ((Math.min(Math.max(value, low), high) - low) / (high - low)) * (height - top - BOTTOM);
  let starts = 0;
  state.acts.forEach((act, index) => {
    const begin = state.began[index] ?? starts, end = state.began[index + 1] ?? begin + act.seconds;
    starts = end;
    if (index % 2) {
      target.append(svg("rect", { x: x(begin), y: top, width: Math.max(0, x(end) - x(begin)), height: height - top - BOTTOM, fill: "var(--band)" }));
    }
    if (label) {
      const title = svg("text", { x: x(begin) + 2, y: 12, class: "act" }, act.title);
      target.append(title);
      const room = x(end) - x(begin) - 8;
      while (title.textContent.length > 3 && title.getComputedTextLength() > room) {
        title.textContent = `${title.textContent.slice(0, -2).trimEnd()}…`;
      }
    }
  });
  for (const tick of ticks) {
    target.append(svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick), stroke: "var(--line)" }));
    target.append(svg("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, tick));
  }
  for (let at = 0; at <= total; at += 30) {
    target.append(svg("text", { x: x(at), y: height - 4, "text-anchor": "middle" }, `${at} s`));
  }
  return { target, x, y };
}

function path(points) {
  return points.map(([px, py], index) => `${index ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
}

// Lines are broken where there is no value.
function line({ target, x, y }, value, colour, width = 2) {
  let run = [];
  const draw = () => {
    if (run.length > 1) target.append(svg("path", { d: path(run), fill: "none", stroke: colour, "stroke-width": width, "stroke-linejoin": "round" }));
    run = [];
  };
  for (const sample of state.samples) {
    const found = value(sample);
    if (found === null || found === undefined) draw();
    else run.push([x(sample.at_s), y(found)]);
  }
  draw();
}

function drawRoutes() {
  const sums = state.samples.map((sample) => ROUTES.map((route) => Object.entries(sample.by_route_per_s)
    .filter(([name]) => route.of(name)).reduce((sum, [, value]) => sum + value, 0)));
  const smooth = sums.map((_, index) => {
    const near = sums.slice(Math.max(0, index - 1), index + 2);
    return ROUTES.map((_, route) => near.reduce((sum, row) => sum + row[route], 0) / near.length);
  });
  const most = Math.max(10, ...smooth.map((row) => row.reduce((sum, value) => sum + value, 0)), state.facts.highest_rate);
  const high = nice(most), at = frame("routes", 0, high, [0, high / 2, high], true);
  let below = smooth.map(() => 0);
  ROUTES.forEach((route, index) => {
    const above = below.map((value, row) => value + smooth[row][index]);
    const upper = state.samples.map((sample, row) => [at.x(sample.at_s), at.y(above[row])]);
    const lower = state.samples.map((sample, row) => [at.x(sample.at_s), at.y(below[row])]).reverse();
    if (upper.length > 1) at.target.append(svg("path", { d: `${path([...upper, ...lower])}Z`, fill: `var(${route.colour})` }));
    below = above;
  });
  const capacity = at.y(state.facts.teacher_rows_per_s);
  at.target.append(svg("line", { x1: LEFT, x2: at.x(state.facts.seconds), y1: capacity, y2: capacity, stroke: "var(--ink)", "stroke-dasharray": "2 3" }));
  at.target.append(svg("text", { x: at.x(state.facts.seconds) - 4, y: capacity - 4, "text-anchor": "end", class: "over" }, "what one teacher can do"));
}

function drawLatency() {
  const objective = state.facts.objective_ms, high = 2 * objective;
  const at = frame("latency", 0, high, [0, objective, high], false);
  at.target.append(svg("line", { x1: LEFT, x2: at.x(state.facts.seconds), y1: at.y(objective), y2: at.y(objective), stroke: "var(--ink)", "stroke-width": 1.5, "stroke-dasharray": "6 4" }));
  line(at, (sample) => sample.p95_ms, "var(--student)");
  // More than one in twenty got no answer: there is no p95, and the top of the chart says so.
  const never = state.samples.filter((sample) => sample.p95_ms === null && sample.in_time !== null);
  for (const sample of never) {
    at.target.append(svg("rect", { x: at.x(sample.at_s) - 1.5, y: at.y(high), width: 3, height: 5, fill: "var(--failed)" }));
  }
  if (never.length) {
    at.target.append(svg("text", { x: at.x(never[0].at_s), y: at.y(high) + 18 }, "over 5 % unanswered"));
  }
}

function drawShares() {
  const at = frame("shares", 0, 100, [0, 50, 100], false);
  line(at, (sample) => (sample.accuracy === null ? null : 100 * sample.accuracy), "var(--right)");
  line(at, (sample) => (sample.in_time === null ? null : 100 * sample.in_time), "var(--time)");
}

function drawTeachers() {
  const high = Math.max(2, state.facts.max_replicas);
  const at = frame("teachers", 0, high, [0, 1, high], false);
  const steps = [];
  for (const sample of state.samples) {
    if (steps.length) steps.push([at.x(sample.at_s), steps[steps.length - 1][1]]);
    steps.push([at.x(sample.at_s), at.y(sample.replicas)]);
  }
  if (steps.length) at.target.append(svg("path", { d: path(steps), fill: "none", stroke: "var(--teacher)", "stroke-width": 3 }));
  for (const note of state.notes) {
    const px = at.x(note.at_s);
    at.target.append(svg("line", { x1: px, x2: px, y1: at.y(high), y2: at.y(0), stroke: "var(--failed)", "stroke-width": 1.5 }));
    at.target.append(svg("text", { x: px + 4, y: at.y(high) + 10 }, note.text));
  }
}

function tiles() {
  const sample = state.samples[state.samples.length - 1];
  if (!sample) return;
  element("rate").textContent = Math.round(sample.rate);
  element("rate-of").textContent = `${(sample.rate * state.facts.deferred / state.facts.teacher_rows_per_s).toFixed(1)} × the teacher`;
  element("p95").textContent = sample.p95_ms === null ? (sample.in_time === null ? "–" : "never") : `${Math.round(sample.p95_ms)} ms`;
  element("p95").className = sample.in_time !== null && (sample.p95_ms === null || sample.p95_ms > state.facts.objective_ms) ? "bad" : "";
  element("in-time").textContent = percent(sample.in_time);
  element("in-time").className = sample.in_time !== null && sample.in_time < 0.95 ? "bad" : "";
  element("accuracy").textContent = percent(sample.accuracy);
  element("replicas").textContent = sample.replicas ? `${sample.replicas} ${sample.replicas > 1 ? "replicas" : "replica"}` : "gone";
  element("replicas").className = sample.replicas ? "" : "bad";
  element("replicas-of").textContent = sample.starting ? `${sample.starting} starting` : "\u00a0";
}

function showVerdict(event) {
  element("act").textContent = "That was all";
  element("says").textContent = event.stayed;
  element("rows").replaceChildren(...event.rows.map((row) => {
    const made = document.createElement("tr");
    const cells = [
      row.title, percent(row.in_time), row.p95_ms === null ? "never" : `${Math.round(row.p95_ms)} ms`,
      row.unanswered, percent(row.accuracy), `${row.by_teacher_per_s.toFixed(0)}/s`,
    ];
    cells.forEach((text, index) => {
      const cell = document.createElement(index ? "td" : "th");
      if (!index) cell.scope = "row";
      cell.textContent = text;
      made.append(cell);
    });
    return made;
  }));
  element("verdict").hidden = false;
}

function hear(event) {
  if (event.kind === "facts") {
    state.facts = event;
    state.acts = event.acts;
    element("facts").textContent = event.text;
    element("p95-of").textContent = `objective ${Math.round(event.objective_ms)} ms`;
    element("accuracy-of").textContent = `teacher ${percent(event.teacher_accuracy)}, student ${percent(event.student_accuracy)}`;
  } else if (event.kind === "act") {
    state.act = event.act;
    state.began[event.act] = event.at_s;
    element("act").textContent = state.acts[event.act].title;
    element("says").textContent = state.acts[event.act].says;
  } else if (event.kind === "sample") {
    state.samples.push(event);
  } else if (event.kind === "note") {
    state.notes.push(event);
  } else if (event.kind === "verdict") {
    showVerdict(event);
  }
}

let planned = false;
function draw() {
  planned = false;
  if (!state.facts) return;
  tiles();
  drawRoutes();
  drawLatency();
  drawShares();
  drawTeachers();
}
function plan() {
  if (!planned) {
    planned = true;
    requestAnimationFrame(draw);
  }
}

element("legend").append(...ROUTES.map((route) => {
  const key = document.createElement("span");
  key.className = "key";
  key.style.setProperty("--key", `var(${route.colour})`);
  key.textContent = route.name;
  return key;
}));

if (window.HISTORY) {
  window.HISTORY.forEach(hear);
  draw();
} else {
  const events = new EventSource("/events");
  events.onmessage = (message) => {
    hear(JSON.parse(message.data));
    plan();
  };
  // After a break the server tells all of it again.
  events.onopen = () => {
    state.samples.length = state.notes.length = state.began.length = 0;
  };
}
window.addEventListener("resize", plan);
