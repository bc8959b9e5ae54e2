"""Which tasks run through which networks, and how their features mix."""
