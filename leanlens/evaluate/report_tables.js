// Categories, criteria, costs, method and published numbers.
function showCategories(host) {
  const scored = report.models.filter((model) => Object.keys(model.categories).length);
  const names = [...new Set(scored.flatMap((model) => Object.keys(model.categories)))];
  if (names.length)
    host.append(
      grid(
        "category",
        names,
        scored.map((model) => model.name),
        (row, model) => report.models.find((one) => one.name === model).categories[row],
        headlineUnit,
      ),
    );
  for (const [judge, rates] of Object.entries(report.rates)) {
    const models = report.models.map((model) => model.name).filter((name) => rates[name]);
    const criteria = [...new Set(models.flatMap((name) => Object.keys(rates[name])))];
    const find = (row, model) => {
      const one = rates[model][row];
      return one && {...one, value: one.num ? one.rate : null};
    };
    host.append(
      el(
        "details",
        {open: !names.length},
        el("summary", {}, "Criteria, judged by ", said("b", judge), ": share of prompts that meet each in full"),
        grid("criterion", criteria, models, find),
      ),
    );
  }
  showSets(host);
  if (host.children.length === 1) host.remove();
}

// Numbers that whole sets of images have, such as FID and diversity.
function showSets(host) {
  const models = Object.keys(report.set_scores);
  const figure = (value) => (isNumber(value) ? Number(value.toPrecision(4)).toString() : known(value) ? "failed" : "");
  const rows = Object.entries(report.set_scorers).map(([name, one]) =>
    el(
      "tr",
      {},
      said("th", name, {scope: "row"}),
      models.map((model) => cell("number", figure(report.set_scores[model][name]))),
      cell("of", one.higher_is_better ? "higher is better" : "lower is better"),
    ),
  );
  if (!rows.length) return;
  const heads = models.map((model) => [el("span", {}, swatch(model), said("bdi", model)), "number"]);
  host.append(el("h3", {}, "Sets of images"), table([["number of all images"], ...heads, [""]], rows));
}

function grid(head, names, models, find, unit) {
  const [low, high] = extent(names.flatMap((name) => models.map((model) => find(name, model))));
  const rows = names.map((name) => {
    const ones = models.map((model) => find(name, model));
    return el(
      "tr",
      {},
      said("th", spaced(name), {scope: "row"}),
      ones.map((one) =>
        cell(
          "number",
          one ? (known(one.value) ? score(one.value, unit) : "not judged") : "",
          one && known(one.value) ? el("small", {}, " ", between(one, unit)) : "",
          one?.failed ? el("small", {class: "unjudged"}, " ", `${one.failed} failed`) : "",
        ),
      ),
      cell(
        "",
        plot(
          models.map((model, index) => ({name: model, one: ones[index]})),
          low,
          high,
          unit,
        ),
      ),
      cell("number of", String(Math.max(0, ...ones.map((one) => one?.num ?? 0)))),
    );
  });
  const heads = models.map((model) => [el("span", {}, swatch(model), said("bdi", model)), "number"]);
  return table([[head], ...heads, [`${score(low, unit)} to ${score(high, unit)}`], ["prompts", "number"]], rows);
}

const megabytes = (bytes) => `${Math.round(bytes / 1e6).toLocaleString("en")} MB`;
function showCosts(host) {
  const rows = compared.map(({name, costs}) =>
    el(
      "tr",
      {},
      named(name),
      cell("number", known(costs.flop) ? metric(costs.flop, "FLOP") : "\u2013"),
      cell("number", known(costs.seconds?.median) ? `${Number(costs.seconds.median.toPrecision(3))} s` : "\u2013"),
      cell("number", known(costs.peak_bytes) ? megabytes(costs.peak_bytes) : "\u2013"),
      cell("number", known(costs.weight_bytes) ? megabytes(costs.weight_bytes) : "\u2013"),
      cell("number", known(costs.parameters) ? metric(costs.parameters, "") : "\u2013"),
    ),
  );
  const places = [
    ...new Set(compared.map(({costs}) => [costs.device, costs.machine].filter(known).join(", ")).filter(Boolean)),
  ];
  const costs = table(
    [
      ["model"],
      ["FLOP an image", "number"],
      ["seconds, median", "number"],
      ["peak memory", "number"],
      ["weights", "number"],
      ["parameters", "number"],
    ],
    rows,
  );
  host.append(
    el(
      "div",
      {class: "columns"},
      chart(),
      el(
        "div",
        {},
        costs,
        el(
          "p",
          {class: "note"},
          "FLOP, parameters and weights are counted; seconds and peak memory are measured while drawing. " +
            "Compare seconds only on the same machine.",
        ),
        places.length ? el("p", {class: "note"}, "Measured on ", said("bdi", places.join("; "))) : "",
      ),
    ),
  );
}

function showMethod(host) {
  const list = (values) =>
    el(
      "dl",
      {},
      Object.entries(values).flatMap(([key, value]) => [
        said("dt", spaced(key)),
        said("dd", typeof value === "object" ? JSON.stringify(value) : value),
      ]),
    );
  host.append(
    el(
      "p",
      {},
      "The unit is the prompt: all images of a prompt are resampled together, 95 % intervals. " +
        "A judgement that failed is counted and shown, and counts neither as met nor as not met.",
    ),
  );
  if (Object.keys(suite.source ?? {}).length) host.append(el("h3", {}, "Prompts"), list(suite.source));
  if (Object.keys(suite.settings ?? {}).length)
    host.append(el("h3", {}, "Settings of the suite"), list(suite.settings));
  for (const judge of report.judges) {
    host.append(
      el(
        "details",
        {},
        el("summary", {}, "Judge ", said("b", judge.title), ": ", judge.criteria.map(spaced).join(", ")),
        said("pre", pretty(judge.identity)),
      ),
    );
  }
  for (const model of report.models) {
    host.append(
      el(
        "details",
        {},
        el(
          "summary",
          {},
          model.role === "model" ? "Model " : `${model.role} `,
          said("b", model.name),
          model.role === "model" ? `: ${model.rewriting}` : "",
        ),
        said("pre", pretty(model.identity)),
      ),
    );
  }
}

function showPublished(host) {
  if (!report.published.length) return host.remove();
  host.append(
    el(
      "p",
      {class: "notice"},
      "Not measured here. Prompts, rewriting, resolution and judge differ or are not stated: " +
        "do not compare these with the numbers above.",
    ),
  );
  for (const one of report.published) {
    const rows = one.rows.map((row) =>
      el(
        "tr",
        {},
        said("th", row.model, {scope: "row"}),
        one.metrics.map((name) => cell("number", score(row.values[name], one.unit))),
        cell("of", said("span", row.steps)),
        cell("of", said("span", row.rewriting)),
      ),
    );
    host.append(
      el("h3", {}, said("bdi", `${one.source} (${one.date}); resolution: ${one.resolution}; judge: ${one.judge}`)),
      table([["model"], ...one.metrics.map((name) => [name, "number"]), ["steps"], ["rewriting"]], rows),
    );
  }
}
