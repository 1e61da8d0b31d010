"""The four file formats of pictures, and their colours. `screening.images` is the way in; nothing else imports these.

Each format's module has `open_file`, which reads the header and hands out an `Opened`. Pillow decodes the pixels. What
is written here is what Pillow leaves out: whether the compressed data are whole, colours, and PNG's transparency.
"""
