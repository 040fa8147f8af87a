// Holds a press on Draw until what it depends on has arrived: an image that is being read into the editor, a form that
// the server is filling in. Without this, the press would draw what the form said before, without a word.

const LIMIT = 60_000;  // milliseconds after which an answer is given up
const WORDS = {source: "the image to start from", settings: "the settings of the dropped image", form: "the form"};
const waits = new Map();  // what is awaited -> the timer that gives it up
let held = [];  // buttons that were pressed in the meantime
let hasSource = false, toldSource = false;  // whether an image was put into the editor, and what was said of that
let isDropZone = false;  // whether the last click was on "Reuse settings", rather than in the editor

const note = () => document.querySelector("#waiting p");

function say(words, isAlarm = false) {
  note().textContent = words;
  note().role = isAlarm ? "alert" : "status";
  note().className = isAlarm ? "wrong" : "";
}

function begin(name) {
  clearTimeout(waits.get(name));
  waits.set(name, setTimeout(() => fail(`No answer within ${LIMIT / 1000} s.`), LIMIT));
  if (!held.length) say("");
}

function end(name) {
  clearTimeout(waits.get(name));
  waits.delete(name);
  if (!waits.size) for (const button of release()) button.click();
}

/** Give up all that is awaited; what was pressed is not drawn. */
function fail(reason) {
  for (const timer of waits.values()) clearTimeout(timer);
  waits.clear();
  const isHeld = release().length > 0;
  say([reason, isHeld ? "Nothing was drawn; press Draw again." : ""].filter(Boolean).join(" "), true);
}

function release() {
  const pressed = held;
  held = [];
  for (const button of pressed) button.ariaBusy = null;
  if (pressed.length) say("");
  return pressed;
}

function hold(button, event) {
  if (!button || !waits.size) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  held.push(button);
  button.ariaBusy = "true";
  say(`Waiting for ${[...waits.keys()].map((name) => WORDS[name]).join(" and ")} …`);
}

addEventListener("click", (event) => hold(event.target.closest?.("#draw, #draw-grid"), event), true);
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.shiftKey && event.target.matches?.("#prompt textarea")) {
    hold(document.querySelector("#draw"), event);
  }
}, true);

// Whatever Gradio complains of, an upload that is too large for one, is not going to arrive.
new MutationObserver((changes) => {
  const added = changes.flatMap((change) => [...change.addedNodes]);
  const isError = (part) => part.matches?.(".toast-body.error") || part.querySelector?.(".toast-body.error");
  if (waits.size && added.some(isError)) fail("");
}).observe(document.body, {childList: true, subtree: true});

// ----------------------------------------------------------------------------------------- files

const isReady = () => document.querySelector("#source .toolbar-wrap") !== null;

/** Wait for the files of an event, and have the editor get it once it is able to read one. */
function receive(event, files, again) {
  const part = event.target.closest?.("#source, #drop");
  if (!part || !files?.length) return;
  const name = part.id === "drop" ? "settings" : "source";
  begin(name);
  if (name === "settings") return;
  createImageBitmap(files[0]).then((image) => image.close(), () => {
    sourceChanged(false);  // the editor is empty now
    fail(`${files[0].name} is not a readable image.`);
  });
  if (isReady()) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const target = event.target;
  const observer = new MutationObserver(() => {
    if (!isReady()) return;
    observer.disconnect();
    target.dispatchEvent(again());
  });
  observer.observe(part, {childList: true, subtree: true});
}

addEventListener("change", (event) => {
  if (event.target.type === "file") receive(event, event.target.files, () => new Event("change", {bubbles: true}));
}, true);
addEventListener("drop", (event) => {
  const files = [...event.dataTransfer?.files ?? []];
  receive(event, files, () => {
    const dataTransfer = new DataTransfer();
    for (const file of files) dataTransfer.items.add(file);
    return new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer});
  });
}, true);

// A paste is a click in Gradio, after which only its answer tells whether there is an image.
addEventListener("click", ({target}) => { isDropZone = Boolean(target.closest?.("#drop")); }, true);
const clipboard = navigator.clipboard;
if (clipboard?.read) {
  const read = clipboard.read.bind(clipboard);
  clipboard.read = async () => {
    begin(isDropZone ? "settings" : "source");
    try {
      const items = await read();
      if (!items.some(({types}) => types.some((type) => type.startsWith("image/")))) {
        fail("The clipboard holds no image.");
      }
      return items;
    } catch (error) {
      fail("The clipboard cannot be read.");
      throw error;
    }
  };
}

// ----------------------------------------------------------------------------------------- the editor

/** Whether the editor shows an image: it reports one that is added or cleared, but not that this was undone. */
const showsImage = () => hasSource && window.editor?.command_manager?.history?.previous !== null;

function tellSource() {
  if (toldSource === showsImage()) return;
  toldSource = showsImage();
  document.dispatchEvent(new CustomEvent("leanlens-source", {detail: toldSource}));
}

function sourceChanged(isAdded) {
  hasSource = isAdded;
  tellSource();
  if (isAdded) end("source");
}

addEventListener("click", ({target}) => {
  if (target.closest?.("#source")) requestAnimationFrame(tellSource);
});

/** The arguments of a drawing. An image that is shown and was not sent is marked, so that the server refuses. */
function press(fields, values) {
  say("");
  const place = values.length - fields - 1;
  if (showsImage() && !values[place]?.background) {
    values = values.with(place, {background: null, layers: [], composite: null, id: "lost"});
  }
  return window.leanlensPress ? window.leanlensPress(values) : values;
}

window.leanlensWaiting = {begin, end, sourceChanged, press};
