"""The live page: jobs, their rows and their workers in a browser; needs the extra `serve`."""
