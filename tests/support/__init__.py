"""What tests share: small models, data, servers and processes."""
