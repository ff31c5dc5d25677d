"""One transfer: training, inference, result folder, seeds and processes."""
