"""What must not travel: files that hold secrets by their names, or by what stands in them."""
