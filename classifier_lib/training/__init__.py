"""Training of the value model: the parts of `train_classifier.py`."""
