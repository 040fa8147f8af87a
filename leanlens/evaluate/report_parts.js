// Small parts: elements, numbers in words, verdicts. Text goes into text nodes alone, so nothing in it can act.
"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const suite = report.suite;
const drawn = report.models.filter((model) => model.role !== "control"); // with true pictures, where there are some
const compared = report.models.filter((model) => model.role === "model");
const space = document.getElementById("space").namespaceURI;
const colors = new Map();
for (const model of report.models) {
  colors.set(
    model.name,
    model.role === "control" ? "mc" : `m${[...colors.values()].filter((one) => one !== "mc").length % 8}`,
  );
}

function fill(part, given, children) {
  for (const [key, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) part.addEventListener(key.slice(2), value);
    else part.setAttribute(key, value === true ? "" : value);
  }
  part.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return part;
}
const el = (tag, given = {}, ...children) => fill(document.createElement(tag), given, children);
const draw = (tag, given = {}, ...children) => fill(document.createElementNS(space, tag), given, children);
const said = (tag, text, given = {}) => el(tag, {dir: "auto", ...given}, String(text));

const isShare = (unit) => (unit ?? "share") === "share";
const number = (value, digits) => value.toFixed(digits).replace("-", "\u2212");
const sized = (value) => (Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2);
function score(value, unit) {
  if (value === null || value === undefined) return "";
  return isShare(unit) ? number(value * 100, 1) : number(value, sized(value));
}
function gain(value, unit) {
  const text = isShare(unit) ? number(value * 100, 1) : number(value, sized(value));
  return value > 0 ? `+${text}` : text;
}
const known = (value) => value !== null && value !== undefined;
const between = (one, unit) =>
  known(one.low) && known(one.high) ? `${score(one.low, unit)}\u2013${score(one.high, unit)}` : "";
const probability = (value) => (value < 0.001 ? "< .001" : `= ${value.toFixed(3).replace(/^0/, "")}`);
const spaced = (text) => text.replaceAll("_", " ");
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
function metric(value, unit) {
  const steps = [
    [1e18, "E"],
    [1e15, "P"],
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ];
  const [scale, letter] = steps.find(([least]) => value >= least) ?? [1, ""];
  return `${Number((value / scale).toPrecision(3))} ${letter}${unit}`;
}
const swatch = (model) => el("span", {class: `swatch ${colors.get(model)}`});
const pretty = (value) => (typeof value === "string" ? value : (JSON.stringify(value, null, 2) ?? "none"));

// What a judge says of a criterion: "met", "unmet", "failed", or null where it does not apply.
function verdict(value) {
  if (!known(value)) return null;
  if (typeof value === "object") return "failed";
  return value >= 1 ? "met" : "unmet";
}
// Every verdict on an image: [judge, criterion, value].
function verdicts(image) {
  return Object.entries(image.judgements ?? {}).flatMap(([judge, one]) =>
    Object.entries(one.score).map(([criterion, value]) => [judge, criterion, value]),
  );
}
const isNumber = (value) => typeof value === "number";
const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
