"""Data sets prepared once: read, downloaded, generated, proposed, packed, checked."""
