// Pictures that were uploaded here: kept in this browser, so that a link to a search still works
// when the service was started anew and has forgotten them.

const MOST = 24; // pictures
const urls = new Map(); // identifier -> address of the picture in this document

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

let opened;
const database = () =>
  (opened ??= (() => {
    const request = indexedDB.open("ztcir", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("uploads", { keyPath: "id" }).createIndex("at", "at");
    return done(request);
  })());
const store = async (mode) => (await database()).transaction("uploads", mode).objectStore("uploads");

// Without storage (a private window, say) the page works as long as the service remembers.
async function orNothing(work) {
  try {
    return await work();
  } catch {
    return undefined;
  }
}

export const url = (id) => urls.get(id);

export function keep(id, file) {
  if (!urls.has(id)) urls.set(id, URL.createObjectURL(file));
  return orNothing(async () => {
    const uploads = await store("readwrite");
    await done(uploads.put({ id, file, at: Date.now() }));
    const ids = await done(uploads.index("at").getAllKeys()); // oldest first
    for (const old of ids.slice(0, Math.max(0, ids.length - MOST))) uploads.delete(old);
  });
}

// The picture as a Blob; undefined where it was not uploaded here.
export async function recall(id) {
  const found = await orNothing(async () => done((await store("readonly")).get(id)));
  if (found && !urls.has(id)) urls.set(id, URL.createObjectURL(found.file));
  return found?.file;
}
