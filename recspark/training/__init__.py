"""Learns vectors from pinned Delta tables: lanes of sequences in, checkpoints and embeddings out.

walks | sessions -> data (lanes) -> cpu_kernel or torch (models, losses, optim) -> checkpoint -> export
"""
