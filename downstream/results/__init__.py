"""What was measured: result files, published numbers, and the tables made of them."""
