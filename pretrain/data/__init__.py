"""What runs each step, from an index to batches of views: sampler, loader, augmentation."""
