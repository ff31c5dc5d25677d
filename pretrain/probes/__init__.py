"""What watches a run while it trains, without changing what it computes."""
