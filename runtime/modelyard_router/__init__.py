"""What runs beside Envoy in a router pod."""
