"""Metric learning: fine-tuning with pairwise cross-entropy on the sphere, in the ball, or both."""
