"""The commands: each module is one, except `options`, `target` and `report`, which they share."""
