// One prompt in full: large images that are zoomed together, seeds, settings, verdicts and raw judgements.
const detail = document.getElementById("detail");
const view = {scale: 1, x: 0, y: 0, drag: null};

function openDetail(place) {
  gallery.open = place;
  const {item, models, judges} = gallery.shown[place];
  const images = gallery.visible.flatMap((name) => (item.images[name] ?? []).map((image) => [name, image]));
  const step = (by, text, label) =>
    el(
      "button",
      {
        type: "button",
        title: label,
        "aria-label": label,
        disabled: !gallery.shown[place + by],
        onclick: () => openDetail(place + by),
      },
      text,
    );
  const apart = `models apart ${models.toFixed(2)}`;
  const split = judgeNames.length > 1 ? `, judges apart ${judges.toFixed(2)}` : "";
  const row = el(
    "div",
    {class: "row"},
    images.map(([name, image]) => large(name, image, item)),
  );
  row.style.setProperty("--across", Math.min(images.length, 6));
  detail.replaceChildren(
    el(
      "header",
      {},
      el(
        "div",
        {},
        el(
          "div",
          {class: "where"},
          said("bdi", item.id),
          item.categories.map((one) => el("span", {class: "badge"}, spaced(one))),
          `${place + 1} of ${gallery.shown.length}, ${apart}${split}`,
        ),
        said("p", item.prompt, {class: "prompt"}),
      ),
      el(
        "div",
        {class: "tools"},
        step(-1, "\u2190", "Previous prompt"),
        step(1, "\u2192", "Next prompt"),
        el("button", {type: "button", "aria-label": "Close", onclick: () => detail.close()}, "\u2715"),
      ),
    ),
    el(
      "div",
      {class: "body"},
      row,
      pairsOf(item),
      el(
        "details",
        {},
        el("summary", {}, "What the prompt asks for, as judges are told"),
        said("pre", pretty(item.truth)),
      ),
    ),
  );
  Object.assign(view, {scale: 1, x: 0, y: 0});
  if (!detail.open) detail.showModal();
  detail.querySelector(".body").scrollTop = 0;
}

function large(name, image, item) {
  const hold = el(
    "div",
    {class: "hold", onwheel: wheel, onpointerdown: grab, onpointermove: pan, onpointerup: release, ondblclick: reset},
    picture(image, item.prompt),
  );
  hold.querySelector("img")?.setAttribute("draggable", "false");
  const size = pictures.get(image.file);
  const facts = [`seed ${image.seed}`, size?.[0] ? `${size[0]}\u00d7${size[1]}` : "", image.file ?? ""]
    .filter(Boolean)
    .join(" \u00b7 ");
  const identity = report.models.find((model) => model.name === name)?.identity;
  return el(
    "figure",
    {"data-model": name},
    hold,
    el(
      "figcaption",
      {},
      el("span", {class: "who"}, swatch(name), said("bdi", name)),
      said("span", facts, {class: "judge"}),
      image.reasoned
        ? el(
            "details",
            {open: true},
            el("summary", {}, "Drawn from a rewritten prompt"),
            said("pre", image.reasoned.prompt ?? ""),
            el("details", {}, el("summary", {}, "Record"), said("pre", pretty(image.reasoned))),
          )
        : el("p", {class: "note"}, "Prompt drawn as written"),
      judgementTable(image),
      Object.entries(image.judgements ?? {})
        .filter(([, one]) => known(one.raw))
        .map(([judge, one]) =>
          el(
            "details",
            {class: "raw"},
            el("summary", {}, "Raw judgement, ", said("b", judge)),
            said("pre", pretty(one.raw)),
          ),
        ),
      el("details", {}, el("summary", {}, "Settings"), said("pre", pretty(identity))),
    ),
  );
}

// What judges said of two images of the prompt; 1 is a win of the first, 0 of the second.
function pairsOf(item) {
  if (!item.pairs?.length) return "";
  const words = ({result, first, second}) =>
    !known(result)
      ? "not asked"
      : typeof result === "object"
        ? `failed: ${result.failed}`
        : result > 0.5
          ? `${first} wins`
          : result < 0.5
            ? `${second} wins`
            : "neither wins, or the order decides";
  return el(
    "div",
    {class: "pairs"},
    el("h3", {}, "Pairs"),
    item.pairs.map((one) =>
      el(
        "details",
        {},
        el(
          "summary",
          {},
          said("b", one.judge),
          ": ",
          said("bdi", `${one.first} against ${one.second}`),
          " \u2013 ",
          said("bdi", words(one)),
        ),
        said("pre", pretty(one.raw)),
      ),
    ),
  );
}

function judgementTable(image) {
  const marks = {met: "\u2713", unmet: "\u2717", failed: "!"};
  const rows = verdicts(image)
    .filter(([, , value]) => known(value))
    .map(([judge, criterion, value]) => {
      const kind = verdict(value),
        text = kind === "failed" ? `failed: ${value.failed}` : Number(value.toFixed(4));
      return el(
        "tr",
        {},
        said("td", spaced(criterion)),
        el("td", {class: kind === "failed" ? "unjudged" : kind}, `${marks[kind]} `, said("span", text)),
        judgeNames.length > 1 ? said("td", judge, {class: "judge"}) : "",
      );
    });
  return rows.length ? el("table", {}, el("tbody", {}, rows)) : el("p", {class: "note"}, "Not judged");
}

// All images of the prompt show the same part, so that they can be compared.
function place() {
  for (const hold of detail.querySelectorAll(".hold")) {
    hold.classList.toggle("zoomed", view.scale > 1);
    hold.classList.toggle("near", view.scale >= 3);
    const img = hold.querySelector("img");
    const [x, y] = [view.x * hold.clientWidth, view.y * hold.clientHeight];
    if (img) img.style.transform = `translate(${x}px, ${y}px) scale(${view.scale})`;
  }
}
// Zoom by a factor about a point; x and y are shares of the image's frame.
function zoom(factor, x = 0.5, y = 0.5) {
  const scale = Math.min(Math.max(view.scale * factor, 1), 16),
    by = scale / view.scale;
  const keep = (offset, point) => Math.min(Math.max(point - (point - offset) * by, 1 - scale), 0);
  Object.assign(view, {x: keep(view.x, x), y: keep(view.y, y), scale});
  place();
}
const within = (event) => {
  const frame = event.currentTarget.getBoundingClientRect();
  return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
};
function wheel(event) {
  if (!event.ctrlKey && view.scale === 1 && event.deltaY > 0) return;
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, ...within(event));
}
function grab(event) {
  view.drag = {at: within(event), moved: false};
  event.currentTarget.setPointerCapture(event.pointerId);
}
function pan(event) {
  if (!view.drag) return;
  const [x, y] = within(event),
    [fromX, fromY] = view.drag.at;
  if (Math.hypot(x - fromX, y - fromY) > 0.01) view.drag.moved = true;
  if (!view.drag.moved) return;
  view.x = Math.min(Math.max(view.x + x - fromX, 1 - view.scale), 0);
  view.y = Math.min(Math.max(view.y + y - fromY, 1 - view.scale), 0);
  view.drag.at = [x, y];
  place();
}
function release(event) {
  if (view.drag && !view.drag.moved) zoom(view.scale >= 8 ? 1 / 16 : 2, ...within(event));
  view.drag = null;
}
function reset() {
  Object.assign(view, {scale: 1, x: 0, y: 0});
  place();
}
