"""Where repositories come from: one host a file, each turning its listing into `Repository`."""
