/** Downloads the five pictures of a task and decodes them, so that showing them later takes no time. */

import { download } from "./api.js";
import { NUMBERS } from "./draft.js";

const PREVIEW_PIXELS = 1200; // longest side; about that of a pane on a large screen

async function decoded(url) {
  const picture = new Image();
  picture.draggable = false;
  picture.src = url;
  await picture.decode();
  return picture;
}

/**
 * A small copy that is painted at once. The browser may drop the decoded form of a large picture that is not shown, and
 * decoding five of them again can take longer than a person wants to wait for the next task. The copy is made of the
 * file, not of the element, because the browser then decodes it outside the thread that answers keys.
 */
async function previewOf({ naturalWidth: width, naturalHeight: height }, blob) {
  const scale = Math.min(1, PREVIEW_PIXELS / Math.max(width, height));
  const size = { resizeWidth: Math.round(width * scale), resizeHeight: Math.round(height * scale) };
  const bitmap = await createImageBitmap(blob, { ...size, resizeQuality: "medium" });
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d").drawImage(bitmap, 0, 0); // a "bitmaprenderer" would ignore the EXIF orientation
  bitmap.close();
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

/**
 * Addresses of a task's pictures, the original first. They are relative, unlike those in the lease, because the page may
 * be below a path prefix. A lease ends with its review; the pictures of the review stay.
 */
function addressesOf({ lease, supersedes }) {
  const base = supersedes ? `reviews/${supersedes}` : `leases/${lease.lease}`;
  return [0, ...NUMBERS].map((number) => `${base}/pictures/${number}`);
}

/** Load the pictures of a task, the original first, and their previews into `task.pictures` and `task.previews`. */
export async function loadPictures(task, priority) {
  const blobs = await Promise.all(addressesOf(task).map((address) => download(address, priority)));
  task.urls = blobs.map((blob) => URL.createObjectURL(blob));
  const loaded = await Promise.all(task.urls.map(decoded));
  loaded.forEach((picture, number) => {
    picture.alt = number === 0 ? "Original photo" : `Picture ${number}`;
  });
  task.previews = await Promise.all(loaded.map((picture, number) => previewOf(picture, blobs[number])));
  task.pictures = loaded;
}

export function freePictures(task) {
  task.urls?.forEach((url) => URL.revokeObjectURL(url));
  task.urls = task.pictures = task.previews = undefined;
}
