"""Hydra config groups of m3tl; a package only so that Hydra finds them in a wheel."""
