"""Networks from the backbone's output to one task's output. A folder per kind of head, a file per network."""
