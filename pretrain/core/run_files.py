"""Names of what every run of training has in its folder."""

CONFIG = "config.yaml"
RECORD = "run.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
