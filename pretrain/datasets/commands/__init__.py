"""Subcommands of ``hcl data``: one module each, with ``main(argv) -> int``."""
