"""Mel spectrogram in, sound out: one architecture per file."""
