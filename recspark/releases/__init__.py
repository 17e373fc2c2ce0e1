"""Releases: an index, its model and all that they were made from, under one id that can be made active and taken back."""
