"""Several worker processes that serve as one: their supervisor, and what they tell each other."""
