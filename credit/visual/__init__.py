"""What a model's boxes, labels and judgements on images are worth: pure functions, no environment."""
