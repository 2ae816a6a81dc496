"""Learning inside a form: what was compressed goes on training, every factor of it."""
