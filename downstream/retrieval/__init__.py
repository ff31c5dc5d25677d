"""Retrieval: embeddings of object crops, exact search, Recall@K."""
