"""Train and load the classifier that predicts the labels of images."""
