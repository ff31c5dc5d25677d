"""Pretraining methods: one file each, or a folder where a method has parts."""
