"""Sound and its pictures: files, mel spectrograms, mu-law."""
