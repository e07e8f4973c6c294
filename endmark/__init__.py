"""The import package: its rooms are links to the folders beside it; a wheel holds them inside."""
