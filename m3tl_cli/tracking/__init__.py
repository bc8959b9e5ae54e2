"""Where metrics and artefacts go beside the run folder."""
