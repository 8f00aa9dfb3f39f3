"""What rules leave room for, and which of them contradict one another."""
