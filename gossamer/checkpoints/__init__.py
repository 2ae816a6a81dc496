"""Open and save: expressions as JSON, leaves as safetensors, a history of what was done; never a pickle."""
