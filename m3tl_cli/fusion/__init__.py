"""Several features in, one out: the multi-modal embedding layer."""
