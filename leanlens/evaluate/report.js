// Puts the page together, and answers the keyboard.
const KEYS = [
  ["/", "search prompts"],
  ["j  k", "next and previous prompt"],
  ["Enter", "open the prompt"],
  ["\u2190  \u2192", "previous and next prompt, opened"],
  ["+  \u2212  0", "zoom all images of the prompt, and back"],
  ["Esc", "close"],
  ["t", "light or dark"],
  ["?", "these keys"],
];

function switchTheme() {
  const isDark = getComputedStyle(document.documentElement).getPropertyValue("--ground").trim() === "#141517";
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
}
function showKeys() {
  const help = document.getElementById("help");
  help.replaceChildren(
    el("h2", {}, "Keys"),
    el(
      "dl",
      {},
      KEYS.flatMap(([keys, words]) => [
        el(
          "dt",
          {},
          keys.split("  ").map((key) => [el("kbd", {}, key), " "]),
        ),
        el("dd", {}, words),
      ]),
    ),
    el("p", {class: "note"}, "In an opened prompt, the wheel zooms and dragging moves all images together."),
    el("button", {type: "button", onclick: () => help.close()}, "Close"),
  );
  help.showModal();
}

function pressDetail(event) {
  const steps = {ArrowLeft: -1, k: -1, ArrowRight: 1, j: 1};
  const zooms = {"+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: reset};
  if (event.key in steps) {
    const to = gallery.open + steps[event.key];
    if (gallery.shown[to]) openDetail(to);
  } else if (event.key in zooms) zooms[event.key]();
  else return;
  event.preventDefault();
}
function pressPage(event) {
  const cards = [...document.getElementById("list").children],
    at = cards.indexOf(document.activeElement.closest("article"));
  const move = (by) => {
    const next = cards[at < 0 ? 0 : at + by];
    next?.focus();
    next?.scrollIntoView({block: "nearest"});
  };
  const keys = {
    "/": () => document.getElementById("search").focus(),
    j: () => move(1),
    k: () => move(-1),
    t: switchTheme,
    "?": showKeys,
    Enter: at < 0 ? null : () => openDetail(at),
  };
  if (!keys[event.key]) return;
  keys[event.key]();
  event.preventDefault();
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("help").open) return;
  if (event.target.matches("input:not([type=range]), select, textarea")) {
    if (event.key === "Escape") event.target.blur();
  } else if (detail.open) pressDetail(event);
  else if (!event.target.matches("button, summary, a") || event.key !== "Enter") pressPage(event);
});
detail.addEventListener("close", () => {
  const card = document.getElementById("list").children[gallery.open];
  card?.focus({preventScroll: true});
  card?.scrollIntoView({block: "nearest"});
});
for (const dialog of document.querySelectorAll("dialog"))
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
addEventListener("beforeprint", () => {
  for (const card of document.getElementById("list").children) fillCard(card);
});
document.getElementById("theme").addEventListener("click", switchTheme);
document.getElementById("keys").addEventListener("click", showKeys);

showHead();
for (const [id, show] of [
  ["result", showResult],
  ["comparisons", showComparisons],
  ["categories", showCategories],
  ["cost", showCosts],
  ["images", showImages],
  ["method", showMethod],
  ["published", showPublished],
])
  show(document.getElementById(id));
const nav = document.getElementById("nav");
for (const section of document.querySelectorAll("main section"))
  nav.append(el("a", {href: `#${section.id}`}, section.querySelector("h2").textContent));
