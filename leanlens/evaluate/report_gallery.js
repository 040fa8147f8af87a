// The images of each prompt side by side: searched, filtered, sorted, and filled in only near the window.
const pictures = new Map(
  JSON.parse(document.getElementById("pictures").textContent).map(([file, ...rest]) => [file, rest]),
);
const gallery = {visible: drawn.map((model) => model.name), shown: [], open: null};
const judgeNames = report.judges.map((judge) => judge.name);

// What items are found and sorted by, computed once.
const entries = report.items.map((item, index) => {
  const rewritten = Object.values(item.images)
    .flat()
    .map((image) => image.reasoned?.prompt ?? "");
  return {
    item,
    index,
    text: [item.id, item.prompt, ...item.categories, ...rewritten].join("\n").toLowerCase(),
    models: disagreement(compared.map((model) => values(item.images[model.name] ?? []))),
    judges: judgesDisagree(item),
  };
});

// Criterion -> the mean of its judged values over the images of one model.
function values(images, judge = null) {
  const found = new Map();
  for (const [who, criterion, value] of images.flatMap(verdicts)) {
    if (!isNumber(value) || (judge && who !== judge)) continue;
    const key = judge ? criterion : `${who}\n${criterion}`;
    found.set(key, [...(found.get(key) ?? []), value]);
  }
  return new Map([...found].map(([key, ones]) => [key, mean(ones)]));
}
// The mean over criteria of the largest difference between any two.
function disagreement(maps) {
  const there = maps.filter((one) => one.size);
  const ranges = [...new Set(there.flatMap((one) => [...one.keys()]))]
    .map((key) => there.filter((one) => one.has(key)).map((one) => one.get(key)))
    .filter((ones) => ones.length > 1)
    .map((ones) => Math.max(...ones) - Math.min(...ones));
  return mean(ranges) ?? 0;
}
// The same between judges on each image; by their means where they share no criterion.
function judgesDisagree(item) {
  const images = drawn.flatMap((model) => item.images[model.name] ?? []);
  return (
    mean(
      images.map((image) => {
        const maps = judgeNames.map((judge) => values([image], judge)).filter((one) => one.size);
        const shared = maps.some((one, index) =>
          maps.some((other, place) => place > index && [...one.keys()].some((key) => other.has(key))),
        );
        return shared
          ? disagreement(maps)
          : disagreement(maps.map((one) => new Map([["mean", mean([...one.values()])]])));
      }),
    ) ?? 0
  );
}
const itemScore = (item, names) => mean(names.flatMap((name) => [...values(item.images[name] ?? []).values()])) ?? -1;

function showImages(host) {
  const choose = (id, label, options) =>
    el(
      "select",
      {id, "aria-label": label, onchange: refresh},
      options.map(([value, text]) => el("option", {value}, text)),
    );
  const categories = [...new Set(report.items.flatMap((item) => item.categories))];
  const criteria = report.judges.flatMap((judge) =>
    judge.criteria.map((name) => [
      `${judge.name}\n${name}`,
      judgeNames.length > 1 ? `${judge.name}: ${spaced(name)}` : spaced(name),
    ]),
  );
  const orders = [
    ["index", "in the suite's order"],
    ["models", "models disagree most"],
    ...(judgeNames.length > 1 ? [["judges", "judges disagree most"]] : []),
    ["low", "lowest score first"],
    ["high", "highest score first"],
    ...drawn.map((model) => [`low\n${model.name}`, `${model.name}: lowest first`]),
  ];
  host.append(
    el(
      "div",
      {id: "bar", role: "search"},
      el("input", {
        id: "search",
        type: "search",
        placeholder: "Search prompts  ( / )",
        "aria-label": "Search prompts",
        oninput: refresh,
      }),
      choose("category", "Category", [["", "any category"], ...categories.map((name) => [name, spaced(name)])]),
      choose("criterion", "Criterion", [["", "any criterion"], ...criteria]),
      choose("state", "Verdict", [
        ["", "any verdict"],
        ["met", "met"],
        ["unmet", "not met"],
        ["failed", "judgement failed"],
      ]),
      choose("who", "Model", [
        ["", "by any model"],
        ["all", "by every model"],
        ...report.models.map((model) => [`=${model.name}`, `by ${model.name}`]),
      ]),
      choose("order", "Order", orders),
      el(
        "label",
        {},
        "size",
        el("input", {
          id: "zoom",
          type: "range",
          min: 90,
          max: 420,
          value: 170,
          "aria-label": "Size of the images",
          oninput: resize,
        }),
      ),
      el("span", {id: "shown", role: "status"}),
    ),
    el(
      "div",
      {id: "columns", class: "tools"},
      report.models.map((model) =>
        el(
          "button",
          {type: "button", "data-show": model.name, "aria-pressed": String(model.role !== "control"), onclick: toggle},
          swatch(model.name),
          said("bdi", model.name),
        ),
      ),
    ),
    el("div", {id: "list"}),
  );
  document.getElementById("columns").style.marginBottom = ".6rem";
  refresh();
}

function resize(event) {
  document.documentElement.style.setProperty("--size", `${event.target.value}px`);
}
function toggle(event) {
  const button = event.currentTarget,
    pressed = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(pressed));
  const names = [...document.querySelectorAll("#columns [aria-pressed=true]")].map((one) => one.dataset.show);
  if (!names.length) return button.setAttribute("aria-pressed", "true");
  gallery.visible = names;
  refresh();
}

const chosen = (id) => document.getElementById(id).value;
function matches({item, text}) {
  const words = chosen("search").toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.every((word) => text.includes(word))) return false;
  if (chosen("category") && !item.categories.includes(chosen("category"))) return false;
  const [criterion, state, who] = ["criterion", "state", "who"].map(chosen);
  if (!criterion && !state) return true;
  const fits = (name) =>
    (item.images[name] ?? []).some(
      (image) =>
        (state === "failed" && image.failed) ||
        verdicts(image).some(
          ([judge, one, value]) =>
            (!criterion || criterion === `${judge}\n${one}`) &&
            (state ? verdict(value) === state : verdict(value) !== null),
        ),
    );
  if (who.startsWith("=")) return fits(who.slice(1));
  return who === "all" ? compared.every((model) => fits(model.name)) : compared.some((model) => fits(model.name));
}
function sorted(found) {
  const [key, name] = chosen("order").split("\n");
  if (key === "index") return found;
  const by =
    key === "models" || key === "judges"
      ? (one) => -one[key]
      : (one) => (key === "high" ? -1 : 1) * itemScore(one.item, name ? [name] : compared.map((model) => model.name));
  return found
    .map((one) => [by(one), one])
    .sort(([one, first], [two, second]) => one - two || first.index - second.index)
    .map(([, one]) => one);
}

const near = new IntersectionObserver(
  (seen) => {
    for (const one of seen) if (one.isIntersecting) fillCard(one.target);
  },
  {rootMargin: "1200px"},
);

function refresh() {
  const list = document.getElementById("list");
  gallery.shown = sorted(entries.filter(matches));
  near.disconnect();
  const most = Math.max(
    1,
    ...report.items
      .slice(0, 50)
      .map((item) => gallery.visible.reduce((sum, name) => sum + (item.images[name] ?? []).length, 0)),
  );
  list.style.setProperty("--across", Math.min(most, 8));
  list.replaceChildren(...gallery.shown.map(card));
  for (const one of list.children) near.observe(one);
  document.getElementById("shown").textContent =
    gallery.shown.length === entries.length
      ? plural(entries.length, "prompt")
      : `${gallery.shown.length} of ${plural(entries.length, "prompt")}`;
}
const card = (entry, place) =>
  el("article", {tabindex: 0, "data-id": entry.item.id, "data-place": place, onclick: () => openDetail(place)});
function fillCard(part) {
  near.unobserve(part);
  if (part.children.length) return;
  const {item, models} = gallery.shown[Number(part.dataset.place)];
  part.append(
    el(
      "div",
      {class: "where"},
      said("bdi", item.id),
      item.categories.map((name) => el("span", {class: "badge"}, spaced(name))),
      models > 0.3
        ? el(
            "span",
            {class: "badge warn", title: "How far the models' verdicts are apart, 0 to 1"},
            `apart ${models.toFixed(2)}`,
          )
        : "",
    ),
    said("p", item.prompt.slice(0, 600), {class: "prompt", title: item.prompt.slice(0, 2000)}),
    el(
      "div",
      {class: "row"},
      gallery.visible.flatMap((name) => (item.images[name] ?? []).map((image) => small(name, image, item))),
    ),
  );
}

function small(name, image, item) {
  const lines = Object.entries(image.judgements ?? {}).map(([judge, one]) =>
    summary(one.score, judgeNames.length > 1 ? judge : ""),
  );
  return el(
    "figure",
    {},
    picture(image, `${name}: ${item.prompt}`),
    el("figcaption", {}, el("span", {class: "who"}, swatch(name), said("bdi", name)), lines),
  );
}
function picture(image, words) {
  const [width, height, content] = pictures.get(image.file) ?? [];
  if (image.failed || !image.file)
    return el("div", {class: "none"}, said("span", `not drawn: ${image.failed ?? "no reason given"}`));
  if (!content)
    return el(
      "div",
      {class: "none"},
      width ? "left out of this report; see " : "cannot be read: ",
      said("span", image.file),
    );
  return el("img", {
    src: `data:image/webp;base64,${content}`,
    alt: words.slice(0, 300),
    width,
    height,
    decoding: "async",
  });
}
// Such as "✓ 3 of 5  ✗ count, position": what is not met is named, what is met is counted.
function summary(scores, judge) {
  const of = (kind) => Object.keys(scores).filter((name) => verdict(scores[name]) === kind);
  const [met, unmet, failed] = ["met", "unmet", "failed"].map(of);
  const part = (name) =>
    isNumber(scores[name]) && scores[name] > 0 ? `${spaced(name)} ${Number(scores[name].toFixed(2))}` : spaced(name);
  return el(
    "span",
    {class: "said"},
    judge ? el("span", {class: "judge"}, said("bdi", judge), " ") : "",
    met.length ? el("span", {class: "met", title: met.map(spaced).join(", ")}, `\u2713\u00a0${met.length} `) : "",
    unmet.length ? el("span", {class: "unmet"}, `\u2717\u00a0${unmet.map(part).join(", ")} `) : "",
    failed.length ? el("span", {class: "unjudged"}, `!\u00a0${failed.map(spaced).join(", ")} not judged`) : "",
  );
}
