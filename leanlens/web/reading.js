// What is understood of the prompt: chips that can be edited or locked, and the caption below them.
//
// Run once, when the page has loaded, with what Gradio hands to a piece of HTML: `element`, `props`, `server`,
// `trigger`.
// Whatever a person or the server wrote is put into text nodes, never into HTML. The form's fields arrive as the event
// `leanlens-form`, whenever one of them changes; what is decided here goes into the hidden field `choices`.

const panel = element.querySelector(".reading");
const textarea = () => document.querySelector("#prompt textarea");
const PAUSE = 300;  // milliseconds without a key before a prompt is read; a finished word is read at once
const NARROW = 760;  // pixels of a window in which the image stands below the chips
const FREE = {thing: "", text: "", background: "or blue and white stripes"};  // kinds that take any words: a hint
const ICONS = {
  open: "M5 7V5a3 3 0 0 1 5.8-1M3.5 7h9v7h-9z",
  shut: "M5 7V5a3 3 0 0 1 6 0v2M3.5 7h9v7h-9z",
};
const KINDS = {
  thing: "thing", number: "number", color: "colour", size: "size", place: "place",
  relation: "relation", background: "background", style: "style", text: "text",
};
const OF_ALL = ["background", "style"];  // what is said of the whole image
const CHANCE = ["background", "style", "size", "place"];  // what a fact that is taken away is chosen for again
const ORDER = ["number", "size", "color", "thing", "place"];  // within what is said of one thing

const able = new Set(props.models);  // models that have a reasoner
let form = null;       // the fields of the form by name
let hasSource = false;
let answer = null;     // the last one of the server
let choices = {prompt: "", edits: {}, locks: {}, seed: null};
let drawn = null;      // what was drawn last: its form as one text, its prompt and its seed
let asked = 0, timer = 0, edited = "", isWhole = false;
const underWay = [];   // texts of `choices` that the form does not say yet

// ------------------------------------------------------------------------------------------- small things

function make(tag, given = {}, ...inside) {
  const part = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) part.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) part.setAttribute(name, value === true ? "" : value);
  }
  part.append(...inside.filter((one) => one !== null));
  return part;
}

function icon(name) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawing.setAttribute("viewBox", "0 0 16 16");
  drawing.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  drawing.append(path);
  return drawing;
}

const button = (words, press, given = {}) => make("button", {type: "button", onclick: press, ...given}, words);
const trimmed = (text) => text.trim().split(/\s+/).join(" ");
const isSame = (one, other) => trimmed(one) === trimmed(other);
const options = (kind) => props.options[kind] || [];
const color = (kind, value) => (options(kind).find(([name]) => name === value) || ["", ""])[1];
const rolled = () => crypto.getRandomValues(new Uint32Array(1))[0];
const isRandom = () => ["", "-1"].includes(form.seed.trim());
const edits = () => isSame(choices.prompt, form.prompt) ? choices.edits : {};
const isLocked = (key) => key in choices.locks;
const isAble = () => able.has(form.model);
const isRewritten = () => form.reason && isAble() && !hasSource;

// ------------------------------------------------------------------------------------------- what is decided

/** Keep other choices and have the prompt read with them. */
function decide(changed) {
  choices = {...choices, ...changed};
  panel.dataset.choices = JSON.stringify(choices);
  underWay.push(panel.dataset.choices);
  trigger("change");
  read(0);
}

function change(key, value) {
  if (isLocked(key) && value !== "") decide({locks: {...choices.locks, [key]: value}});
  else decide({...unlocked(key), prompt: form.prompt, edits: {...edits(), [key]: value}});
}

const isRemovable = (fact) => fact.kind !== "number" && (fact.stated || !CHANCE.includes(fact.kind));

function unlocked(key) {
  const {[key]: _, ...locks} = choices.locks;
  return {locks};
}

function toggleLock(fact) {
  if (isLocked(fact.key)) decide(unlocked(fact.key));
  else decide({locks: {...choices.locks, [fact.key]: fact.value}});
}

/** All that decides what is drawn. */
function asText() {
  const {choices: _, ...rest} = form;
  return JSON.stringify([rest, edits(), choices.locks, choices.seed]);
}

/** The arguments of a press of Draw. A random seed is the one shown, or a new one where just that has been drawn. */
function press(values) {
  take({detail: values.slice(-props.fields.length)});  // what was just typed may not have been told yet
  if (!isRewritten()) return values;
  if (isRandom() && drawn?.text === asText()) choices.seed = rolled();
  drawn = {text: asText(), prompt: form.prompt, seed: choices.seed};
  decide({});
  if (innerWidth <= NARROW) document.querySelector("#stage").scrollIntoView({behavior: "smooth", block: "nearest"});
  return [...values.slice(0, -1), panel.dataset.choices];
}

// ------------------------------------------------------------------------------------------- reading

function take({detail}) {
  const before = form;
  form = Object.fromEntries(props.fields.map((name, index) => [name, detail[index]]));
  for (const name of ["prompt", "size", "seed", "choices"]) form[name] = String(form[name] ?? "");
  const arrived = underWay.indexOf(form.choices);
  if (arrived >= 0) underWay.splice(0, arrived + 1);
  else if (!underWay.length && form.choices !== panel.dataset.choices) accept(form.choices);
  if (drawn && choices.seed === drawn.seed && !isSame(drawn.prompt, form.prompt)) choices.seed = rolled();
  const typed = before && before.prompt !== form.prompt && document.activeElement === textarea();
  const texts = [before, form].map((one) => JSON.stringify(one));
  if (texts[0] !== texts[1]) read(typed && !/[\s.,;:!?"]$/.test(form.prompt) ? PAUSE : 0);
}

/** Take choices that come from elsewhere: kept by the browser, or of a picture whose settings are used again. */
function accept(text) {
  const none = {prompt: "", edits: {}, locks: {}};
  try {
    choices = {...none, ...JSON.parse(text || "{}"), seed: rolled()};
  } catch {
    choices = {...none, seed: rolled()};
  }
  panel.dataset.choices = text;
}

function read(pause) {
  clearTimeout(timer);
  const mine = ++asked;
  if (!form.reason || hasSource || !trimmed(form.prompt)) {
    answer = null;
    show();
    return;
  }
  timer = setTimeout(async () => {
    const {prompt, model, aspect, base, size, seed} = form;
    const sent = {prompt, model, aspect, base, size, seed, loras: form.loras || []};
    try {
      const found = await server.read({...sent, choices: JSON.stringify({...choices, edits: edits()})});
      if (mine !== asked) return;
      if (found.state === "absent") able.delete(form.model);
      else able.add(form.model);
      answer = found.state === "refused" && answer?.facts ? {...answer, refused: found.sentence} : found;
    } catch {
      if (mine !== asked) return;
      answer = {state: "refused", sentence: "The server does not answer."};
    }
    show();
  }, pause);
}

// ------------------------------------------------------------------------------------------- showing

function show() {
  const focused = document.activeElement?.closest?.("[data-at]")?.dataset.at;
  const height = panel.offsetHeight;
  const state = !form ? "empty" : !isAble() ? "absent" : !form.reason ? "off" : hasSource ? "source"
    : !answer ? "empty" : answer.state;
  document.querySelector("#first").classList.toggle("rewrites", state !== "absent");
  const wasEditing = panel.querySelector(".editor")?.contains(document.activeElement);
  const editor = panel.querySelector(".editor");
  panel.dataset.state = state;
  panel.replaceChildren(...(state === "read" ? reading() : [said(state)]).filter((one) => one !== null));
  // Below this stand other things, which are not to move up and down while one types.
  panel.style.minHeight = answer && document.activeElement === textarea() ? `${Math.max(height, 0)}px` : "";
  if (focused) panel.querySelector(`[data-at="${CSS.escape(focused)}"]`)?.focus();
  if (editor) panel.append(editor);  // so that what was typed into it is found
  openEditor(wasEditing);
}

function said(state) {
  const words = {
    absent: props.isOff ? "This server draws prompts as they are written."
      : `${form?.model} draws prompts as they are written.`,
    off: "Your prompt is drawn as you write it.",
    source: "With a source image, your prompt is drawn as you write it.",
    empty: "While you type, what is understood appears here.",
  };
  const alarm = state === "refused" ? {role: "alert", class: "wrong"} : {class: "note"};
  const parts = [make("p", alarm, words[state] || answer.sentence)];
  if (answer && Object.keys(edits()).length) parts.push(undo());
  if (answer) parts.push(idleLocks());
  return make("div", {}, ...parts, ...(answer?.unknown || []).map(unknown));
}

function reading() {
  return [
    answer.refused ? make("p", {class: "wrong", role: "alert"}, answer.refused) : null,
    make("div", {class: "chips", role: "group", "aria-label": "What is understood"}, ...groups()),
    answer.unknown.length ? make("div", {class: "unknowns", role: "status"}, ...answer.unknown.map(unknown)) : null,
    notes(),
    idleLocks(),
    caption(),
  ];
}

/** The chips, those of one thing beside each other. */
function groups() {
  const found = new Map();
  for (const fact of answer.facts) {
    const number = ORDER.includes(fact.kind) && fact.key.match(/\d+$/);
    const name = number ? `thing ${number[0]}` : fact.key;
    found.set(name, [...(found.get(name) || []), fact]);
  }
  const place = (fact) => ORDER.indexOf(fact.kind);
  return [...found.values()].map((facts) =>
    make("span", {class: "group"}, ...facts.sort((one, other) => place(one) - place(other)).map(chip)));
}

function chip(fact) {
  const isEdited = fact.key in edits(), locked = isLocked(fact.key);
  const kinds = ["chip", fact.kind, fact.stated || isEdited || locked ? "stated" : "chosen"];
  if (isEdited) kinds.push("edited");
  if (locked) kinds.push("locked");
  const dot = color(fact.kind, fact.value);
  const told = describe(fact);
  const edit = make("button", {
    type: "button", class: "edit", "data-at": fact.key, title: told, "aria-label": `${told}. Edit`,
    "aria-haspopup": "dialog", "aria-expanded": String(edited === fact.key),
    onclick: () => { edited = edited === fact.key ? "" : fact.key; openEditor(true); },
    onkeydown: ({key}) => { if (["Delete", "Backspace"].includes(key) && isRemovable(fact)) change(fact.key, ""); },
  }, OF_ALL.includes(fact.kind) ? make("small", {}, KINDS[fact.kind]) : null,
  dot ? make("i", {class: "dot", style: `background: ${dot}`}) : null, make("span", {class: "words"}, words(fact)));
  const isLockable = OF_ALL.includes(fact.kind) || locked;
  return make("span", {class: kinds.join(" ")}, edit, isLockable ? lock(fact) : null);
}

function words({kind, label, value}) {
  if (kind === "text") return `“${value}”`;
  return kind === "relation" ? label || value : value;
}

/** A fact for screen readers: its kind, its value, what it belongs to, and who set it. */
function describe({key, kind, value, label, stated}) {
  const who = key in edits() ? "edited" : stated ? "" : "left to chance";
  const more = [label === value ? "" : label, who, isLocked(key) ? "locked" : ""];
  return [`${KINDS[kind]}: ${value}`, ...more].filter(Boolean).join(", ");
}

/** The toggle that keeps a fact for every prompt. Things have it in their editor, so that their chips stay small. */
function lock(fact) {
  const locked = isLocked(fact.key);
  return make("button", {
    type: "button", class: "lock", "data-at": `lock ${fact.key}`, "aria-pressed": String(locked),
    "aria-label": `Lock ${KINDS[fact.kind]} ${fact.value}`, onclick: () => toggleLock(fact),
    title: locked ? "Kept for every prompt. Press to unlock." : "Keep this for every prompt",
  }, icon(locked ? "shut" : "open"));
}

function unknown({word, nearest, sentence}) {
  const field = textarea();
  const isTyped = document.activeElement === field && field.value.slice(0, field.selectionStart).endsWith(word);
  const use = () => {
    const at = field.value.toLowerCase().indexOf(word.toLowerCase());
    if (at >= 0) window.leanlensReplace(field, at, at + word.length, nearest);
  };
  return make("p", {class: isTyped ? "unknown typed" : "unknown"}, sentence,
    nearest ? button(`Use ${nearest}`, use, {"data-at": `use ${word}`}) : null);
}

/** Locks that no chip shows, since this prompt has nothing that they are of. */
function idleLocks() {
  const shown = (answer.facts || []).map((fact) => fact.key);
  const idle = Object.entries(choices.locks).filter(([key]) => !shown.includes(key));
  if (!idle.length) return null;
  return make("p", {class: "note"}, "Locked, and not in this prompt: ", ...idle.map(([key, value]) =>
    button(`${key.replace(/^color/, KINDS.color)}: ${value} ✕`, () => decide(unlocked(key)),
      {"data-at": `lock ${key}`, "aria-label": `Unlock ${key}: ${value}`})));
}

function undo() {
  return button("Undo my edits", () => decide({prompt: form.prompt, edits: {}}), {"data-at": "undo"});
}

/** What the dashed chips are, in few words, and what can be done about them. */
function notes() {
  const parts = [];
  const hasChosen = answer.facts.some((fact) => !fact.stated && !isLocked(fact.key));
  const count = Number(form.count) || 1;
  if (answer.language && answer.language !== "en") {
    const name = new Intl.DisplayNames(["en"], {type: "language"}).of(answer.language);
    parts.push(`Read as ${name}. `);
  }
  if (hasChosen && isRandom()) {
    parts.push(`Dashed: left to chance${drawn?.text === asText() ? "; Draw again chooses anew" : ""}. `);
  } else if (hasChosen) parts.push(`Dashed: chosen by seed ${answer.seed}. `);
  if (hasChosen && count > 1) parts.push(`The first of ${count} images; each has its own. `);
  if (hasChosen && isRandom()) {
    parts.push(button("Choose anew", () => decide({seed: rolled()}), {"data-at": "anew"}));
  }
  if (Object.keys(edits()).length) parts.push(undo());
  return parts.length ? make("p", {class: "note"}, ...parts) : null;
}

function caption() {
  const text = make("p", {class: isWhole ? "words" : "words short", id: "caption"}, answer.caption);
  const whole = button(isWhole ? "Show less" : "Show all", () => { isWhole = !isWhole; show(); },
    {"data-at": "whole", "aria-expanded": String(isWhole), "aria-controls": "caption"});
  const copied = button("Copy", async ({target}) => {
    await copy(answer.caption);
    target.textContent = "Copied";
    setTimeout(() => { target.textContent = "Copy"; }, 1500);
  }, {"data-at": "copy"});
  const title = make("span", {class: "title"}, "Drawn as");
  return make("div", {class: "caption"}, title, text, make("div", {}, whole, copied));
}

/** The clipboard belongs to pages over HTTPS or of this machine; elsewhere what is selected is copied. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = make("textarea", {class: "copied"});
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}

// ------------------------------------------------------------------------------------------- editing

function openEditor(takesFocus = false) {
  const before = panel.querySelector(".editor");
  const typed = before?.dataset.key === edited ? before.querySelector("input")?.value : undefined;
  before?.remove();
  for (const one of panel.querySelectorAll(".edit")) one.ariaExpanded = String(one.dataset.at === edited);
  const fact = edited && answer?.facts?.find((one) => one.key === edited);
  const at = fact && panel.querySelector(`.edit[data-at="${CSS.escape(edited)}"]`);
  if (!at) {
    edited = "";
    return;
  }
  const removing = CHANCE.includes(fact.kind) ? "Leave to chance" : "Remove";
  const editor = make("div", {
    class: "editor", role: "dialog", "data-key": edited, "aria-label": `Edit ${fact.label || fact.value}`,
  }, options(fact.kind).length ? choice(fact) : null, fact.kind in FREE ? field(fact, typed) : null,
  make("div", {class: "line"},
    isRemovable(fact) ? button(removing, () => { closeEditor(); change(fact.key, ""); }) : null,
    button(isLocked(fact.key) ? "Unlock" : "Lock for every prompt", () => { closeEditor(); toggleLock(fact); })));
  panel.append(editor);
  const [inside, chipped] = [panel.getBoundingClientRect(), at.getBoundingClientRect()];
  editor.style.top = `${chipped.bottom - inside.top + 4}px`;
  editor.style.left = `${Math.max(0, Math.min(chipped.left - inside.left, inside.width - editor.offsetWidth))}px`;
  editor.scrollIntoView({block: "nearest"});
  if (takesFocus) (editor.querySelector("[aria-pressed=true], input") || editor.querySelector("button")).focus();
}

function closeEditor() {
  const at = edited;
  edited = "";
  openEditor();
  panel.querySelector(`.edit[data-at="${CSS.escape(at)}"]`)?.focus();
}

function set(fact, value) {
  closeEditor();
  if (trimmed(value) && value !== fact.value) change(fact.key, trimmed(value));
}

/** The known values of a kind as buttons, through which the arrow keys go. */
function choice(fact) {
  return make("div", {class: "values", role: "group", onkeydown: walk}, ...options(fact.kind).map(([name, ink]) =>
    make("button", {type: "button", "aria-pressed": String(name === fact.value), onclick: () => set(fact, name)},
      ink ? make("i", {class: "dot", style: `background: ${ink}`}) : null, name)));
}

function walk(event) {
  const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
  const all = [...event.currentTarget.querySelectorAll("button")];
  const next = step && all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
  if (next) {
    event.preventDefault();
    next.focus();
  }
}

function field(fact, typed) {
  const found = make("div", {class: "values", onkeydown: walk});
  const input = make("input", {
    type: "text", "aria-label": KINDS[fact.kind], maxlength: 80, autocomplete: "off", placeholder: FREE[fact.kind],
    onkeydown: ({key}) => { if (key === "Enter") set(fact, input.value); },
  });
  input.value = typed ?? (FREE[fact.kind] ? "" : fact.value);
  if (fact.kind === "thing") {
    input.addEventListener("input", async () => {
      const {names} = await server.suggest(input.value);
      found.replaceChildren(...names.map((name) => button(name, () => set(fact, name))));
    });
  }
  const line = make("div", {class: "line"}, input, button("Set", () => set(fact, input.value)));
  return make("div", {class: "field"}, line, found);
}

panel.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !edited) return;
  event.preventDefault();
  closeEditor();
});
document.addEventListener("pointerdown", ({target}) => {
  if (edited && !target.closest?.(".reading .editor, .reading .edit")) {
    edited = "";
    openEditor();
  }
});
document.addEventListener("leanlens-form", take);
document.addEventListener("leanlens-source", ({detail}) => {
  hasSource = detail;
  if (form) read(0);
});
window.leanlensPress = press;
if (window.leanlensForm) take({detail: window.leanlensForm});
