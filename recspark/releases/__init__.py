"""Releases: an index, its model and all they were made from under one id, which can be made active and taken back."""
