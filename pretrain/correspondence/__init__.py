"""ORL's second stage: which regions of which images show alike things (Xie et al. 2021)."""
