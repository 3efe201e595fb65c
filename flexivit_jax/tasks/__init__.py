"""What is learned: each task has init, loss and metrics for a backbone."""
