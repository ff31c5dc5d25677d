"""What is done with a pretrained backbone: detection, retrieval, comparison."""
