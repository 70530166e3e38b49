"""Labels of images: names, label files, conditions."""
