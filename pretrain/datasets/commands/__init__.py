"""Subcommands of ``hcl data``: one module each, with a ``COMMAND``."""
