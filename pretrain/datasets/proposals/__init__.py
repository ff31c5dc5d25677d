"""Boxes for images that have none: proposed, filtered, and written as an index of their own."""
