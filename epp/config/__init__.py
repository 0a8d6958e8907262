"""EndpointPickerConfig: schema, loading, watching. Errors name the file, the line and the key."""
