"""The leak audit: from pinned tables alone, that nothing held out has reached what was learned."""
