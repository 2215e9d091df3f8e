"""Alignments of text and recordings: TextGrids, reports, and others' alignments read as durations."""
