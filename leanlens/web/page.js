// What the page keeps in the browser: the colours, and the form's fields. Gradio's events call it as `leanlensPage`.

const THEME = "leanlens-theme", FORM = "leanlens-form", REASON = "leanlens-reason";  // keys of the browser's storage

const chosen = localStorage.getItem(THEME);
if (chosen) document.body.classList.toggle("dark", chosen === "dark");

function toggleTheme() {
  localStorage.setItem(THEME, document.body.classList.toggle("dark") ? "dark" : "light");
}

/** Tell the page's other scripts what the form says. */
function tell(values) {
  window.leanlensForm = values;
  document.dispatchEvent(new CustomEvent("leanlens-form", {detail: values}));
}

/** Keep the form's fields, and the switch for rewriting by itself: `reason` is its place among them. */
function remember(values, {reason}) {
  try {
    localStorage.setItem(FORM, JSON.stringify(values));
    localStorage.setItem(REASON, values[reason] ? "on" : "off");
  } catch { /* it is full, or switched off */ }
  tell(values);
}

/** The fields as they were kept, unless their model is not offered any more. Rewriting that was turned off stays off. */
function restore(values, {models, model, reason}) {
  let kept = null, isOff = false;
  try {
    kept = JSON.parse(localStorage.getItem(FORM));
    isOff = localStorage.getItem(REASON) === "off";
  } catch { /* nothing was kept */ }
  if (kept?.length === values.length && models.includes(kept[model])) values = kept;
  if (isOff) values[reason] = false;
  return values;
}

/** Make the aspects one stop of the Tab key, with arrow keys inside. Gradio names each choice differently. */
function groupAspects() {
  const aspect = document.querySelector("#aspect");
  const name = () => aspect.querySelectorAll("input:not([name=aspect])").forEach((choice) => choice.name = "aspect");
  new MutationObserver(name).observe(aspect, {subtree: true, childList: true, attributeFilter: ["name"]});
  name();
}

window.leanlensPage = {toggleTheme, tell, remember, restore, groupAspects};
