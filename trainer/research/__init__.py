"""What makes and examines `models/tiny` and the method; nothing in here is needed to train a model for a shop."""
