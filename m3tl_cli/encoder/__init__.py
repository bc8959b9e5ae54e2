"""One modality in, one feature out. A folder per kind of modality, a file per network."""
