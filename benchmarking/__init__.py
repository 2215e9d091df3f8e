"""What benchmark.py is made of: the machine, the networks, a training step of every stage, synthesis."""
