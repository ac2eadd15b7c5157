"""Speed and memory, printed as ratios against something measured in the same run: `make bench`."""
