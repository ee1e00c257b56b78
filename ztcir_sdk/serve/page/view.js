// What is drawn: chips, cards, the trail. Texts are set as text, never as HTML.

import { thumbnail } from "./api.js";
import { formerOf, MIN_WEIGHT, MAX_WEIGHT, textsOf } from "./state.js";
import * as uploads from "./uploads.js";

const $ = (id) => document.getElementById(id);

export const nameOf = (one) => one.name.split("/").pop().replace(/\.[a-z0-9]+$/i, "").replace(/[-_]+/g, " ") || "picture";
const pictureUrl = (one, side) => one.url ?? uploads.url(one.id) ?? thumbnail(one.id, side);

export function make(tag, settings = {}, ...children) {
  const element = Object.assign(document.createElement(tag), settings);
  element.append(...children);
  return element;
}

function removeButton(label, remove) {
  const button = make("button", { type: "button", textContent: "×", onclick: remove });
  button.setAttribute("aria-label", label);
  return button;
}

export function drawPictures(search, remove) {
  $("pictures").replaceChildren(
    ...search.pictures.map((one) =>
      make("li", { className: one.busy ? "busy" : "" },
        make("img", { src: pictureUrl(one, 160), alt: `Reference: ${nameOf(one)}` }),
        removeButton(`Remove the reference ${nameOf(one)}`, () => remove(one)))),
  );
}

// What was asked of earlier pictures; it counts once more is asked of this one.
export function drawFormer(search, remove) {
  $("former-line").hidden = !search.former.length || search.pictures.length !== 1;
  $("former-line").classList.toggle("waiting", !formerOf(search).length);
  $("former").replaceChildren(
    ...search.former.map((one) =>
      make("li", { className: "chip" },
        make("img", { src: pictureUrl(one, 160), alt: nameOf(one) }),
        one.text,
        removeButton(`Forget ${one.text}`, () => remove(one)))),
  );
}

// How the service read the texts, where that is not as they were typed.
export function drawReading(found, search, keep) {
  const words = found.unknown_words ?? [];
  const corrected = words.filter((one) => one.corrected);
  const unknown = words.filter((one) => !one.corrected);
  const list = (some) => some.map((one) => `“${one.word}”`).join(", ");
  const parts = [];
  if (corrected.length) {
    parts.push(make("span", {}, `Read ${corrected.map((one) => `“${one.word}” as “${one.suggestion}”`).join(", ")}. `,
      make("button", { type: "button", className: "quiet", textContent: "Search as typed", onclick: () => keep(true) })));
  }
  if (found.read_as?.length) {
    parts.push(make("span", {}, `Read as ${found.read_as.map((one) => `“${one}”`).join(", ")}. `,
      ...(corrected.length ? [] : [make("button", { type: "button", className: "quiet", textContent: "Search as typed", onclick: () => keep(true) })])));
  }
  if (found.refused?.length) parts.push(make("span", {}, `Taken out of the query: ${found.refused.join(", ")}.`));
  if (unknown.length && !search.asTyped) parts.push(make("span", {}, `The model was not trained on ${list(unknown)}: it may ignore or misread ${unknown.length > 1 ? "them" : "it"}.`));
  if (search.asTyped && keep) {
    parts.push(make("span", {}, "Searched as typed. ",
      make("button", { type: "button", className: "quiet", textContent: "Correct it", onclick: () => keep(false) })));
  }
  $("reading").replaceChildren(...parts);
  $("reading").hidden = !parts.length;
}

export function drawFurther(search, remove) {
  $("further").replaceChildren(
    ...search.further.map((one) =>
      make("li", { className: "chip" }, one.text, removeButton(`Take ${one.text} back`, () => remove(one)))),
  );
}

let weights = { parts: "", show: () => {} }; // what the sliders were made for, and how they show a search

// A slider for each picture and text, where there are several of a kind. They are made anew only
// when the parts change, so that the one in use keeps the focus.
export function drawWeights(search, change) {
  const texts = textsOf(search);
  const parts = [
    ...(search.pictures.length > 1 ? search.pictures.map((one, place) => ["pictures", place, one]) : []),
    ...(texts.length > 1 ? texts.map((one, place) => ["texts", place, one]) : []),
  ];
  const described = JSON.stringify(parts.map(([kind, , one]) => [kind, one.id ?? one.text]));
  if (weights.parts !== described) {
    const sliders = parts.map(([kind, place, one]) => slider(one, (value) => change(kind, place, value)));
    $("weights").replaceChildren(...sliders.map(({ element }) => element));
    weights = { parts: described, show: (values) => sliders.forEach(({ show }, place) => show(values[place])) };
  }
  $("weights-field").hidden = !parts.length;
  weights.show(parts.map(([, , one]) => one.weight));
}

function slider(one, change) {
  const input = make("input", { type: "range", min: MIN_WEIGHT, max: MAX_WEIGHT, step: 0.1 });
  const output = make("output");
  input.oninput = () => change(Number(input.value));
  input.setAttribute("aria-label", `Weight of ${one.text ?? nameOf(one)}`);
  const label = one.text ? make("span", { textContent: one.text }) : make("img", { src: pictureUrl(one, 160), alt: nameOf(one) });
  const show = (weight) => {
    if (Number(input.value) !== weight) input.value = weight;
    output.textContent = weight.toFixed(1);
  };
  return { element: make("li", {}, label, input, output), show };
}

export function drawUnwanted(search, removeText, removePicture) {
  $("unwanted").replaceChildren(
    ...search.without.map((text) =>
      make("li", { className: "chip" }, text, removeButton(`Allow ${text} again`, () => removeText(text)))),
    ...search.unlike.map((one) =>
      make("li", { className: "chip" },
        make("img", { src: pictureUrl(one, 160), alt: nameOf(one) }),
        removeButton(`Allow pictures like ${nameOf(one)} again`, () => removePicture(one)))),
  );
}

let filters = { fields: null, show: [] }; // what the controls were made for, and how each shows a search

// The controls are made once, so that the one in use keeps the focus and what is half typed.
export function drawFilters(fields, search, change) {
  if (filters.fields !== fields) {
    const choices = fields.filter((field) => field.kind === "choice" && field.values.length > 1);
    const numbers = fields.filter((field) => field.kind === "number" && field.least < field.most);
    const texts = [...fields.filter((field) => field.kind === "text"), { name: "path" }];
    const controls = [
      ...choices.map((field) => choice(field, change.filters)),
      ...numbers.map((field) => range(field, change.ranges)),
      ...texts.map((field) => part(field, change.contains)),
    ];
    $("filters").replaceChildren(...controls.map(({ element }) => element));
    filters = { fields, show: controls.map(({ show }) => show) };
  }
  for (const show of filters.show) show(search);
}

function choice(field, change) {
  const element = make("select", { onchange: () => change(field.name, element.value) },
    make("option", { value: "", textContent: `any ${field.name}` }),
    ...field.values.map((value) => make("option", { value, textContent: value })));
  element.setAttribute("aria-label", field.name);
  const show = (search) => {
    element.value = search.filters[field.name] ?? "";
    element.classList.toggle("set", element.value !== "");
  };
  return { element, show };
}

function part(field, change) {
  const element = make("input", { type: "search", className: "part", placeholder: `${field.name} contains …` });
  element.oninput = () => change(field.name, element.value);
  element.setAttribute("aria-label", `${field.name} contains`);
  const show = (search) => {
    const value = search.contains[field.name] ?? "";
    if (element.value.trim() !== value) element.value = value;
    element.classList.toggle("set", value !== "");
  };
  return { element, show };
}

function range(field, change) {
  const bound = (label, placeholder) => {
    const input = make("input", { type: "number", step: "any", placeholder, oninput: tell });
    input.setAttribute("aria-label", `${field.name}, ${label}`);
    return input;
  };
  const tell = () => change(field.name, from.value, to.value);
  const from = bound("at least", field.least);
  const to = bound("at most", field.most);
  const element = make("span", { className: "range" }, field.name, from, "–", to);
  const show = (search) => {
    const [least, most] = search.ranges[field.name] ?? ["", ""];
    // a half-typed number, such as "-", has no value yet: it is left as it is
    if (from.value !== least) from.value = least;
    if (to.value !== most) to.value = most;
    element.classList.toggle("set", least !== "" || most !== "");
  };
  return { element, show };
}

export function drawTrail(trail, at, go) {
  $("trail").hidden = trail.length < 2;
  $("trail").firstElementChild.replaceChildren(
    ...trail.map((search, place) => {
      const picture = search.pictures[0];
      const label = textsOf(search).map((one) => one.text).join(", ") || (picture ? "similar" : "browse");
      const button = make("button", { type: "button", onclick: () => go(place) });
      if (picture) button.append(make("img", { src: pictureUrl(picture, 160), alt: nameOf(picture) }));
      else button.className = "words";
      button.append(make("span", { textContent: label }));
      if (place === at) button.setAttribute("aria-current", "step");
      return make("li", {}, button);
    }),
  );
  const current = $("trail").querySelector("[aria-current]");
  current?.scrollIntoView?.({ block: "nearest", inline: "nearest" });
}

let cards = new Map(); // item -> the card that shows it now
const itemOf = (hit) => `${hit.id} ${hit.name}`; // the same file may be in a collection twice

// A card stays from answer to answer, with its picture, which is then drawn at once.
export function drawHits(hits, { append = false, actions }) {
  const fresh = new Map(hits.map((hit) => [itemOf(hit), card(hit, actions)]));
  const focused = $("results").contains(document.activeElement) ? document.activeElement : null;
  if (append) $("results").append(...fresh.values());
  else $("results").replaceChildren(...fresh.values());
  if (focused?.isConnected) focused.focus({ preventScroll: true });
  cards = append ? new Map([...cards, ...fresh]) : fresh;
}

function card(hit, actions) {
  const element = cards.get(itemOf(hit)) ?? newCard(hit);
  const find = (part) => element.querySelector(part);
  find(".score").textContent = hit.score === undefined ? "" : hit.score.toFixed(2);
  find(".picture").onclick = () => actions.use(hit);
  find(".not").onclick = () => actions.unlike(hit);
  find(".zoom").onclick = () => actions.zoom(hit);
  return element;
}

function newCard(hit) {
  const element = $("card").content.firstElementChild.cloneNode(true);
  const name = nameOf(hit);
  const image = element.querySelector("img");
  image.src = thumbnail(hit.id);
  image.onerror = () => element.classList.add("gone");
  element.onanimationend = () => element.classList.remove("new");
  const picture = element.querySelector(".picture");
  picture.setAttribute("aria-label", `Search from ${name}`);
  picture.title = name;
  element.querySelector(".not").setAttribute("aria-label", `Not like ${name}`);
  element.querySelector(".zoom").setAttribute("aria-label", `Large view of ${name}`);
  return element;
}

export function drawNothing(sentence) {
  cards = new Map();
  $("results").replaceChildren(make("li", { className: "empty", textContent: sentence }));
}

export function drawLarge(hit) {
  $("large-image").src = thumbnail(hit.id, 1024);
  $("large-image").alt = nameOf(hit);
  $("large-name").textContent = nameOf(hit);
  $("large-score").textContent =
    hit.score === undefined ? hit.name : `${hit.name}, similarity ${hit.score.toFixed(3)}, rank ${hit.rank}`;
  $("large-metadata").replaceChildren(
    ...Object.entries(hit.metadata ?? {}).flatMap(([key, value]) => [
      make("dt", { textContent: key }),
      make("dd", { textContent: typeof value === "string" ? value : JSON.stringify(value) }),
    ]),
  );
}
