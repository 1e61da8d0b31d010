"""What a checkpoint was trained on, as statistics of the features of its pictures."""
