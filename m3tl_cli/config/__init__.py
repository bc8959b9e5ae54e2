"""What a config may say: schema, static checks, and where configs are found. Imports neither torch nor Hydra."""
