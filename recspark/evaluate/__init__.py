"""Measures recommendations against held-out items; knows neither engines nor models, so it is an independent oracle."""
