"""From item vectors to sharded faiss indexes, verified before they are read, searched as if they were one."""
