"""How good a vocoder is: distances to the recording, words understood, likelihood, speed, and a report of them all."""
