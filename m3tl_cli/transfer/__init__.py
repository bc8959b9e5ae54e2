"""Transfer: where encoders start from, and what moves on from stage to stage."""
