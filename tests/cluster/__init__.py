"""Several hosts, made of network namespaces, with real servers and faults between them."""
