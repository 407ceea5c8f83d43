"""Pure arithmetic of experiments: buckets, and later statistics and decisions."""
