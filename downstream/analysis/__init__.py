"""Why one geometry retrieves better than another: hard negatives, hyperbolicity, norms, sweeps."""
