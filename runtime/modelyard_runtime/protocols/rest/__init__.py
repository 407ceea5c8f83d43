"""REST by FastAPI: declares every route and the OpenAPI document. Imported when a request first needs it."""
