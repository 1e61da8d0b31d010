/**
 * The view that all panes share: how far it is zoomed in, and which point of the pictures is in the middle.
 *
 * The point is in normalised coordinates (0 to 1 over a picture's width and height), so that pictures of different sizes
 * show the same place. Every pane is placed from this one state; rounding errors cannot add up between panes.
 */

const MAX_SCALE = 16;
export const FIT = { scale: 1, x: 0.5, y: 0.5 };

const between = (low, value, high) => Math.min(Math.max(value, low), high);

function clamped({ scale, x, y }) {
  const half = 0.5 / scale;
  return { scale, x: between(half, x, 1 - half), y: between(half, y, 1 - half) };
}

/** Zoom by `factor`; `dx` and `dy` are the fixed point's distance from the middle, in fractions of the fitted picture. */
export function zoomed(view, factor, dx = 0, dy = 0) {
  const scale = between(1, view.scale * factor, MAX_SCALE);
  const shift = 1 / view.scale - 1 / scale;
  return clamped({ scale, x: view.x + dx * shift, y: view.y + dy * shift });
}

/** Move the pictures by a distance in fractions of the fitted picture. */
export function moved(view, dx, dy) {
  return clamped({ ...view, x: view.x - dx / view.scale, y: view.y - dy / view.scale });
}

/** Size and place of a picture in its pane; `size` is that of the fitted picture, without zoom. */
export function placed(view, pane, picture) {
  const fit = Math.min(pane.width / picture.width, pane.height / picture.height);
  const size = { width: picture.width * fit, height: picture.height * fit };
  return {
    size,
    factor: fit * view.scale,
    left: pane.width / 2 - view.x * size.width * view.scale,
    top: pane.height / 2 - view.y * size.height * view.scale,
  };
}
