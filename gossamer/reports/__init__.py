"""What a person reads: every function here takes values and draws them."""
