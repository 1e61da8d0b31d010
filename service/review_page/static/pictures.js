/** Downloads the five pictures of a task and decodes them, so that showing them later takes no time. */

import { download } from "./api.js";

async function decoded(url) {
  const picture = new Image();
  picture.decoding = "sync"; // the pictures appear in the same frame as the task
  picture.draggable = false;
  picture.src = url;
  await picture.decode();
  return picture;
}

/**
 * Load the pictures of a task into `task.pictures`: the original, pictures 1 to 4, and the original once more, which
 * `Panes.compare` lays over another picture.
 */
export async function loadPictures(task, priority) {
  const { original, pictures } = task.lease;
  const blobs = await Promise.all([original, ...pictures].map(({ url }) => download(url, priority)));
  task.urls = blobs.map((blob) => URL.createObjectURL(blob));
  const loaded = await Promise.all([...task.urls, task.urls[0]].map(decoded));
  loaded.slice(0, 5).forEach((picture, number) => {
    picture.alt = number === 0 ? "Original photo" : `Picture ${number}`;
  });
  task.pictures = loaded;
}

/** Decode again what the browser may have dropped while another task was shown. */
export function decodeAgain(task) {
  return Promise.allSettled(task.pictures.map((picture) => picture.decode()));
}

export function freePictures(task) {
  task.urls?.forEach((url) => URL.revokeObjectURL(url));
  task.urls = task.pictures = undefined;
}
