"""Which tests start first, and which belong to the quick ones."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent

LONGEST = ("slurm/test_cluster_", "slurm/test_pipeline", "downstream/detection/", "pretrain/test_")
"""How the names of the slowest files begin: started first, so that no worker ends up alone."""


QUICK = {
    *("test_hcl", "test_bad_input", "test_locks", "test_settings", "test_config"),
    "test_monitoring",
    *("test_index", "test_sampler", "test_views", "test_augment", "test_decode", "test_batches"),
    *("test_coco_reader", "test_source", "test_scenes_compose", "test_proposal_filters"),
    *("test_poincare_golden", "test_poincare_oracles", "test_hcl_golden", "test_dense_golden"),
    *("test_moco_hcl", "test_byol", "test_orl", "test_densecl", "test_queue", "test_networks"),
    *("test_knn_vote", "test_correspond_files", "test_checkpoint", "test_export"),
    *("test_recall", "test_measures", "test_finetune_step", "test_intervals", "test_evaluate"),
    *("test_protocol_configs", "test_triplet_weights", "test_comparison"),
    *("test_graph", "test_commands", "test_presets_and_explain"),
}
"""Files of ``make test-quick``: some of every package."""


def place(file: Path) -> int:
    """Where a file comes in the order; equal ones stay as they were."""
    name = file.relative_to(TESTS).as_posix()
    found = (number for number, start in enumerate(LONGEST) if name.startswith(start))
    return next(found, len(LONGEST))
