// What survives a reload: drawings and conversations, in the browser's own database. Nothing of it is sent anywhere.
//
//   drawings   {id, at, ...}                one for each result
//   exchanges  {id, at, conversation, ...}  a message and its answer
//   comparisons  {id, at, title, sides}     two results, each with its label
//
// Each record has an id of its own, so that two tabs never overwrite each other. Where the browser has no database, nothing is kept.

const NAME = "mmada-studio";
const VERSION = 2; // one more whenever STORES has
const STORES = ["drawings", "exchanges", "comparisons"];
const MOST = 60; // records of each store
const PATIENCE = 1500; // milliseconds in which a database opens
const MOST_CHARACTERS = 4_000_000; // of a drawing's steps; of larger ones only the end is kept

let opening;

function open() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      const has = request.result.objectStoreNames;
      for (const name of STORES) if (!has.contains(name)) request.result.createObjectStore(name, { keyPath: "id" });
    };
    request.onsuccess = () => {
      request.result.onversionchange = () => { // a tab with a newer page
        request.result.close();
        opening = undefined;
      };
      resolve(request.result);
    };
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("A tab with an older page holds the database."));
    setTimeout(() => reject(new Error("The browser does not open its database.")), PATIENCE);
  });
  opening.catch(() => (opening = undefined));
  return opening;
}

async function using(store, mode, act) {
  try {
    const database = await open();
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(store, mode);
      const request = act(transaction.objectStore(store));
      transaction.commit?.(); // at once, should the page be left now
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  } catch {
    return undefined; // private windows, full disks: the page goes on without
  }
}

export function newId() {
  return `${Date.now()}-${crypto.getRandomValues(new Uint32Array(2)).join("")}`;
}

/** All records of a store in the order in which they came, which their ids have. */
export async function all(store) {
  return (await using(store, "readonly", (records) => records.getAll())) ?? [];
}

/** Show records one by one. One that this page cannot show, because another version of it wrote it, is left out. */
export function showEach(records, show) {
  for (const record of records) {
    try {
      show(record);
    } catch (error) {
      console.warn("a record is left out", error);
    }
  }
}

export function get(store, id) {
  return using(store, "readonly", (records) => records.get(id));
}

export async function put(store, record) {
  await using(store, "readwrite", (records) => records.put(record));
  const ids = (await using(store, "readonly", (records) => records.getAllKeys())) ?? []; // in the order of their time
  for (const old of ids.slice(0, -MOST)) await remove(store, old);
}

export function remove(store, id) {
  return using(store, "readwrite", (records) => records.delete(id));
}

/** Forget a conversation. Returns what it was. */
export async function removeConversation(conversation) {
  const said = (await all("exchanges")).filter((exchange) => exchange.conversation === conversation);
  for (const exchange of said) await remove("exchanges", exchange.id);
  return said;
}

/** A drawing without its steps, where they are large. */
export function lighter(drawing) {
  const size = drawing.pictures.reduce((sum, picture) => sum + picture.frames.reduce((own, frame) => own + frame.length, 0), 0);
  if (size <= MOST_CHARACTERS) return drawing;
  return { ...drawing, pictures: drawing.pictures.map((picture) => ({ ...picture, frames: picture.frames.slice(-1) })) };
}
