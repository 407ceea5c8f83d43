"""Level-triggered loops: observe, render, apply, report. Knows the verbs, and neither HTTP nor kopf."""
