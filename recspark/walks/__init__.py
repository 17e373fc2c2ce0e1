"""Second-order random walks over the item graph: counter-based random numbers, alias tables, kernel, Spark modes."""
