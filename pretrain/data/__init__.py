"""From files to batches of views: readers, index, sampler, views, augmentation."""
