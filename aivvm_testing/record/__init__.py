"""The taps: ways from a live stream into a recording. Each tees, redacts before anything is written, and never
delays, changes or swallows what the reader gets."""
