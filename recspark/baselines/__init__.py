"""Models without learned vectors that always stand beside the trained one, on the same users and items."""
