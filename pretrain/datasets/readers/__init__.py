"""Readers: what people have on disk, into the index."""
