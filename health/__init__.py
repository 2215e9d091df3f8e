"""What doctor.py is made of: checks of the environment and of a data set, and the report of them."""
