"use strict";

/** What a route's reason means to a person; "fallback:*" has its cause after the colon. */
const REASONS = {
  confident: "The student was sure enough to answer.",
  escalated: "The student was not sure, so the teacher answered.",
  pinned: "Asked for by name.",
  "fallback:overload": "The teacher was too busy, so the student answered alone.",
  "fallback:timeout": "The teacher took too long, so the student answered alone.",
  "fallback:unavailable": "The teacher was not there, so the student answered alone.",
};
/** Larger images are photographs: a thick pen on a canvas is no picture of anything in their sets. */
const LARGEST_DRAWN_SIDE = 64;
const PEN_WIDTH = 24;
const KEY_STEP = 8;

const element = (id) => document.getElementById(id);
const canvas = element("canvas");
const pen = canvas.getContext("2d");

let models = [];
let picture = null; // an uploaded or sample image, which goes before the drawing
let drawn = false;
let asking = null; // the AbortController of the question on its way

function currentModel() {
  return models[element("model").selectedIndex];
}

function isDrawable(model) {
  return model.kind === "image" && model.channels === 1 && Math.max(model.height, model.width) <= LARGEST_DRAWN_SIDE;
}

/* ---- the answer ---- */

function showStatus(text) {
  element("answer").hidden = true;
  element("answer").ariaBusy = "false";
  element("problem").hidden = true;
  element("status").className = "";
  element("status").textContent = text;
}

function showProblem(text) {
  showStatus("");
  element("problem").hidden = false;
  element("problem").textContent = text;
}

function percent(probability) {
  return `${(probability * 100).toFixed(1)} %`;
}

function barOf(label, probability, best) {
  const bar = document.createElement("li");
  bar.className = `${best ? "best" : ""} ${label.length > 3 ? "word" : ""}`.trim();
  bar.dataset.label = label;
  const [name, track, share] = ["name", "track", "share"].map((part) => {
    const span = document.createElement("div");
    span.className = part;
    return span;
  });
  name.textContent = label;
  share.textContent = percent(probability);
  const fill = document.createElement("div");
  fill.className = "fill";
  fill.style.width = `${probability * 100}%`;
  track.append(fill);
  bar.append(name, track, share);
  return bar;
}

function showAnswer(answer, roundTripMs) {
  const best = answer.predictions.reduce((top, each) => (each.probability > top.probability ? each : top));
  const probabilities = new Map(answer.predictions.map((each) => [each.label, each.probability]));
  // In the model's own order of labels, so that a bar keeps its place from one answer to the next.
  const labels = [...new Set([...currentModel().labels, ...probabilities.keys()])];
  element("label").textContent = best.label;
  element("label").className = best.label.length > 3 ? "word" : "";
  element("certainty").textContent = percent(best.probability);
  element("route").textContent = REASONS[answer.reason] ?? "";
  element("bars").replaceChildren(
    ...labels.map((label) => barOf(label, probabilities.get(label) ?? 0, label === best.label)),
  );
  element("variant").textContent = answer.variant;
  element("reason").textContent = answer.reason;
  element("release").textContent = answer.release;
  element("latency").textContent = `${answer.latency_ms.toFixed(1)} ms`;
  element("round-trip").textContent = `${roundTripMs.toFixed(1)} ms`;
  element("problem").hidden = true;
  element("answer").hidden = false;
  element("answer").ariaBusy = "false";
  // Read out by a screen reader in one sentence; the eye finds the same in the answer below.
  element("status").className = "unseen";
  element("status").textContent = `${best.label}, ${percent(best.probability)}, by the ${answer.variant}`;
}

/* ---- the question ---- */

async function errorOf(response) {
  const body = await response.json().catch(() => ({}));
  const detail = body.error ?? response.statusText;
  if (response.status === 503 || response.status === 504) {
    return `The server is busy just now; please try again in a moment. (${detail})`;
  }
  if (response.status >= 500) return `Something went wrong in the server. (${detail})`;
  return `That could not be read: ${detail}`;
}

async function payload() {
  if (currentModel().kind === "text") {
    const text = element("text").value;
    return text.trim() && { type: "application/json", body: JSON.stringify({ text }) };
  }
  if (picture) return { type: picture.type || "application/octet-stream", body: picture };
  if (!drawn || !isDrawable(currentModel())) return null;
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return { type: "image/png", body: blob };
}

async function ask() {
  if (!currentModel()) return;
  const question = await payload();
  if (!question) {
    const wanted = { text: "Type a text first.", drawing: "Draw something or choose an image first.", image: "Choose an image first." };
    const kind = currentModel().kind === "text" ? "text" : isDrawable(currentModel()) ? "drawing" : "image";
    return showProblem(wanted[kind]);
  }
  asking?.abort();
  const controller = (asking = new AbortController());
  // An answer stays, dimmed, until the next one is there: a digit of two strokes is asked about twice.
  if (element("answer").hidden) showStatus("Asking …");
  else element("answer").ariaBusy = "true";
  try {
    const started = performance.now();
    const response = await fetch(`/v1/models/${encodeURIComponent(currentModel().name)}:predict`, {
      method: "POST",
      headers: { "Content-Type": question.type, "x-tandem-mode": element("mode").value },
      body: question.body,
      signal: controller.signal,
    });
    const answer = response.ok ? await response.json() : null;
    const roundTripMs = performance.now() - started;
    if (answer) showAnswer(answer, roundTripMs);
    else showProblem(await errorOf(response));
  } catch (error) {
    if (error.name !== "AbortError") showProblem(`The server did not answer. Is it running? (${error.message})`);
  }
}

/* ---- drawing ---- */

function clearDrawing() {
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  drawn = false;
  canvas.setAttribute("aria-label", "Drawing area, empty");
}

function stroke(from, to) {
  pen.strokeStyle = "#111";
  pen.lineWidth = PEN_WIDTH;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(from.x, from.y);
  pen.lineTo(to.x, to.y);
  pen.stroke();
  drawn = true;
  canvas.setAttribute("aria-label", "Drawing area, with a drawing");
}

function pointOf(event) {
  const box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) * canvas.width) / box.width,
    y: ((event.clientY - box.top) * canvas.height) / box.height,
  };
}

function drawWithPointer() {
  let last = null;
  let pointer = null;
  canvas.addEventListener("pointerdown", (event) => {
    // A second finger or the palm of the hand does not draw.
    if (pointer !== null || event.button !== 0) return;
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    last = pointOf(event);
    stroke(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const each of passed.length ? passed : [event]) {
      const point = pointOf(each);
      stroke(last, point);
      last = point;
    }
  });
  const lift = (event) => {
    if (event.pointerId !== pointer) return;
    pointer = null;
    if (event.type === "pointerup") ask();
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
}

function drawWithKeys() {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  let at = { x: canvas.width / 2, y: canvas.height / 2 };
  let down = false;
  canvas.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (step) {
      const within = (value, side) => Math.min(side - PEN_WIDTH / 2, Math.max(PEN_WIDTH / 2, value));
      const next = {
        x: within(at.x + step[0] * KEY_STEP, canvas.width),
        y: within(at.y + step[1] * KEY_STEP, canvas.height),
      };
      if (down) stroke(at, next);
      at = next;
    } else if (event.key === " ") {
      down = !down;
      if (down) stroke(at, at);
    } else if (event.key === "Escape") {
      clearAll();
      down = false;
      at = { x: canvas.width / 2, y: canvas.height / 2 };
    } else return;
    event.preventDefault();
    const place = `${Math.round((at.x / canvas.width) * 100)} % right, ${Math.round((at.y / canvas.height) * 100)} % down`;
    canvas.setAttribute("aria-label", `Drawing area, pen ${down ? "down" : "up"}, ${place}`);
  });
}

/* ---- pictures ---- */

function showPicture(blob, name) {
  picture = blob;
  const image = element("preview-image");
  URL.revokeObjectURL(image.src);
  image.src = blob ? URL.createObjectURL(blob) : "";
  image.alt = blob ? `The image to ask about: ${name}` : "";
  element("preview-name").textContent = name;
  element("preview").hidden = !blob;
  element("drawing").hidden = Boolean(blob) || !isDrawable(currentModel());
}

function clearAll() {
  asking?.abort();
  element("file").value = "";
  element("text").value = "";
  clearDrawing();
  showPicture(null, "");
  showStatus("The answer appears here.");
}

async function trySample() {
  try {
    const response = await fetch("/static/sample_digit.png");
    if (!response.ok) throw new Error(response.statusText);
    showPicture(await response.blob(), "a sample");
  } catch (error) {
    return showProblem(`The sample could not be loaded. (${error.message})`);
  }
  await ask();
}

/* ---- the start ---- */

function showModel() {
  const model = currentModel();
  element("image-part").hidden = model.kind !== "image";
  element("text-part").hidden = model.kind !== "text";
  // The shipped sample is a digit: other models would have to guess.
  element("sample").hidden = !isDrawable(model) || !model.labels.includes("7");
  clearAll();
  document.title = `Tandem · ${model.name}`;
}

async function start() {
  drawWithPointer();
  drawWithKeys();
  clearDrawing();
  element("question").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  element("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
  });
  element("clear").addEventListener("click", clearAll);
  element("clear-text").addEventListener("click", clearAll);
  element("sample").addEventListener("click", trySample);
  element("model").addEventListener("change", showModel);
  element("mode").addEventListener("change", () => {
    if (!element("answer").hidden) ask();
  });
  element("file").addEventListener("change", () => {
    const file = element("file").files[0];
    if (!file) return;
    showPicture(file, file.name);
    ask();
  });
  try {
    const response = await fetch("/v1/models");
    if (!response.ok) throw new Error(await errorOf(response));
    models = (await response.json()).models;
  } catch (error) {
    return showProblem(`The models could not be listed. (${error.message})`);
  }
  if (!models.length) return showProblem("This server has no model yet.");
  element("model").replaceChildren(...models.map((model) => new Option(model.name)));
  element("model").disabled = false;
  element("model-field").hidden = models.length === 1;
  element("ask").disabled = false;
  showModel();
}

start();
