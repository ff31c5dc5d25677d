"""Figures and pages: one look, one template environment, pictures as data URIs."""
