// The page: its search, the steps that led to it, and what people do with it.

import * as api from "./api.js";
import { describe, emptySearch, fromHash, isEmpty, toHash, toWhere } from "./state.js";
import * as view from "./view.js";

const $ = (id) => document.getElementById(id);
const PAGE = 48; // hits of one request
const TYPING = 30; // milliseconds without a key before a search is sent

let about = { fields: [], limits: {}, items: 0 };
let search = fromHash(location.hash);
let trail = [search];
let at = 0;
let hits = [];
let large = -1;
let asking = null; // the request that runs; a later one takes its place
let timer = 0;

// --- steps ----------------------------------------------------------------------------------

// Change the search in place: the same step, another address.
function change(part, { wait = 0 } = {}) {
  search = { ...search, ...part };
  trail[at] = search;
  history.replaceState({ trail: plain(trail), at }, "", address());
  draw();
  busy(true);
  clearTimeout(timer);
  timer = setTimeout(run, wait);
}

// Go on with another search: a new step, to which "back" leads.
function step(next) {
  trail = [...trail.slice(0, at + 1), next];
  at = trail.length - 1;
  search = next;
  history.pushState({ trail: plain(trail), at }, "", address());
  draw();
  run();
  scrollTo({ top: 0 });
}

function go(place) {
  at = place;
  search = trail[at];
  history.pushState({ trail: plain(trail), at }, "", address());
  $("text").value = search.text;
  draw();
  run();
}

const plain = (steps) => steps.map((one) => ({ ...one, pictures: one.pictures.map(({ busy, ...rest }) => rest) }));
const address = () => location.pathname + location.search + toHash(search);

addEventListener("popstate", (event) => {
  ({ trail, at } = event.state ?? { trail: [fromHash(location.hash)], at: 0 });
  search = trail[at];
  $("text").value = search.text;
  draw();
  run();
});

// --- searching ------------------------------------------------------------------------------

async function run({ offset = 0 } = {}) {
  asking?.abort();
  const mine = (asking = new AbortController());
  busy(true);
  try {
    const found = isEmpty(search)
      ? await api.items(offset, PAGE, toWhere(search), mine.signal)
      : await api.search(fieldsOf(search, offset), mine.signal);
    if (mine !== asking) return;
    show(found, offset);
  } catch (error) {
    if (error.name !== "AbortError" && mine === asking) fail(error);
  }
}

function busy(working) {
  $("results").setAttribute("aria-busy", String(working));
}

function fieldsOf(asked, offset) {
  const { pictures, text, without, unlike, strength } = asked;
  const both = pictures.length > 0 && text.trim() !== "";
  return {
    reference: pictures.filter((one) => !one.busy).map((one) => one.id),
    text: text.trim(),
    not: without,
    unlike: unlike.map((one) => one.id),
    strength: both && strength !== 1 ? strength : "",
    where: toWhere(asked),
    k: PAGE,
    offset,
  };
}

function show(found, offset) {
  const browsing = isEmpty(search);
  const fresh = found.items ?? found.hits;
  hits = offset ? [...hits, ...fresh] : fresh;
  $("problem").hidden = true;
  busy(false);
  if (hits.length) view.drawHits(fresh, { append: offset > 0, actions });
  else view.drawNothing(browsing && !toWhere(search) ? "The index is empty: run ztcir index." : "Nothing fits: take a filter away, or ask with other words.");
  const total = browsing ? found.total : found.searched;
  $("status").textContent = browsing
    ? `${total.toLocaleString()} pictures`
    : `${total.toLocaleString()} searched in ${found.milliseconds < 10 ? found.milliseconds.toFixed(1) : Math.round(found.milliseconds)} ms`;
  $("more").hidden = fresh.length < PAGE || hits.length >= total;
}

function fail(error) {
  busy(false);
  if (error.kind === "token") {
    if (!$("login").open) $("login").showModal();
    return;
  }
  $("problem").textContent = error.message;
  $("problem").hidden = false;
  $("problem").scrollIntoView({ block: "nearest" });
  $("status").textContent = "";
}

// --- drawing --------------------------------------------------------------------------------

function draw() {
  view.drawPictures(search, (one) => change({ pictures: search.pictures.filter((other) => other !== one) }));
  view.drawUnwanted(
    search,
    (text) => change({ without: search.without.filter((other) => other !== text) }),
    (one) => change({ unlike: search.unlike.filter((other) => other !== one) }),
  );
  view.drawFilters(about.fields, search, setFilter, setRange);
  view.drawTrail(trail, at, go);
  $("text").placeholder = search.pictures.length ? "What should change? make it red, for women, …" : "Describe what to find, or drop an image";
  $("strength").value = search.strength;
  $("strength-value").textContent = Number(search.strength).toFixed(1);
  $("strength").disabled = !(search.pictures.length && search.text.trim());
  $("title").textContent = describe(search);
  $("share").hidden = isEmpty(search) && !toWhere(search);
  document.title = isEmpty(search) ? "ztcir: search images with images and words" : `${describe(search)} · ztcir`;
}

function setFilter(field, value) {
  const filters = { ...search.filters };
  if (value) filters[field] = value;
  else delete filters[field];
  change({ filters });
}

function setRange(field, least, most) {
  const ranges = { ...search.ranges };
  if (least || most) ranges[field] = [least, most];
  else delete ranges[field];
  change({ ranges });
}

// --- what people do -------------------------------------------------------------------------

const asPicture = ({ id, name }) => ({ id, name });

const actions = {
  use(hit) {
    $("large").close();
    $("text").value = "";
    step({ ...emptySearch(), pictures: [asPicture(hit)], filters: search.filters, ranges: search.ranges ?? {} });
  },
  add(hit) {
    $("large").close();
    if (search.pictures.every((one) => one.id !== hit.id)) change({ pictures: [...search.pictures, asPicture(hit)] });
  },
  unlike(hit) {
    $("large").close();
    if (isEmpty(search)) {
      fail(new api.Problem("usage", "Search first, then say what the results shall not be like."));
      return;
    }
    openOptions(true);
    if (search.unlike.every((one) => one.id !== hit.id)) change({ unlike: [...search.unlike, asPicture(hit)] });
  },
  zoom(hit) {
    large = hits.indexOf(hit);
    view.drawLarge(hit);
    if (!$("large").open) $("large").showModal();
  },
};

async function usePicture(file) {
  if (!file?.type.startsWith("image/")) {
    fail(new api.Problem("usage", "That is no image: drop, paste or choose a picture."));
    return;
  }
  const most = about.limits.max_upload_mb;
  if (most && file.size > most * 1e6) {
    fail(new api.Problem("usage", `The image has over ${most} MB: choose a smaller one.`));
    return;
  }
  const waiting = { id: "", name: file.name || "pasted picture", url: URL.createObjectURL(file), busy: true };
  const text = search.text;
  view.drawPictures({ pictures: [waiting] }, () => {});
  $("status").textContent = "Reading the picture …";
  try {
    const { id } = await api.upload(file);
    const picture = { id, name: waiting.name, url: waiting.url };
    const next = { ...search, pictures: [picture], text };
    if (isEmpty(search)) change(next);
    else step(next);
  } catch (error) {
    draw();
    fail(error);
  }
}

function openOptions(open) {
  $("options").hidden = !open;
  $("tune").setAttribute("aria-expanded", String(open));
}

$("text").value = search.text;
$("text").addEventListener("input", () => change({ text: $("text").value }, { wait: TYPING }));
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
$("tune").addEventListener("click", () => openOptions($("options").hidden));
$("not").addEventListener("keydown", (event) => {
  const text = $("not").value.trim();
  if ((event.key === "Enter" || event.key === ",") && text) {
    event.preventDefault();
    $("not").value = "";
    if (!search.without.includes(text)) change({ without: [...search.without, text] });
  } else if (event.key === "Enter") {
    event.preventDefault();
  } else if (event.key === "Backspace" && !$("not").value && search.without.length) {
    change({ without: search.without.slice(0, -1) });
  }
});
$("strength").addEventListener("input", () => change({ strength: Number($("strength").value) }, { wait: TYPING }));
$("more").addEventListener("click", () => run({ offset: hits.length }));
$("home").addEventListener("click", (event) => {
  event.preventDefault();
  $("text").value = "";
  step(emptySearch());
});
$("share").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    $("share").textContent = "Link copied";
  } catch {
    $("share").textContent = "Copy it from the address bar";
  }
  setTimeout(() => ($("share").textContent = "Copy link"), 2000);
});

// a picture: chosen, dropped or pasted
$("pick").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  usePicture($("file").files[0]);
  $("file").value = "";
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) {
    event.preventDefault();
    usePicture(file);
  }
});
let dragged = 0;
const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragenter", (event) => {
  if (hasFile(event)) $("drop").hidden = ++dragged === 0;
});
addEventListener("dragleave", (event) => {
  if (hasFile(event)) $("drop").hidden = --dragged === 0;
});
addEventListener("dragover", (event) => {
  if (hasFile(event)) event.preventDefault();
});
addEventListener("drop", (event) => {
  if (!hasFile(event)) return;
  event.preventDefault();
  dragged = 0;
  $("drop").hidden = true;
  usePicture(event.dataTransfer.files[0]);
});

// the large view
const turn = (by) => {
  large = (large + by + hits.length) % hits.length;
  view.drawLarge(hits[large]);
};
$("large").querySelector(".previous").addEventListener("click", () => turn(-1));
$("large").querySelector(".next").addEventListener("click", () => turn(1));
$("large").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});
$("large").addEventListener("click", (event) => {
  if (event.target === $("large")) $("large").close(); // the backdrop
});
$("large-use").addEventListener("click", () => actions.use(hits[large]));
$("large-add").addEventListener("click", () => actions.add(hits[large]));
$("large-not").addEventListener("click", () => actions.unlike(hits[large]));

addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement?.tagName);
  if (event.key === "/" && !typing && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    $("text").focus();
  }
});

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await api.login($("token").value);
    $("login").close();
    start();
  } catch (error) {
    $("login-problem").textContent = error.message;
  }
});

async function start() {
  try {
    about = await api.info();
  } catch (error) {
    fail(error);
    return;
  }
  if (search.without.length || search.unlike.length || toWhere(search)) openOptions(true);
  draw();
  run();
}

history.replaceState({ trail: plain(trail), at }, "", address());
draw();
start();
