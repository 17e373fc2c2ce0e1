"""Tower models on the trainer: users to rows of scores, what they are compared with, their `Backend`, their result."""
