"""Starting Endmark's other processes: workers and fine-tunings, and the locks that keep them apart."""
