"""Level-triggered loops: observe, render, apply, report. Knows the verbs, and nothing of HTTP."""
