"""What is minimised; networks are handed in, never imported."""
