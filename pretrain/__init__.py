"""Self-supervised pretraining: everything up to an exported backbone."""

__version__ = "0.1.0"
