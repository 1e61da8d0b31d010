"""The inpainters, one module each; the table is in `trainer.data.compose.inpainter`."""
