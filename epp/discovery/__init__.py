"""Who exists: static, file, DNS; xds serves EDS to Envoy from the pool."""
