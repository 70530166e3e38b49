"""The page in the browser: make pictures, look at runs, train."""
