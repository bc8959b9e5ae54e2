"""Parts of the small config tree. Never imported: a config is checked without importing what it names."""
