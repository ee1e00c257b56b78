// The page: its search, the steps that led to it, and what people do with it.

import * as api from "./api.js";
import { describe, emptySearch, formerOf, fromHash, isEmpty, MAX_FORMER, textsOf, toHash, toWhere, weightsOf } from "./state.js";
import * as uploads from "./uploads.js";
import * as view from "./view.js";

const $ = (id) => document.getElementById(id);
const PAGE = 48; // hits of one request
const TYPING = 30; // milliseconds: of keys that follow each other faster, the last one is searched
const READING = 700; // milliseconds after which a text is finished, and it is said how it was read

let about = { fields: [], limits: {}, items: 0, default_method: "composed" };
let search = fromHash(location.hash);
let trail = [search];
let at = 0;
let hits = [];
let large = -1;
let asking = null; // the request that runs; a later one takes its place
let timer = 0;
let noteTimer = 0;
let changed = -Infinity; // when the search was last changed, in milliseconds

// --- steps ----------------------------------------------------------------------------------

// Change the search in place: the same step, another address.
function change(part, { wait = 0 } = {}) {
  search = { ...search, ...part };
  trail[at] = search;
  history.replaceState({ trail, at }, "", address());
  draw();
  busy(true);
  clearTimeout(timer);
  const now = performance.now();
  if (now - changed > wait) run();
  else timer = setTimeout(run, wait);
  changed = now;
}

// Go on with another search: a new step, to which "back" leads.
function step(next) {
  trail = [...trail.slice(0, at + 1), next];
  at = trail.length - 1;
  search = next;
  history.pushState({ trail, at }, "", address());
  draw();
  run();
  scrollTo({ top: 0 });
}

function go(place) {
  at = place;
  search = trail[at];
  history.pushState({ trail, at }, "", address());
  showStep();
}

// Draw a step that is returned to, and search again.
function showStep() {
  $("text").value = search.text;
  draw();
  run();
  recallPictures();
}

const address = () => location.pathname + location.search + toHash(search);

addEventListener("popstate", (event) => {
  ({ trail, at } = event.state ?? { trail: [fromHash(location.hash)], at: 0 });
  trail = trail.map((one) => ({ ...emptySearch(), ...one })); // an older page may have left it
  search = trail[at];
  showStep();
});

// --- searching ------------------------------------------------------------------------------

async function run({ offset = 0, again = false } = {}) {
  asking?.abort();
  const mine = (asking = new AbortController());
  busy(true);
  try {
    const found = isEmpty(search)
      ? await api.items(offset, PAGE, toWhere(search, about.fields), mine.signal)
      : await api.search(fieldsOf(search, offset), mine.signal);
    if (mine !== asking) return;
    show(found, offset);
  } catch (error) {
    if (error.name === "AbortError" || mine !== asking) return;
    if (error.kind === "unknown-reference" && !again && (await uploadAgain())) {
      if (mine === asking) run({ offset, again: true });
    } else fail(error);
  }
}

// What the service has forgotten, from this browser; whether anything was found.
async function uploadAgain() {
  const files = await Promise.all([...search.pictures, ...search.former].map((one) => uploads.recall(one.id)));
  const found = files.filter(Boolean);
  try {
    await Promise.all(found.map(api.upload));
  } catch {
    return false;
  }
  return found.length > 0;
}

// Show the pictures of a link that were uploaded here in an earlier visit.
async function recallPictures() {
  const unseen = trail.flatMap((one) => [...one.pictures, ...one.former]).filter((one) => !uploads.url(one.id));
  const found = await Promise.all(unseen.map((one) => uploads.recall(one.id)));
  if (found.some(Boolean)) draw();
}

function busy(working) {
  $("results").setAttribute("aria-busy", String(working));
}

function fieldsOf(asked, offset) {
  const { pictures, without, unlike, strength } = asked;
  const texts = textsOf(asked).map((one) => one.text);
  const both = pictures.length > 0 && texts.length > 0 && strength !== 1;
  const former = composes() ? formerOf(asked) : [];
  return {
    reference: pictures.map((one) => one.id),
    text: texts,
    weights: weightsOf(asked),
    not: without,
    unlike: unlike.map((one) => one.id),
    strength: both && composes() ? strength : "",
    weight: both && about.default_method === "sum" ? strength / 2 : "",
    former: former.map((one) => one.id),
    former_text: former.map((one) => one.text),
    as_typed: asked.asTyped || "",
    threshold: asked.fits ? "auto" : "",
    unique: asked.once || "",
    where: toWhere(asked, about.fields),
    k: PAGE,
    offset,
  };
}

// Whether an image and a text make one query that goes from the picture to the words.
const composes = () => ["composed", "stage1"].includes(about.default_method);

function show(found, offset) {
  const browsing = isEmpty(search);
  const fresh = found.items ?? found.hits;
  hits = offset ? [...hits, ...fresh] : fresh;
  $("problem").hidden = true;
  busy(false);
  if (hits.length) view.drawHits(fresh, { append: offset > 0, actions });
  else view.drawNothing(browsing && !toWhere(search, about.fields) ? "The index is empty: run ztcir index." : "Nothing fits: take a filter away, or ask with other words.");
  const total = browsing ? found.total : found.searched; // all of the index, whatever is filtered
  const done = toWhere(search, about.fields) ? "filtered and searched" : "searched";
  $("status").textContent = browsing
    ? `${total.toLocaleString()} pictures`
    : `${total.toLocaleString()} ${done} in ${found.milliseconds < 10 ? found.milliseconds.toFixed(1) : Math.round(found.milliseconds)} ms`;
  $("more").hidden = fresh.length < PAGE || hits.length >= total;
  clearTimeout(noteTimer);
  if (browsing || offset) view.drawReading({}, search);
  else noteTimer = setTimeout(() => view.drawReading(found, search, (asTyped) => change({ asTyped })), READING);
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
  view.drawFormer(composes() ? search : { ...search, former: [] }, (one) => change({ former: search.former.filter((other) => other !== one) }));
  view.drawFurther(search, (one) => change({ further: search.further.filter((other) => other !== one) }));
  view.drawWeights(search, setWeight);
  view.drawUnwanted(
    search,
    (text) => change({ without: search.without.filter((other) => other !== text) }),
    (one) => change({ unlike: search.unlike.filter((other) => other !== one) }),
  );
  view.drawFilters(about.fields, search, { filters: setFilter, contains: setContains, ranges: setRange });
  view.drawTrail(trail, at, go);
  $("text").placeholder = search.pictures.length ? "What should change? make it red, for women, …" : "Describe what to find, or drop an image";
  $("add").hidden = !search.pictures.length;
  $("strength").value = search.strength;
  $("strength-value").textContent = Number(search.strength).toFixed(1);
  $("strength").disabled = !(search.pictures.length && textsOf(search).length);
  $("strength-field").hidden = !composes() && about.default_method !== "sum";
  $("fits").checked = search.fits;
  $("once").checked = search.once;
  $("title").textContent = describe(search);
  $("share").hidden = isEmpty(search) && !toWhere(search, about.fields);
  document.title = isEmpty(search) ? "ztcir: search images with images and words" : `${describe(search)} · ztcir`;
}

function setWeight(kind, place, weight) {
  const put = (list, at) => list.map((one, other) => (other === at ? { ...one, weight } : one));
  const first = search.text.trim() ? 1 : 0; // the text of the bar comes before the further ones
  if (kind === "pictures") change({ pictures: put(search.pictures, place) }, { wait: TYPING });
  else if (place < first) change({ textWeight: weight }, { wait: TYPING });
  else change({ further: put(search.further, place - first) }, { wait: TYPING });
}

function setFilter(field, value) {
  const filters = { ...search.filters };
  if (value) filters[field] = value;
  else delete filters[field];
  change({ filters });
}

function setContains(field, value) {
  const contains = { ...search.contains };
  if (value.trim()) contains[field] = value.trim();
  else delete contains[field];
  change({ contains }, { wait: TYPING });
}

function setRange(field, least, most) {
  const ranges = { ...search.ranges };
  if (least || most) ranges[field] = [least, most];
  else delete ranges[field];
  change({ ranges });
}

// --- what people do -------------------------------------------------------------------------

const asPicture = ({ id, name }) => ({ id, name, weight: 1 });

// The steps that a picked hit goes on from: what was asked of them still counts when more is asked.
function asked() {
  const text = textsOf(search).map((one) => one.text).join(", ");
  if (search.pictures.length !== 1 || !text) return [];
  const { id, name } = search.pictures[0];
  return [...search.former, { id, name, text }].slice(-MAX_FORMER);
}

const actions = {
  use(hit) {
    $("large").close();
    $("text").value = "";
    const { fits, once, filters, contains, ranges } = search;
    step({ ...emptySearch(), pictures: [asPicture(hit)], former: asked(), fits, once, filters, contains, ranges });
  },
  add(hit) {
    $("large").close();
    if (search.pictures.every((one) => one.id !== hit.id)) change({ pictures: [...search.pictures, asPicture(hit)] });
  },
  unlike(hit) {
    $("large").close();
    if (isEmpty(search)) {
      fail(new api.Problem("usage", "Search first, then say what the results must not be like."));
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

// Search with pictures from outside: in place of those of the search, or beside them.
async function usePictures(files, { beside = false } = {}) {
  if (!files.length) return;
  const most = about.limits.max_upload_mb;
  for (const file of files) {
    if (!file.type.startsWith("image/")) {
      fail(new api.Problem("usage", "That is no image: drop, paste or choose a picture."));
      return;
    }
    if (most && file.size > most * 1e6) {
      fail(new api.Problem("usage", `The image has over ${most} MB: choose a smaller one.`));
      return;
    }
  }
  const kept = beside ? search.pictures : [];
  const waiting = files.map((file) => ({ id: "", name: file.name || "pasted picture", url: URL.createObjectURL(file), busy: true }));
  view.drawPictures({ pictures: [...kept, ...waiting] }, () => {});
  $("status").textContent = files.length > 1 ? "Reading the pictures …" : "Reading the picture …";
  try {
    const pictures = [...kept];
    for (const [place, file] of files.entries()) {
      const { id } = await api.upload(file);
      uploads.keep(id, file);
      if (pictures.every((one) => one.id !== id)) pictures.push({ id, name: waiting[place].name, weight: 1 });
    }
    const next = { ...search, pictures, former: beside ? search.former : [] };
    if (isEmpty(search) || beside) change(next);
    else step(next);
  } catch (error) {
    draw();
    fail(error);
  } finally {
    for (const one of waiting) URL.revokeObjectURL(one.url);
  }
}

function openOptions(open) {
  $("options").hidden = !open;
  $("tune").setAttribute("aria-expanded", String(open));
}

$("text").value = search.text;
$("text").addEventListener("input", () => change({ text: $("text").value, asTyped: search.asTyped && $("text").value.trim() !== "" }, { wait: TYPING }));
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
$("tune").addEventListener("click", () => openOptions($("options").hidden));
// A field whose texts become chips: at Enter or a comma; Backspace takes the last one back.
function chips(field, add, takeLast) {
  $(field).addEventListener("keydown", (event) => {
    const text = $(field).value.trim();
    if (event.key === "Enter" || (event.key === "," && text)) {
      event.preventDefault();
      $(field).value = "";
      if (text) add(text);
    } else if (event.key === "Backspace" && !$(field).value) takeLast();
  });
}
chips(
  "not",
  (text) => search.without.includes(text) || change({ without: [...search.without, text] }),
  () => search.without.length && change({ without: search.without.slice(0, -1) }),
);
chips(
  "and",
  (text) => textsOf(search).some((one) => one.text === text) || change({ further: [...search.further, { text, weight: 1 }] }),
  () => search.further.length && change({ further: search.further.slice(0, -1) }),
);
for (const name of ["fits", "once"]) $(name).addEventListener("change", () => change({ [name]: $(name).checked }));
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
let beside = false; // whether the pictures that are chosen go beside those of the search
const choose = (besideOthers) => {
  beside = besideOthers;
  $("file").click();
};
$("pick").addEventListener("click", () => choose(false));
$("add").addEventListener("click", () => choose(true));
$("file").addEventListener("change", () => {
  usePictures([...$("file").files], { beside });
  $("file").value = "";
  beside = false;
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) {
    event.preventDefault();
    usePictures([file]);
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
  usePictures([...event.dataTransfer.files]);
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
  const { without, unlike, further, fits, once } = search;
  if (without.length || unlike.length || further.length || weightsOf(search) || toWhere(search, about.fields) || fits || once) openOptions(true);
  draw();
  run();
  recallPictures();
}

history.replaceState({ trail, at }, "", address());
draw();
start();
