// Upload files one by one, each in its own request.

import { element, send } from "./api.js";

const LARGEST = 200e6; // bytes; the server refuses larger files, too
const bar = document.getElementById("uploading"), refused = document.getElementById("refused");

// Return the files of a drop, including those in folders, as { file, path }.
export async function dropped(transfer) {
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map(file => ({ file, path: file.name }));
  const found = [];
  async function visit(entry, path) {
    if (entry.name.startsWith(".")) return;
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      found.push({ file, path: path + entry.name });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const more = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!more.length) return;
      for (const each of more) await visit(each, `${path}${entry.name}/`);
    }
  }
  for (const entry of entries) await visit(entry, "");
  // the only folder of a drop is a wrapper, not a label
  const top = new Set(found.map(({ path }) => path.split("/")[0]));
  if (top.size === 1 && found.every(({ path }) => path.includes("/"))) {
    for (const each of found) each.path = each.path.slice(each.path.indexOf("/") + 1);
  }
  return found;
}

// Upload files to a new folder, and return its place and path.
export async function upload(files, name) {
  const target = await send("POST", "/data/uploads", { name });
  refused.replaceChildren();
  bar.hidden = false;
  bar.max = files.length;
  let stored = 0;
  try {
    for (const [i, { file, path }] of files.entries()) {
      bar.value = i;
      try {
        if (file.size > LARGEST) throw new Error(`${path} is larger than 200 MB. Choose its folder instead.`);
        await put(`/data/uploads/${encodeURIComponent(target.path)}/${path.split("/").map(encodeURIComponent).join("/")}`, file);
        stored += 1;
      } catch (error) {
        refused.append(element("li", {}, error.message));
      }
    }
  } finally {
    bar.hidden = true;
  }
  if (!stored) throw new Error("No file could be stored. See the list of errors.");
  const only = files.length === 1 && /\.(zip|npz|npy)$/i.test(files[0].path);
  return { ...target, archive: only ? `${target.path}/${files[0].path}` : undefined };
}

async function put(path, file) {
  let response;
  try {
    response = await fetch(path, { method: "PUT", body: file, headers: { accept: "application/json" } });
  } catch {
    throw new Error(`${file.name} could not be sent. Try again.`);
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Error(answer.error ?? `${file.name} was refused.`);
  }
}
