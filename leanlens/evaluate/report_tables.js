// Headline, comparisons, categories, criteria, costs, method and published numbers.
const headlineName = report.models.flatMap((model) => model.headline ?? []).map((one) => one.name)[0] ?? "score";
const headlineUnit = report.models.flatMap((model) => model.headline ?? []).map((one) => one.unit)[0];
const better = (one) => (one.difference > 0) === (suite.higher_is_better ?? true) ? one.second : one.first;
const worse = (one) => (better(one) === one.second ? one.first : one.second);
const isResolved = (one) => (one.low > 0 || one.high < 0) && !(known(one.p_holm) && one.p_holm >= 0.05);
const isDrawn = (name) => drawn.some((model) => model.name === name);

function table(heads, rows) {
  const top = el("tr", {}, heads.map(([text, kind]) => el("th", {scope: "col", class: kind}, text)));
  return el("div", {class: "wide"}, el("table", {}, el("thead", {}, top), el("tbody", {}, rows)));
}
const cell = (kind, ...children) => el("td", {class: kind}, ...children);
const named = (model) => el("th", {scope: "row"}, swatch(model), said("bdi", model));

// Intervals on one scale: a dot and a whisker for each.
function plot(rows, low, high, unit, zero = false) {
  const width = 190, height = Math.max(16, 9 * rows.length + 4);
  const x = (value) => 5 + (width - 10) * (high === low ? 0.5 : (Math.min(Math.max(value, low), high) - low) / (high - low));
  const parts = [];
  if (zero) parts.push(draw("line", {class: "zero", x1: x(0), x2: x(0), y1: 0, y2: height}));
  rows.forEach(({name, one}, index) => {
    if (!one || !known(one.value)) return;
    const y = height / 2 + (index - (rows.length - 1) / 2) * 9;
    const whisker = known(one.low) && draw("line", {class: "whisker", x1: x(one.low), x2: x(one.high), y1: y, y2: y});
    parts.push(draw("g", {class: colors.get(name)}, whisker || null, draw("circle", {class: "mark", cx: x(one.value), cy: y, r: 3.6}),
      draw("title", {}, `${name}: ${score(one.value, unit)} ${between(one, unit)}`)));
  });
  return draw("svg", {class: "plot", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "interval"}, parts);
}
function extent(ones) {
  const values = ones.flatMap((one) => [one?.value, one?.low, one?.high]).filter(known);
  return values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
}

function showHead() {
  document.querySelector("#head h1").append(said("bdi", suite.title));
  const judges = report.judges.map((judge) => judge.title).join(", ");
  const facts = [plural(suite.num, "prompt"), `${plural(suite.images_per_prompt, "image")} each`, plural(drawn.length, "model"),
    `judged by ${judges}`, `seed ${suite.seed}`, `leanlens ${report.leanlens}`];
  document.querySelector("#head .facts").append(said("bdi", facts.join(" \u00b7 ")));
}

function showResult(host) {
  for (const model of report.models.filter((one) => one.incomplete)) {
    host.append(el("p", {class: "notice"}, said("b", model.name), " is incomplete and has no score: ", said("span", model.failed),
      ". A failed judgement counts neither as met nor as not met; above 5 % the rest says little about the model."));
  }
  const ahead = report.comparisons.filter((one) => one.metric === headlineName && isDrawn(one.first) && isDrawn(one.second));
  for (const one of ahead.slice(0, 6)) host.append(sentence(one));
  host.append(leaderboard(ahead));
  const deviations = suite.deviations ?? [];
  host.append(el("h3", {}, "How this differs from the official protocol"), deviations.length
    ? el("ul", {class: "deviations"}, deviations.map((one) => said("li", one))) : el("p", {}, "It does not, as far as the suite states."));
  host.append(el("h3", {}, "Rewriting of prompts"),
    el("ul", {}, drawn.map((model) => el("li", {}, said("b", model.name), ": ", said("span", model.rewriting)))));
}

function sentence(one) {
  const size = score(Math.abs(one.difference), headlineUnit), word = isShare(headlineUnit) ? " points" : "";
  const swap = one.difference < 0;
  const [low, high] = swap ? [-one.high, -one.low] : [one.low, one.high];
  const [lead, behind] = swap ? [one.first, one.second] : [one.second, one.first];
  const range = el("small", {}, `${score(low, headlineUnit)} to ${score(high, headlineUnit)}, p ${probability(one.p_holm ?? one.p)}, `
    + plural(one.num, "prompt"));
  if (isResolved(one)) {
    const relation = suite.higher_is_better ?? true ? " is ahead of " : " is above (worse than) ";
    return el("p", {class: "verdict"}, said("b", lead), relation, said("b", behind), ` by ${size}${word}`, range);
  }
  return el("p", {class: "verdict"}, el("span", {class: "open"}, "No difference is resolved between "), said("b", lead),
    el("span", {class: "open"}, " and "), said("b", behind), el("span", {class: "open"}, `: ${size}${word}`), range);
}

function leaderboard(ahead) {
  const sign = suite.higher_is_better ?? true ? -1 : 1;
  const place = (model) => (model.role === "control" ? 2 : model.headline ? 0 : 1);
  const models = [...report.models].sort((one, two) => place(one) - place(two)
    || sign * ((one.headline?.value ?? 0) - (two.headline?.value ?? 0)));
  const names = [...new Set(report.models.flatMap((model) => model.metrics.map((one) => one.name)))];
  const rest = names.filter((name) => name !== headlineName);
  const [low, high] = extent(report.models.map((model) => model.headline));
  const heads = [[ahead.length ? "rank" : "", "number"], ["model"], [`${headlineName}`, "number"], ["95 % interval"], ["", ""],
    ...rest.map((name) => [spaced(name), "number"]), ["failed", "number"]];
  const rows = models.map((model) => {
    const rank = model.headline && model.role === "model" && ahead.length
      ? 1 + ahead.filter((one) => isResolved(one) && worse(one) === model.name).length : "";
    const first = model.headline;
    const top = first ? [cell("number head", score(first.value, first.unit)), cell("", between(first, first.unit)),
      cell("", plot([{name: model.name, one: first}], low, high, first.unit))]
      : [el("td", {colspan: 3}, el("span", {class: model.incomplete ? "badge warn" : "badge"}, model.incomplete ? "incomplete" : "not judged"))];
    const others = rest.map((name) => {
      const one = model.metrics.find((each) => each.name === name);
      return cell("number", one ? score(one.value, one.unit) : "", one && known(one.low) ? el("small", {}, between(one, one.unit)) : "");
    });
    const failures = model.failures.num ? `${model.failures.failed} of ${model.failures.num}` : "";
    const title = named(model.name);
    if (model.role !== "model") title.append(" ", el("span", {class: "badge"}, model.role));
    return el("tr", {class: model.role === "model" ? null : "other", "data-model": model.name}, cell("number", String(rank)), title, top, others,
      el("td", {class: "number of", title: model.failed}, failures));
  });
  const notes = [ahead.length ? "Rank: 1 plus the number of models whose lead is resolved." : "",
    report.models.some((model) => model.role === "control") ? "Control: the same images, judged as if another thing of the same kind had been asked for." : ""];
  return el("div", {}, table(heads, rows), el("p", {class: "note"}, notes.join(" ")));
}

function showComparisons(host) {
  const first = report.comparisons.filter((one) => one.metric === headlineName);
  const others = report.comparisons.filter((one) => one.metric !== headlineName);
  if (!report.comparisons.length) return host.remove();
  host.append(comparisonTable(first));
  if (others.length) host.append(el("details", {}, el("summary", {}, `${plural(others.length, "comparison")} of other metrics`), comparisonTable(others)));
  host.append(el("p", {class: "note"}, "Second less first, paired by prompt: 95 % bootstrap intervals over prompts, p by sign flips, after Holm's correction. "
    + "Better, equal and worse count prompts."));
}

function comparisonTable(ones) {
  const furthest = Math.max(...ones.flatMap((one) => [Math.abs(one.low), Math.abs(one.high)]), 1e-9);
  const rows = ones.map((one) => {
    const unit = report.models.flatMap((model) => model.metrics).find((each) => each.name === one.metric)?.unit;
    const share = (count, kind) => { const part = el("i", {class: kind}); part.style.width = `${100 * count / Math.max(one.num, 1)}%`; return part; };
    return el("tr", {}, named(one.first), named(one.second), cell("", spaced(one.metric)),
      cell("number", el("b", {}, gain(one.difference, unit)), el("small", {}, `${gain(one.low, unit)} to ${gain(one.high, unit)}`)),
      cell("", plot([{name: one.second, one: {value: one.difference, low: one.low, high: one.high}}], -furthest, furthest, unit, true)),
      cell("number", probability(one.p_holm ?? one.p).replace("= ", "")),
      cell("", el("span", {class: "share", title: `${one.wins} better, ${one.ties} equal, ${one.losses} worse`},
        share(one.wins, colors.get(one.second)), share(one.ties, "tie"), share(one.losses, colors.get(one.first)))),
      cell("number of", `${one.wins} / ${one.ties} / ${one.losses}`));
  });
  return table([["first"], ["second"], ["metric"], ["difference", "number"], [""], ["p", "number"], ["second better, equal, worse"], ["", "number"]], rows);
}

function showCategories(host) {
  const scored = report.models.filter((model) => Object.keys(model.categories).length);
  const names = [...new Set(scored.flatMap((model) => Object.keys(model.categories)))];
  if (names.length) host.append(grid("category", names, scored.map((model) => model.name),
    (row, model) => report.models.find((one) => one.name === model).categories[row], headlineUnit));
  for (const [judge, rates] of Object.entries(report.rates)) {
    const models = report.models.map((model) => model.name).filter((name) => rates[name]);
    const criteria = [...new Set(models.flatMap((name) => Object.keys(rates[name])))];
    const find = (row, model) => { const one = rates[model][row]; return one && {...one, value: one.num ? one.rate : null}; };
    host.append(el("details", {open: !names.length}, el("summary", {}, "Criteria, judged by ", said("b", judge), ": share of prompts that meet each in full"),
      grid("criterion", criteria, models, find)));
  }
  if (host.children.length === 1) host.remove();
}

function grid(head, names, models, find, unit) {
  const [low, high] = extent(names.flatMap((name) => models.map((model) => find(name, model))));
  const rows = names.map((name) => {
    const ones = models.map((model) => find(name, model));
    return el("tr", {}, said("th", spaced(name), {scope: "row"}), ones.map((one) => cell("number",
      one ? (known(one.value) ? score(one.value, unit) : "not judged") : "", one && known(one.value) ? el("small", {}, between(one, unit)) : "",
      one?.failed ? el("small", {class: "unjudged"}, `${one.failed} failed`) : "")),
      cell("", plot(models.map((model, index) => ({name: model, one: ones[index]})), low, high, unit)),
      cell("number of", String(Math.max(0, ...ones.map((one) => one?.num ?? 0)))));
  });
  const heads = models.map((model) => [el("span", {}, swatch(model), said("bdi", model)), "number"]);
  return table([[head], ...heads, [`${score(low, unit)} to ${score(high, unit)}`], ["prompts", "number"]], rows);
}

const megabytes = (bytes) => `${Math.round(bytes / 1e6).toLocaleString("en")} MB`;
function showCosts(host) {
  const rows = drawn.map(({name, costs}) => el("tr", {}, named(name), cell("number", known(costs.flop) ? metric(costs.flop, "FLOP") : "\u2013"),
    cell("number", known(costs.seconds?.median) ? `${Number(costs.seconds.median.toPrecision(3))} s` : "\u2013"),
    cell("number", known(costs.peak_bytes) ? megabytes(costs.peak_bytes) : "\u2013"),
    cell("number", known(costs.weight_bytes) ? megabytes(costs.weight_bytes) : "\u2013"),
    cell("number", known(costs.parameters) ? metric(costs.parameters, "") : "\u2013")));
  const places = [...new Set(drawn.map(({costs}) => [costs.device, costs.machine].filter(known).join(", ")).filter(Boolean))];
  const costs = table([["model"], ["FLOP an image", "number"], ["seconds, median", "number"], ["peak memory", "number"], ["weights", "number"],
    ["parameters", "number"]], rows);
  host.append(el("div", {class: "columns"}, chart(), el("div", {}, costs,
    el("p", {class: "note"}, "FLOP, parameters and weights are counted; seconds and peak memory are measured while drawing. Compare seconds only on the same machine."),
    places.length ? el("p", {class: "note"}, "Measured on ", said("bdi", places.join("; "))) : "")));
}

function showMethod(host) {
  const list = (values) => el("dl", {}, Object.entries(values).flatMap(([key, value]) => [said("dt", spaced(key)),
    said("dd", typeof value === "object" ? JSON.stringify(value) : value)]));
  host.append(el("p", {}, "The unit is the prompt: all images of a prompt are resampled together, 95 % intervals. A judgement that failed is counted and shown, "
    + "and counts neither as met nor as not met."));
  if (Object.keys(suite.source ?? {}).length) host.append(el("h3", {}, "Prompts"), list(suite.source));
  if (Object.keys(suite.settings ?? {}).length) host.append(el("h3", {}, "Settings of the suite"), list(suite.settings));
  for (const judge of report.judges) {
    host.append(el("details", {}, el("summary", {}, "Judge ", said("b", judge.title), ": ", judge.criteria.map(spaced).join(", ")),
      said("pre", pretty(judge.identity))));
  }
  for (const model of report.models) {
    host.append(el("details", {}, el("summary", {}, model.role === "model" ? "Model " : `${model.role} `, said("b", model.name), `: ${model.rewriting}`),
      said("pre", pretty(model.identity))));
  }
}

function showPublished(host) {
  if (!report.published.length) return host.remove();
  host.append(el("p", {class: "notice"}, "Not measured here. Prompts, rewriting, resolution and judge differ or are not stated: do not compare these with the numbers above."));
  for (const one of report.published) {
    const rows = one.rows.map((row) => el("tr", {}, said("th", row.model, {scope: "row"}), one.metrics.map((name) => cell("number",
      score(row.values[name], one.unit))), cell("of", said("span", row.steps)), cell("of", said("span", row.rewriting))));
    host.append(el("h3", {}, said("bdi", `${one.source} (${one.date}); resolution: ${one.resolution}; judge: ${one.judge}`)),
      table([["model"], ...one.metrics.map((name) => [name, "number"]), ["steps"], ["rewriting"]], rows));
  }
}
