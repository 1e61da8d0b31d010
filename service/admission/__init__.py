"""Admission control: how many requests run and wait (`admission`), and how slow an upload may be (`upload`)."""
