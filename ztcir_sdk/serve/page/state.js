// One search, and its form as the part of the address behind "#".

export const emptySearch = () => ({
  pictures: [], // {id, name, weight}
  text: "",
  textWeight: 1,
  further: [], // texts beside the first: {text, weight}
  without: [],
  unlike: [], // {id, name}
  strength: 1,
  former: [], // the steps before that still count, the oldest first: {id, name, text}
  asTyped: false, // whether likely typing errors stay
  fits: false, // whether what is no answer is left out
  once: false, // whether copies are shown once
  filters: {}, // field -> value
  contains: {}, // field -> part of a text
  ranges: {}, // field -> [least, most], texts; "" for no bound
});

// What was asked in the steps before, while there is something further to ask.
export const formerOf = (search) =>
  search.pictures.length === 1 && textsOf(search).length ? search.former : [];

// The texts that are asked with, each with its weight among them.
export const textsOf = (search) =>
  [{ text: search.text.trim(), weight: search.textWeight }, ...search.further].filter((one) => one.text);

export const isEmpty = (search) => !search.pictures.length && !textsOf(search).length;

// Weights as the service takes them: of the pictures, then of the texts; "" where all count alike.
export function weightsOf(search) {
  const weights = [...search.pictures, ...textsOf(search)].map((one) => one.weight);
  return weights.every((one) => one === 1) ? "" : weights.join(",");
}

export const MIN_WEIGHT = 0.1;
export const MAX_WEIGHT = 2;

const ID = /^[0-9a-f]{64}$/;
export const MAX_FORMER = 3;
const SWITCHES = ["asTyped", "fits", "once"];

export function toHash(search) {
  const part = new URLSearchParams();
  for (const one of search.pictures) part.append("like", one.id);
  if (search.text.trim()) part.set("text", search.text.trim());
  for (const one of search.further) part.append("and", one.text);
  if (weightsOf(search)) part.set("weights", weightsOf(search));
  for (const one of search.without) part.append("not", one);
  for (const one of search.unlike) part.append("unlike", one.id);
  if (search.strength !== 1) part.set("strength", search.strength);
  for (const one of search.former) part.append("after", `${one.id}=${one.text}`);
  for (const name of SWITCHES) if (search[name]) part.set(name, "1");
  for (const [field, value] of Object.entries(search.filters)) part.append("only", `${field}=${value}`);
  for (const [field, value] of Object.entries(search.contains)) part.append("has", `${field}=${value}`);
  for (const [field, [least, most]] of Object.entries(search.ranges)) part.append("range", `${field}=${least}~${most}`);
  const text = part.toString();
  return text ? `#${text}` : "";
}

export function fromHash(hash) {
  const part = new URLSearchParams(hash.replace(/^#/, ""));
  const pictures = (name) =>
    part.getAll(name).filter((id) => ID.test(id)).map((id) => ({ id, name: "", weight: 1 }));
  const strength = Number(part.get("strength") ?? 1);
  const pairs = (name) =>
    part.getAll(name).map((one) => [one.slice(0, Math.max(one.indexOf("="), 0)), one.slice(one.indexOf("=") + 1)]).filter(([key]) => key);
  const former = pairs("after").filter(([id, text]) => ID.test(id) && text.trim());
  const ranges = {};
  for (const one of part.getAll("range")) {
    const found = one.match(/^(.+)=([^=~]*)~([^=~]*)$/);
    if (found && [found[2], found[3]].every(isBound)) ranges[found[1]] = [found[2], found[3]];
  }
  const search = {
    pictures: pictures("like"),
    text: part.get("text") ?? "",
    textWeight: 1,
    further: part.getAll("and").map((one) => one.trim()).filter(Boolean).map((text) => ({ text, weight: 1 })),
    without: part.getAll("not").filter((one) => one.trim()),
    unlike: pictures("unlike"),
    strength: strength >= 0 && strength <= 2 ? strength : 1,
    former: former.map(([id, text]) => ({ id, name: "", text })).slice(-MAX_FORMER),
    ...Object.fromEntries(SWITCHES.map((name) => [name, part.has(name)])),
    filters: Object.fromEntries(pairs("only")),
    contains: Object.fromEntries(pairs("has")),
    ranges,
  };
  const parts = [...search.pictures, ...(search.text.trim() ? [search] : []), ...search.further];
  const weights = (part.get("weights") ?? "").split(",").map(Number);
  if (weights.length === parts.length && weights.every((one) => one >= MIN_WEIGHT && one <= MAX_WEIGHT)) {
    parts.forEach((one, place) => (one[one === search ? "textWeight" : "weight"] = weights[place]));
  }
  return search;
}

const isBound = (text) => text === "" || (text.trim() !== "" && Number.isFinite(Number(text)));

// The filters as the service's `where`, with the fields that it offers: a choice is compared as what
// it is, a text or not. Quotes are doubled, as in SQL.
export function toWhere({ filters, contains, ranges }, fields) {
  const quote = (text, mark) => mark + text.replaceAll(mark, mark + mark) + mark;
  const known = (name) => fields.find((field) => field.name === name);
  const written = (name) => known(name)?.where ?? quote(name, '"');
  const literal = (name, text) => {
    const value = known(name)?.values.find((one) => String(one) === text) ?? text;
    return typeof value === "string" ? quote(value, "'") : String(value);
  };
  const parts = Object.entries(filters).map(([name, value]) => `${written(name)} = ${literal(name, value)}`);
  for (const [name, value] of Object.entries(contains)) parts.push(`${written(name)} LIKE ${quote(`%${value}%`, "'")}`);
  for (const [name, [least, most]] of Object.entries(ranges)) {
    if (least !== "") parts.push(`${written(name)} >= ${Number(least)}`);
    if (most !== "") parts.push(`${written(name)} <= ${Number(most)}`);
  }
  return parts.join(" AND ");
}

export function describe(search) {
  const parts = [];
  const texts = textsOf(search);
  if (search.pictures.length === 1) parts.push(texts.length ? "this picture" : "similar pictures");
  if (search.pictures.length > 1) parts.push(`${search.pictures.length} pictures`);
  for (const one of texts) parts.push(`“${one.text}”`);
  for (const one of search.without) parts.push(`not ${one}`);
  const only = Object.entries(search.filters).map(([field, value]) => `${field} ${value}`);
  for (const [field, value] of Object.entries(search.contains)) only.push(`${field} with “${value}”`);
  for (const [field, [least, most]] of Object.entries(search.ranges)) {
    only.push(least && most ? `${field} ${least} to ${most}` : least ? `${field} from ${least}` : `${field} up to ${most}`);
  }
  const asked = parts.join(" + ").replaceAll("+ not", "− not") || "Browse";
  return [asked, ...only].join(", ");
}
