"""What the runtime tells about itself: metrics now, drift later."""
