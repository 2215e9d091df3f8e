"""The fast way through a trained token LM: one step of its transformer at a time, for many texts at once."""
