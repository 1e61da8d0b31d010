"""Opens picture files of the four supported formats. Only `screening.images` imports these modules.

The module of each format has a function `open_file`, which reads the header and returns an `Opened`. Pillow decodes the
pixels. These modules add what Pillow lacks: checks that the compressed data are complete, colour conversion, and
transparency in PNG.
"""
