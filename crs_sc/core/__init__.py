"""What several rooms share: row blocks, group sums, ambient counts, checks, processes."""
