// Known things that begin as what is being typed does: a row of buttons below the prompt, one stop of the Tab key.

const row = element.querySelector(".suggestions");
const field = () => document.querySelector("#prompt textarea");
let asked = 0, isAsking = false, isBehind = false;

/** Put `text` in the place of a part of a field, as if it had been typed there. */
window.leanlensReplace = (area, start, end, text) => {
  area.focus();
  area.setRangeText(text, start, end, "end");
  area.dispatchEvent(new Event("input", {bubbles: true}));
};

function show(typed, names) {
  row.replaceChildren(...names.map((name, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = index ? -1 : 0;
    button.textContent = name;
    button.addEventListener("click", () => {
      const at = field().selectionStart;
      window.leanlensReplace(field(), at - typed.length, at, `${name} `);
      show("", []);
    });
    return button;
  }));
}

/** Ask for the word before the caret; while one answer is awaited, only the newest question waits. */
async function ask() {
  const area = field();
  if (!document.querySelector("#first").classList.contains("rewrites")) return show("", []);
  if (isAsking) {
    isBehind = true;
    return;
  }
  isAsking = true;
  const before = area.value.slice(0, area.selectionStart);
  const isInside = /^\p{L}/u.test(area.value.slice(area.selectionStart));
  try {
    const {typed, names} = isInside ? {typed: "", names: []} : await server.suggest(before);
    if (field().value.slice(0, field().selectionStart) === before) show(typed, names);
  } catch {
    show("", []);
  }
  isAsking = false;
  if (isBehind) {
    isBehind = false;
    ask();
  }
}

row.addEventListener("keydown", (event) => {
  const all = [...row.querySelectorAll("button")];
  const at = all.indexOf(document.activeElement);
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (event.key === "Escape") field().focus();
  else if (step) {
    const next = all[(at + step + all.length) % all.length];
    for (const one of all) one.tabIndex = one === next ? 0 : -1;
    next.focus();
  } else return;
  event.preventDefault();
});
document.addEventListener("input", ({target}) => { if (target === field()) ask(); });
