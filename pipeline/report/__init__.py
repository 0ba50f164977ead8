"""What a trained model does, shown to people."""
