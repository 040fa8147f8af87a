// Tells the server the `data-name` of a button that is pressed inside a piece of HTML, once its question is answered.
// Gradio hands in `element` and `trigger`.

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-name]");
  if (!button || (button.dataset.confirm && !confirm(button.dataset.confirm))) return;
  trigger("click", {name: button.dataset.name});
});
