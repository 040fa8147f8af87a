"use strict";
// Shows one pair after the other and sends each vote. The server decides what is shown, and counts no pair twice.

const part = (id) => document.getElementById(id);
const images = [...document.querySelectorAll(".image")];
const choices = [...document.querySelectorAll("[data-choice]")];
const zoom = part("zoom");
const KEYS = {
  ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", ArrowUp: "bad",
  1: "left", 2: "right", 3: "tie", 4: "bad",
};
let state = null;
let shown = null; // id of the pair whose images are both visible
let since = 0;
let busy = false;
let pressed = null; // the button that had the focus: it loses it while it is disabled

async function ask(path, body) {
  const post = path === "state" ? {} : { method: "POST" };
  if (body) Object.assign(post, { body: JSON.stringify(body), headers: { "content-type": "application/json" } });
  const answer = await fetch(path, post);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || answer.statusText);
  return found;
}

// One request at a time: a second press while one is under way does nothing.
async function exchange(path, body) {
  if (busy) return;
  busy = true;
  enable();
  try {
    state = await ask(path, body);
    part("alert").hidden = true;
    show();
  } catch (error) {
    const why = error instanceof TypeError ? "the server does not answer" : error.message;
    part("alert").textContent = `Nothing was stored: ${why}. Try again.`;
    part("alert").hidden = false;
  }
  busy = false;
  enable();
}

function enable() {
  const ready = !busy && Boolean(state?.task) && shown === state.task.id;
  for (const one of choices) one.disabled = !ready;
  part("undo").disabled = busy || !state?.undo;
  part("begin").disabled = busy;
}

function show() {
  const started = state.voter !== null;
  part("start").hidden = started;
  part("vote").hidden = !started || !state.task;
  part("end").hidden = !started || Boolean(state.task);
  part("foot").hidden = !started;
  for (const one of choices) one.classList.remove("pressed");
  if (!started) return part("name").focus();
  part("progress").max = state.total;
  part("progress").value = state.done;
  part("count").textContent = `${state.done} of ${state.total} answered`;
  if (state.task) present(state.task);
}

async function present(task) {
  if (zoom.open) zoom.close();
  part("question").textContent = task.question;
  part("prompt").textContent = task.prompt;
  shown = null;
  enable();
  try {
    await Promise.all(images.map((button) => load(button, task[button.dataset.side])));
  } catch {
    part("alert").textContent = "An image could not be loaded. Load the page again.";
    part("alert").hidden = false;
    return;
  }
  if (state.task?.id !== task.id) return;
  for (const button of images) button.classList.remove("loading");
  shown = task.id;
  since = performance.now();
  enable();
  pressed?.focus();
  for (const address of state.ahead) new Image().src = address;
}

async function load(button, address) {
  const image = button.querySelector("img");
  if (image.getAttribute("src") === address) return;
  button.classList.add("loading");
  image.src = address;
  await image.decode();
}

function vote(choice) {
  if (busy || !state?.task || shown !== state.task.id) return;
  pressed = choices.find((one) => one === document.activeElement) ?? null;
  for (const one of choices) one.classList.toggle("pressed", one.dataset.choice === choice);
  exchange("vote", { task: shown, choice, seconds: (performance.now() - since) / 1000 });
}

function enlarge(side) {
  const image = document.querySelector(`.image[data-side="${side}"] img`);
  zoom.dataset.side = side;
  zoom.querySelector("img").src = image.src;
  zoom.querySelector("img").alt = image.alt;
  if (!zoom.open) zoom.showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.matches("input")) return;
  const key = event.key.toLowerCase();
  if (key === "z" && state?.task) {
    // First press: the left image; second: the right one; third: close.
    if (!zoom.open) enlarge("left");
    else if (zoom.dataset.side === "left") enlarge("right");
    else zoom.close();
  } else if (zoom.open) {
    return;
  } else if (KEYS[event.key]) {
    event.preventDefault();
    vote(KEYS[event.key]);
  } else if ((key === "u" || key === "backspace") && state?.undo) {
    event.preventDefault();
    exchange("undo");
  }
});
for (const one of choices) {
  // The second click of a double click may come when the next pair is already there.
  one.addEventListener("click", (event) => event.detail > 1 || vote(one.dataset.choice));
}
for (const button of images) button.addEventListener("click", () => enlarge(button.dataset.side));
part("close").addEventListener("click", () => zoom.close());
part("undo").addEventListener("click", () => exchange("undo"));
part("start").addEventListener("submit", (event) => {
  event.preventDefault();
  exchange("start", { name: part("name").value });
});
exchange("state");
