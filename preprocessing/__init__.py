"""What preprocess_audio.py is made of: finding recordings, finding speech in them, writing clips, the report."""
