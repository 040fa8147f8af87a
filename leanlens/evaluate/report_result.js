// The head of the page, the scores and the differences between models.
const headlineName = report.models.flatMap((model) => model.headline ?? []).map((one) => one.name)[0] ?? "score";
const headlineUnit = report.models.flatMap((model) => model.headline ?? []).map((one) => one.unit)[0];
const better = (one) => (one.difference > 0 === (suite.higher_is_better ?? true) ? one.second : one.first);
const worse = (one) => (better(one) === one.second ? one.first : one.second);
const isResolved = (one) => (one.low > 0 || one.high < 0) && !(known(one.p_holm) && one.p_holm >= 0.05);
const isCompared = (name) => compared.some((model) => model.name === name);

function table(heads, rows) {
  const top = el(
    "tr",
    {},
    heads.map(([text, kind]) => el("th", {scope: "col", class: kind}, text)),
  );
  return el("div", {class: "wide"}, el("table", {}, el("thead", {}, top), el("tbody", {}, rows)));
}
const cell = (kind, ...children) => el("td", {class: kind}, ...children);
const named = (model) => el("th", {scope: "row"}, swatch(model), said("bdi", model));

// Intervals on one scale: a dot and a whisker for each.
function plot(rows, low, high, unit, zero = false) {
  const width = 190,
    height = Math.max(16, 9 * rows.length + 4);
  const x = (value) =>
    5 + (width - 10) * (high === low ? 0.5 : (Math.min(Math.max(value, low), high) - low) / (high - low));
  const parts = [];
  if (zero) parts.push(draw("line", {class: "zero", x1: x(0), x2: x(0), y1: 0, y2: height}));
  rows.forEach(({name, one}, index) => {
    if (!one || !known(one.value)) return;
    const y = height / 2 + (index - (rows.length - 1) / 2) * 9;
    const whisker = known(one.low) && draw("line", {class: "whisker", x1: x(one.low), x2: x(one.high), y1: y, y2: y});
    parts.push(
      draw(
        "g",
        {class: colors.get(name)},
        whisker || null,
        draw("circle", {class: "mark", cx: x(one.value), cy: y, r: 3.6}),
        draw("title", {}, `${name}: ${score(one.value, unit)} ${between(one, unit)}`),
      ),
    );
  });
  return draw(
    "svg",
    {class: "plot", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "interval"},
    parts,
  );
}
function extent(ones) {
  const values = ones.flatMap((one) => [one?.value, one?.low, one?.high]).filter(known);
  return values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
}

function showHead() {
  document.querySelector("#head h1").append(said("bdi", suite.title));
  const judges = report.judges.map((judge) => judge.title).join(", ");
  const facts = [
    plural(suite.num, "prompt"),
    `${plural(suite.images_per_prompt, "image")} each`,
    plural(compared.length, "model"),
    `judged by ${judges}`,
    `seed ${suite.seed}`,
    `leanlens ${report.leanlens}`,
  ];
  document.querySelector("#head .facts").append(said("bdi", facts.join(" \u00b7 ")));
}

function showResult(host) {
  for (const model of report.models.filter((one) => one.incomplete)) {
    host.append(
      el(
        "p",
        {class: "notice"},
        said("b", model.name),
        " is incomplete and has no score: ",
        said("span", model.failed),
        ". A failed judgement counts neither as met nor as not met; above 5 % the rest says little about the model.",
      ),
    );
  }
  const ahead = report.comparisons.filter(
    (one) => one.metric === headlineName && isCompared(one.first) && isCompared(one.second),
  );
  for (const one of ahead.slice(0, 6)) host.append(sentence(one));
  host.append(leaderboard(ahead));
  const deviations = suite.deviations ?? [];
  const differs = deviations.length
    ? el(
        "ul",
        {class: "deviations"},
        deviations.map((one) => said("li", one)),
      )
    : el("p", {}, "It does not, as far as the suite states.");
  const rewriting = el(
    "ul",
    {},
    compared.map((model) => el("li", {}, said("b", model.name), ": ", said("span", model.rewriting))),
  );
  host.append(
    el(
      "div",
      {class: "pair"},
      el("div", {}, el("h3", {}, "How this differs from the official protocol"), differs),
      el("div", {}, el("h3", {}, "Rewriting of prompts"), rewriting),
    ),
  );
}

function sentence(one) {
  const size = score(Math.abs(one.difference), headlineUnit),
    word = isShare(headlineUnit) ? " points" : "";
  const swap = one.difference < 0;
  const [low, high] = swap ? [-one.high, -one.low] : [one.low, one.high];
  const [lead, behind] = swap ? [one.first, one.second] : [one.second, one.first];
  const range = el(
    "small",
    {},
    " ",
    `${score(low, headlineUnit)} to ${score(high, headlineUnit)}, p ${probability(one.p_holm ?? one.p)}, ` +
      plural(one.num, "prompt"),
  );
  if (isResolved(one)) {
    const relation = (suite.higher_is_better ?? true) ? " is ahead of " : " is above (worse than) ";
    return el("p", {class: "verdict"}, said("b", lead), relation, said("b", behind), ` by ${size}${word}`, range);
  }
  return el(
    "p",
    {class: "verdict"},
    el("span", {class: "open"}, "No difference is resolved between "),
    said("b", lead),
    el("span", {class: "open"}, " and "),
    said("b", behind),
    el("span", {class: "open"}, `: ${size}${word}`),
    range,
  );
}

function leaderboard(ahead) {
  const sign = (suite.higher_is_better ?? true) ? -1 : 1;
  const place = (model) => (model.role === "control" ? 2 : model.headline ? 0 : 1);
  const models = [...report.models].sort(
    (one, two) => place(one) - place(two) || sign * ((one.headline?.value ?? 0) - (two.headline?.value ?? 0)),
  );
  const names = [...new Set(report.models.flatMap((model) => model.metrics.map((one) => one.name)))];
  const criteria = new Set(report.judges.flatMap((judge) => judge.criteria.map(spaced))); // in tables of their own
  const rest = names.filter((name) => name !== headlineName && !criteria.has(spaced(name)));
  const [low, high] = extent(report.models.map((model) => model.headline));
  const heads = [
    [ahead.length ? "rank" : "", "number"],
    ["model"],
    [`${headlineName}`, "number"],
    ["95 % interval"],
    ["", ""],
    ...rest.map((name) => [spaced(name), "number"]),
    ["failed", "number"],
  ];
  const rows = models.map((model) => {
    const rank =
      model.headline && model.role === "model" && ahead.length
        ? 1 + ahead.filter((one) => isResolved(one) && worse(one) === model.name).length
        : "";
    const first = model.headline;
    const top = first
      ? [
          cell("number head", score(first.value, first.unit)),
          cell("", between(first, first.unit)),
          cell("", plot([{name: model.name, one: first}], low, high, first.unit)),
        ]
      : [
          el(
            "td",
            {colspan: 3},
            el(
              "span",
              {class: model.incomplete ? "badge warn" : "badge"},
              model.incomplete ? "incomplete" : "not judged",
            ),
          ),
        ];
    const others = rest.map((name) => {
      const one = model.metrics.find((each) => each.name === name);
      return cell(
        "number",
        one ? score(one.value, one.unit) : "",
        one && known(one.low) ? el("small", {}, " ", between(one, one.unit)) : "",
      );
    });
    const failures = model.failures.num ? `${model.failures.failed} of ${model.failures.num}` : "";
    const title = named(model.name);
    if (model.role !== "model") title.append(" ", el("span", {class: "badge"}, model.role));
    return el(
      "tr",
      {class: model.role === "model" ? null : "other", "data-model": model.name},
      cell("number", String(rank)),
      title,
      top,
      others,
      el("td", {class: "number of", title: model.failed}, failures),
    );
  });
  const notes = [
    ahead.length ? "Rank: 1 plus the number of models whose lead is resolved." : "",
    report.models.some((model) => model.role === "control")
      ? "Control: the same images, judged as if another thing of the same kind had been asked for."
      : "",
  ];
  return el("div", {}, table(heads, rows), el("p", {class: "note"}, notes.join(" ")));
}

function showComparisons(host) {
  const first = report.comparisons.filter((one) => one.metric === headlineName);
  const others = report.comparisons.filter((one) => one.metric !== headlineName);
  if (!report.comparisons.length && !report.pairs.length) return host.remove();
  if (report.pairs.length) showPairs(host);
  if (!report.comparisons.length) return;
  host.append(comparisonTable(first));
  if (others.length)
    host.append(
      el(
        "details",
        {},
        el("summary", {}, `${plural(others.length, "comparison")} of other metrics`),
        comparisonTable(others),
      ),
    );
  host.append(
    el(
      "p",
      {class: "note"},
      "Second less first, paired by prompt: 95 % bootstrap intervals over prompts, p by sign flips, after Holm's " +
        "correction. Better, equal and worse count prompts.",
    ),
  );
}

// What judges say of two images side by side, each pair shown in both orders.
function showPairs(host) {
  const rows = report.pairs.map((one) =>
    el(
      "tr",
      {},
      said("td", one.judge),
      named(one.first),
      named(one.second),
      cell(
        "number",
        one.incomplete ? el("span", {class: "badge warn"}, "incomplete") : el("b", {}, score(one.wins_of_second)),
        el("small", {}, " ", one.incomplete ? "" : between(one)),
      ),
      cell(
        "",
        one.incomplete
          ? ""
          : plot(
              [{name: one.second, one: {value: one.wins_of_second - 0.5, low: one.low - 0.5, high: one.high - 0.5}}],
              -0.5,
              0.5,
              "share",
              true,
            ),
      ),
      cell("number of", String(one.num)),
      cell("number of", known(one.flips) ? score(one.flips) : ""),
      cell("number of", String(one.failed)),
    ),
  );
  host.append(
    el("h3", {}, "Pairs of images, each shown to the judge in both orders"),
    table(
      [
        ["judge"],
        ["first"],
        ["second"],
        ["second wins, %", "number"],
        [""],
        ["prompts", "number"],
        ["contradicts itself, %", "number"],
        ["failed", "number"],
      ],
      rows,
    ),
    ...report.agreements.map((one) =>
      el(
        "p",
        {class: "note"},
        said("bdi", one.judges.join(" and ")),
        known(one.kappa) ? ` agree with Cohen's kappa ${one.kappa.toFixed(2)}` : " cannot be compared",
        ` over ${plural(one.num, "pair")}.`,
      ),
    ),
  );
}

function comparisonTable(ones) {
  const furthest = Math.max(...ones.flatMap((one) => [Math.abs(one.low), Math.abs(one.high)]), 1e-9);
  const rows = ones.map((one) => {
    const unit = report.models.flatMap((model) => model.metrics).find((each) => each.name === one.metric)?.unit;
    const share = (count, kind) => {
      const part = el("i", {class: kind});
      part.style.width = `${(100 * count) / Math.max(one.num, 1)}%`;
      return part;
    };
    return el(
      "tr",
      {},
      named(one.first),
      named(one.second),
      cell("", spaced(one.metric)),
      cell(
        "number",
        el("b", {}, gain(one.difference, unit)),
        el("small", {}, " ", `${gain(one.low, unit)} to ${gain(one.high, unit)}`),
      ),
      cell(
        "",
        plot(
          [{name: one.second, one: {value: one.difference, low: one.low, high: one.high}}],
          -furthest,
          furthest,
          unit,
          true,
        ),
      ),
      cell("number", probability(one.p_holm ?? one.p).replace("= ", "")),
      cell(
        "",
        el(
          "span",
          {class: "share", title: `${one.wins} better, ${one.ties} equal, ${one.losses} worse`},
          share(one.wins, colors.get(one.second)),
          share(one.ties, "tie"),
          share(one.losses, colors.get(one.first)),
        ),
      ),
      cell("number of", `${one.wins} / ${one.ties} / ${one.losses}`),
    );
  });
  return table(
    [
      ["first"],
      ["second"],
      ["metric"],
      ["difference", "number"],
      [""],
      ["p", "number"],
      ["second better, equal, worse"],
      ["", "number"],
    ],
    rows,
  );
}
