"""Pages and tables of jobs and of the doctor: one set of templates, one stylesheet, one content policy."""
