"""What others are given of a run: a model card, and the way to the Hugging Face hub."""
