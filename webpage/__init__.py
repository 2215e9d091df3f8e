"""The page of `app.py`: its tabs, what they ask of the models, and how sound reaches the browser."""
