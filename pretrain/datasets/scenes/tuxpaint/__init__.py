"""Photographs of objects and backgrounds from Debian packages of Tux Paint and desktops."""
