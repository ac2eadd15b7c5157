"""What becomes of a learner's rows: pure functions on rows, no I/O. One file per subject, named by it."""
