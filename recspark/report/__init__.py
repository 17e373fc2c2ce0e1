"""What a run did, for people: counts that add up, metrics beside the baselines, as text, JSON and one HTML page."""
