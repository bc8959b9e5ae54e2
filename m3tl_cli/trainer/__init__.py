"""The one training loop, its device, its checkpoints. It knows no method by name and prints nothing."""
