"""Public data sets as the project's input: events with splits and positions, or edge lists, in Parquet."""
