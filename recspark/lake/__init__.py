"""Storage: Delta tables through Spark and through delta-rs, immutable folders, the state of a source, Java and jars."""
