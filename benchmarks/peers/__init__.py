"""What the project is compared with; each peer has a virtual environment of its own, made from its ``.txt``."""
