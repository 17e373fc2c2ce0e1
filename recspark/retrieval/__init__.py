"""From vectors, histories and an index to recommendations: in batches for all users, or one query at a time."""
