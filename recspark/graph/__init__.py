"""The item-item co-occurrence graph: cost plan, numba kernels, the one-shuffle Spark plan, and the graph as CSR."""
