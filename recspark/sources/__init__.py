"""Where events come from: files, a Delta table, an edge list, or the built-in generator; mapped, filtered, counted."""
