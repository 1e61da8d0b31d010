"""The segmenters, one module each; the table is in `trainer.data.compose.segmenter`."""
