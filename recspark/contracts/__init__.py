"""What the sides agree on: column and table names, schemas, stage keys, commit records, manifests, shard arithmetic.

Imports nothing but the standard library, numpy and pyarrow, so that every engine can read it.
"""
