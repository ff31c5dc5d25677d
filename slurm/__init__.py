"""Several commands as one piece of work: a graph of steps, run where it stands or submitted."""
