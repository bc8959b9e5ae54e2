"""Where the head of a new task gets its start. A file per option."""
