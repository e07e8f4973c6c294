"""The broker: the one that the settings name, or Endmark's own server, started and ended as it is needed."""
