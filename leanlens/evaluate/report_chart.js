// The chart of score against cost: FLOP, seconds or megabytes across, on a logarithmic scale.
const AXES = [
  {
    key: "flop",
    name: "FLOP",
    title: "FLOP for an image, counted",
    of: (costs) => costs.flop,
    text: (value) => metric(value, "FLOP"),
  },
  {
    key: "seconds",
    name: "Seconds",
    title: "Seconds for an image, median, measured",
    of: (costs) => costs.seconds?.median,
    text: (value) => `${Number(value.toPrecision(3))} s`,
  },
  {
    key: "bytes",
    name: "MB",
    title: "MB of memory at its peak, measured",
    of: (costs) => (known(costs.peak_bytes) ? costs.peak_bytes / 1e6 : null),
    text: (value) => `${Number(value.toPrecision(3)).toLocaleString("en")} MB`,
  },
];
const SHAPES = [
  (x, y) => draw("circle", {class: "mark", cx: x, cy: y, r: 6}),
  (x, y) => draw("rect", {class: "mark", x: x - 5.5, y: y - 5.5, width: 11, height: 11}),
  (x, y) => draw("path", {class: "mark", d: `M${x} ${y - 7}l7 7l-7 7l-7-7z`}),
  (x, y) => draw("path", {class: "mark", d: `M${x} ${y - 7}l7 12h-14z`}),
];
const frame = {width: 760, height: 400, left: 52, right: 22, top: 16, bottom: 46};

function chart() {
  const scored = compared.filter((model) => model.headline);
  const axes = AXES.map((axis) =>
    axis.key === "bytes" && !scored.some((model) => known(axis.of(model.costs)))
      ? {...axis, title: "MB of weights", of: (costs) => (known(costs.weight_bytes) ? costs.weight_bytes / 1e6 : null)}
      : axis,
  );
  const host = el("div", {class: "chart"}),
    paper = el("div"),
    missing = el("p", {class: "note"});
  const usable = axes.filter((axis) => scored.some((model) => axis.of(model.costs) > 0));
  if (!usable.length) return el("p", {class: "note"}, "No costs are known, so there is no chart.");
  const show = (axis) => {
    const there = scored.filter((model) => axis.of(model.costs) > 0);
    paper.replaceChildren(curve(there, axis));
    const gone = compared
      .filter((model) => !there.includes(model))
      .map((model) => `${model.name} (${model.headline ? "cost not known" : "no score"})`);
    missing.replaceChildren(gone.length ? said("bdi", `Not in the chart: ${gone.join(", ")}`) : "");
  };
  const buttons = axes.map((axis) =>
    el(
      "button",
      {
        type: "button",
        "data-axis": axis.key,
        disabled: !usable.includes(axis),
        "aria-pressed": String(axis === usable[0]),
        onclick: (event) => {
          for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.target));
          show(axis);
        },
      },
      axis.name,
    ),
  );
  show(usable[0]);
  return fill(host, {}, [el("fieldset", {class: "axes"}, el("legend", {}, "Across"), buttons), paper, missing]);
}

function curve(models, axis) {
  const points = models.map((model) => ({model, one: model.headline, cost: axis.of(model.costs)}));
  const costs = points.map((point) => point.cost);
  const [from, to] = [Math.log10(Math.min(...costs) / 1.7), Math.log10(Math.max(...costs) * 1.7)];
  const x = (cost) => frame.left + ((Math.log10(cost) - from) / (to - from)) * (frame.width - frame.left - frame.right);
  const [low, high, ticks] = upright(points.map((point) => point.one));
  const y = (value) =>
    frame.height - frame.bottom - ((value - low) / (high - low)) * (frame.height - frame.top - frame.bottom);
  const floor = frame.height - frame.bottom;
  const parts = [
    ...ticks.map((value) => [
      draw("line", {class: "grid", x1: frame.left, x2: frame.width - frame.right, y1: y(value), y2: y(value)}),
      draw("text", {x: frame.left - 8, y: y(value) + 4, "text-anchor": "end"}, score(value, headlineUnit)),
    ]),
    ...across(from, to).map((value) => [
      draw("line", {class: "grid", x1: x(value), x2: x(value), y1: floor, y2: floor + 5}),
      draw("text", {x: x(value), y: floor + 19, "text-anchor": "middle"}, axis.text(value)),
    ]),
    draw(
      "text",
      {x: (frame.left + frame.width - frame.right) / 2, y: frame.height - 6, "text-anchor": "middle"},
      `${axis.title} (logarithmic)`,
    ),
    draw("text", {x: 4, y: 11}, `${spaced(headlineName)}${isShare(headlineUnit) ? ", %" : ""}`),
    front(points, x, y),
  ];
  const placed = points.map((point) => box(x(point.cost) - 8, y(point.one.value) - 8, 16, 16));
  points.forEach((point, index) => parts.push(dot(point, x(point.cost), y, index, placed)));
  return draw(
    "svg",
    {
      class: "plot",
      viewBox: `0 0 ${frame.width} ${frame.height}`,
      width: "100%",
      role: "img",
      "aria-label": `${headlineName} against ${axis.title}`,
    },
    parts.flat(),
  );
}

// From the lowest to the highest interval, with some room, and round ticks in between.
function upright(ones) {
  let [low, high] = extent(ones);
  const room = Math.max((high - low) * 0.12, isShare(headlineUnit) ? 0.01 : Math.abs(high) * 0.02 || 0.1);
  [low, high] = [low - room, high + room];
  if (isShare(headlineUnit)) [low, high] = [Math.max(low, 0), Math.min(high, 1)];
  const rough = (high - low) / 5,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((one) => one * power >= rough);
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-12; index += 1) ticks.push(index * step);
  return [low, high, ticks];
}

// Ticks at 1, 2 and 5, or at powers of ten where there would be more than eight.
function across(from, to) {
  const of = (steps) => {
    const found = [];
    for (let power = Math.floor(from); power <= to; power += 1) found.push(...steps.map((step) => step * 10 ** power));
    return found.filter((value) => Math.log10(value) >= from && Math.log10(value) <= to);
  };
  return (
    [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1]].map(of).find((ticks) => ticks.length <= 7) ??
    of([1]).filter((_, index) => index % 2 === 0)
  );
}

// The models that no other is both cheaper and better than.
function front(points, x, y) {
  const sign = (suite.higher_is_better ?? true) ? 1 : -1;
  const best = [];
  for (const point of [...points].sort((one, two) => one.cost - two.cost)) {
    if (!best.length || sign * point.one.value > sign * best.at(-1).one.value) best.push(point);
  }
  if (best.length < 2) return [];
  const line = best.map((point, index) =>
    index ? `H${x(point.cost)}V${y(point.one.value)}` : `M${x(point.cost)} ${y(point.one.value)}`,
  );
  return draw(
    "path",
    {class: "front", d: line.join("")},
    draw("title", {}, "No model is both cheaper and better than these"),
  );
}

const box = (left, top, width, height) => ({left, top, right: left + width, bottom: top + height});
const touch = (one, two) =>
  one.left < two.right && two.left < one.right && one.top < two.bottom && two.top < one.bottom;

function dot({model, one, cost}, x, y, index, placed) {
  const at = y(one.value),
    width = 7.2 * model.name.length;
  const label = [
    [x + 12, at + 4, "start"],
    [x - 12, at + 4, "end"],
    [x, at - 14, "middle"],
    [x, at + 22, "middle"],
    [x + 12, at - 12, "start"],
    [x + 12, at + 20, "start"],
  ].map(([left, down, anchor]) => ({
    left,
    down,
    anchor,
    box: box(left - {start: 0, middle: width / 2, end: width}[anchor], down - 11, width, 14),
  }));
  const inside = (one) => one.box.left > frame.left && one.box.right < frame.width;
  const free =
    label.find((each) => inside(each) && !placed.some((other) => touch(each.box, other))) ??
    label.find(inside) ??
    label[0];
  placed.push(free.box);
  const bar = known(one.low) ? draw("line", {class: "whisker", x1: x, x2: x, y1: y(one.low), y2: y(one.high)}) : null;
  return draw(
    "g",
    {class: colors.get(model.name), "data-model": model.name},
    bar,
    SHAPES[index % SHAPES.length](x, at),
    draw("text", {class: "name", x: free.left, y: free.down, "text-anchor": free.anchor}, model.name),
    draw(
      "title",
      {},
      `${model.name}: ${score(one.value, one.unit)} (${between(one, one.unit)}) at ${metric(cost, "")}`,
    ),
  );
}
